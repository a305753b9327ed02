"""gate, compare and baseline from the command line: exit codes, messages, files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gate_jobs import Side, write_job
from synthetic import ENVIRONMENT, Scenario, fill_run, plan_of, records_of, write_run

from harness import cli
from harness.records.types import Cell, Record

AXES: dict[str, list[Any]] = {"batch_size": [1, 4], "block_length": [256], "num_steps": [8]}
SMALL = Scenario(observed=True, axes=AXES)


def stored(
    results_dir: Path, name: str, change: Callable[[Record], Record] = lambda record: record, **fields: Any
) -> str:
    """A run's name on the command line."""
    scenario = replace(SMALL, **fields)
    plan = plan_of(scenario)
    run_dir = results_dir / "made_up" / name
    run_dir.mkdir(parents=True)
    fill_run(run_dir, plan, [change(record) for record in records_of(scenario, plan, name)])
    return f"made_up/{name}"


def operations(count: int) -> Callable[[Record], Record]:
    return lambda record: replace(record, counters={**record.counters, "torch_operations": count})


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "results"


def test_stored_runs_are_judged_by_their_counters(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, same, worse = (
        stored(results, name, operations(count)) for name, count in (("a", 100), ("b", 100), ("c", 101))
    )
    assert cli.main(["gate", "--base", base, "--head", same]) == 0
    assert capsys.readouterr().out.startswith("GREEN")
    assert cli.main(["gate", "--base", base, "--head", worse]) == 1
    assert capsys.readouterr().out.startswith("RED")


def test_times_of_stored_runs_are_shown_and_never_red(results: Path) -> None:
    base, slow = stored(results, "a"), stored(results, "b", pass_s=lambda cell: 1.0)
    assert cli.main(["gate", "--base", base, "--head", slow, "-q", "-o", "out"]) == 0
    verdict = json.loads(Path("out/verdict.json").read_text())
    times = [rule for cell in verdict["cells"] for rule in cell["rules"] if rule["test"] == "time"]
    assert times
    assert {rule["state"] for rule in times} == {"REPORTED"}
    assert all(rule["ratio"] > 2 for rule in times)


def test_a_cell_that_one_run_lacks_is_missing_or_new(results: Path) -> None:
    few, many = stored(results, "a", axes={**AXES, "batch_size": [1]}), stored(results, "b")
    assert cli.main(["gate", "--base", many, "--head", few, "-q"]) == 3
    assert cli.main(["gate", "--base", few, "--head", many, "-q"]) == 0


def test_runs_without_a_common_cell_are_a_usage_error(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, other = stored(results, "a"), stored(results, "b", axes={**AXES, "batch_size": [2]})
    assert cli.main(["gate", "--base", base, "--head", other]) == 2
    assert "no cell in common" in capsys.readouterr().err


def test_a_job_is_judged_again_from_its_folder(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow = Side(scenario=replace(SMALL, wobble=0.001), slowdown=lambda cell: 1.1)
    job_dir = write_job(results / "made_up" / "gates" / "x", Side(scenario=replace(SMALL, wobble=0.001)), slow)
    assert cli.main(["gate", "--base", str(job_dir), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["counts"] == {"REGRESSED": 4}
    assert (job_dir / "junit.xml").is_file()
    assert (job_dir / "baseline-candidate.json").is_file()


def test_inconclusive_fail_is_exit_code_5(results: Path) -> None:
    loud = Side(scenario=SMALL, launch=lambda stage, pair: [1.0, 1.3, 0.8, 1.2, 0.9][pair % 5])
    job_dir = str(write_job(results / "job", Side(scenario=SMALL), loud))
    assert cli.main(["gate", "--base", job_dir, "-q"]) == 0
    assert cli.main(["gate", "--base", job_dir, "-q", "--inconclusive=fail"]) == 5


def test_no_baseline_is_exit_code_4_and_an_approved_one_is_used(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, worse = stored(results, "a", operations(100)), stored(results, "b", operations(101))
    assert cli.main(["gate", "--base", "baseline", "--head", first]) == 4
    assert "NO-BASELINE" in capsys.readouterr().out
    assert cli.main(["baseline", "approve", first, "--reason", "the first one"]) == 0
    assert cli.main(["gate", "--base", "baseline", "--head", first, "-q"]) == 0
    assert cli.main(["gate", "--base", "baseline", "--head", worse, "-q"]) == 1


@pytest.mark.parametrize("launches", [1, 4, 5])
def test_an_approved_time_is_compared_from_five_launches_on_and_a_counter_from_the_first(
    results: Path, launches: int, capsys: pytest.CaptureFixture[str]
) -> None:
    few, told = launches < 5, "not compared"
    first = stored(results, "a", operations(100), launches=launches)
    head = stored(results, "b", operations(101), launches=launches, pass_s=lambda cell: 1.0)
    assert cli.main(["baseline", "approve", first, "--reason", "the first one"]) == 0
    *rows, summary, _ = capsys.readouterr().out.splitlines()
    assert [row for row in rows if told in row] == ([row for row in rows if "_time " in row] if few else [])
    assert (told in summary) == few
    assert cli.main(["baseline", "list"]) == 0
    assert (told in capsys.readouterr().out) == few
    assert cli.main(["baseline", "list", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert {one["num_launches"] for one in listed["too_few_launches"]} == ({launches} if few else set())
    assert cli.main(["gate", "--base", "baseline", "--head", head, "-o", "out"]) == 1, "the counter is red in any case"
    assert ("are not compared: they were approved from fewer than 5 launches" in capsys.readouterr().out) == few
    rules = [rule for cell in json.loads(Path("out/verdict.json").read_text())["cells"] for rule in cell["rules"]]
    assert {rule["state"] for rule in rules if rule["rule"] == "operations"} == {"REGRESSED"}
    times = [rule for rule in rules if rule["test"] == "time"]
    assert times
    assert {rule["state"] for rule in times} == {"REPORTED"}
    assert all((rule["ratio"] is None) == (f"{launches} of the 5 launches" in rule["reason"]) == few for rule in times)
    assert all(rule["base"] and rule["head"] for rule in times), "both are listed"


def test_what_is_worse_is_approved_with_an_end_alone(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, worse = stored(results, "a", operations(100)), stored(results, "b", operations(101))
    approve = ["baseline", "approve", worse, "--reason", "a new sampler"]
    assert cli.main(["baseline", "approve", first, "--reason", "the first one", "-q"]) == 0
    assert cli.main(approve) == 2
    assert "--until" in capsys.readouterr().err
    assert cli.main([*approve, "--until", "2099-01-31"]) == 0
    assert "100" in capsys.readouterr().out
    assert cli.main(["gate", "--base", "baseline", "--head", worse, "-q"]) == 0
    assert cli.main(["gate", "--base", first, "--head", worse, "-q"]) == 0, "accepted against the old run as well"
    again = stored(results, "c", operations(102))
    for base in (worse, first):
        assert cli.main(["gate", "--base", base, "--head", again, "-q"]) == 1, "one step was approved, and no licence"
    assert cli.main(["baseline", "list"]) == 0
    assert "accepted: operations" in capsys.readouterr().out
    assert cli.main(["baseline", "expire", "--cells", "BD", "AR"]) == 0
    assert cli.main(["gate", "--base", first, "--head", worse, "-q"]) == 1


def test_a_candidate_file_alone_can_be_approved(results: Path) -> None:
    job_dir = write_job(results / "job", Side(scenario=SMALL), Side(scenario=SMALL))
    assert cli.main(["gate", "--base", str(job_dir), "-q"]) == 0
    (results.parent / "artifact.json").write_bytes((job_dir / "baseline-candidate.json").read_bytes())
    shutil.rmtree(job_dir)
    assert cli.main(["baseline", "approve", "artifact.json", "--reason", "from CI", "-q"]) == 0


def test_nothing_but_the_baseline_verb_writes_below_baselines(results: Path) -> None:
    base, head = stored(results, "a"), stored(results, "b")
    for words in (["gate", "--base", base, "--head", head], ["gate", "--base", "baseline", "--head", head]):
        cli.main([*words, "-q"])
    cli.main(["compare", base, head, "-q"])
    assert not (results / "baselines").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gate", "--base", "nowhere"], "nowhere"),
        (["gate", "--base", "baseline"], "--head"),
        (["gate", "--base", "made_up/a", "--head", "made_up/a"], "the base itself"),
        (["compare", "made_up/a"], "two runs"),
        (["compare", "made_up/a", "made_up/b", "--metric", "useful_tok_"], "useful_tok_s"),
        (["baseline", "approve", "made_up/a"], "--reason"),
        (["baseline", "approve", "made_up/a", "--reason", "x", "--until", "soon"], "--until"),
        (["baseline", "approve", "made_up/a", "--reason", "x", "--cells", "nothing like it"], "--cells"),
        (["baseline", "approve", "made_up/a", "--reason", "x", "--cells", ""], "--cells: an empty name"),
        (["baseline", "approve", "made_up/a", "--reason", "x", "--cells", "b1", "--cells", "b"], "'b' names no cell"),
        (["baseline", "expire"], "no baseline"),
    ],
)
def test_a_wrong_command_gets_one_message(
    results: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    stored(results, "a")
    stored(results, "b")
    assert cli.main(words) == 2
    stderr = capsys.readouterr().err
    assert message in stderr
    assert stderr.startswith("error: ")
    assert len(stderr.splitlines()) <= 5


def test_compare_shows_ratios_with_intervals_and_judges_nothing(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def slower(cell: Cell) -> float:
        return 0.011 * (2 if cell.batch_size == 4 else 1)

    base = stored(results, "a", operations(100), launches=3, pass_s=lambda cell: 0.011)
    head = stored(results, "b", operations(90), launches=3, pass_s=slower)
    assert cli.main(["compare", base, head, "--json", "--metric", "request_s"]) == 0
    changes = json.loads(capsys.readouterr().out)["changes"]
    by_metric = {(one["label"][:5], one["metric"]): one for one in changes if "b4" in one["label"]}
    doubled = by_metric["BD L2", "request_s"]
    assert doubled["ratio"] == pytest.approx(2, rel=0.1)
    assert doubled["low"] < doubled["ratio"] < doubled["high"]
    assert doubled["basis"] == "over launches"
    assert by_metric["BD L2", "torch_operations"]["basis"] == "exact"
    assert cli.main(["compare", base, head]) == 0
    assert "this is no verdict" in capsys.readouterr().out


def test_compare_of_strangers_has_nothing_to_show(results: Path) -> None:
    base, other = stored(results, "a"), stored(results, "b", axes={**AXES, "batch_size": [2]})
    assert cli.main(["compare", base, other, "-q"]) == 4


def test_the_same_files_give_the_same_bytes_elsewhere_without_torch_in_5_seconds(tmp_path: Path) -> None:
    """200 cells, three pairs of launches and a few confirmed: judged twice, once in a copy and another process. Of
    processor time: what else the machine does is none of the gate's.
    """
    axes = {
        "batch_size": [1, 2, 3, 4, 5, 6, 7, 8],
        "block_length": [32, 64, 128, 256],
        "num_steps": [2, 4, 8, 16, 32, 48],
    }
    wide = replace(SMALL, axes={**axes, "output_tokens": [256]}, rounds=5)
    slow = Side(scenario=wide, slowdown=lambda cell: 1.08 if cell.batch_size == 3 and cell.block_length == 64 else 1.0)
    job_dir = write_job(tmp_path / "here", Side(scenario=wide), slow)
    shutil.copytree(job_dir, tmp_path / "there")
    code = (
        "import sys, time, harness.cli\n"
        "begun = time.process_time()\n"
        "code = harness.cli.main(['gate', '--base', sys.argv[1], '-q'])\n"
        "print(code, time.process_time() - begun, sorted({'torch', 'transformers', 'triton'} & set(sys.modules)))\n"
    )
    found = []
    for name in ("here", "there"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / name)], capture_output=True, text=True, cwd=tmp_path, check=True
        )
        exit_code, seconds, heavy = done.stdout.split(maxsplit=2)
        assert (exit_code, heavy.strip()) == ("1", "[]")
        found.append((tmp_path / name / "verdict.json").read_bytes())
        assert float(seconds) < 5 * _slowness()
    assert found[0] == found[1]
    assert json.loads(found[0])["counts"]["REGRESSED"] == 6


def _slowness() -> float:
    """How many times slower than half a second this machine counts to some number: it may be busy."""
    begun = time.perf_counter()
    sum(i * i for i in range(4_000_000))
    return max(1.0, (time.perf_counter() - begun) / 0.5)


def test_a_synthetic_run_of_the_other_tests_can_be_gated_too(results: Path) -> None:
    run = write_run(results, Scenario(name="made_up", axes=AXES))
    assert ENVIRONMENT.environment_id in str(list(run.iterdir()))
    assert cli.main(["gate", "--base", "baseline", "--head", "made_up", "-q"]) == 4
