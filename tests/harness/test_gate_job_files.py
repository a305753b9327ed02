"""A job's file may come from anywhere: whatever is wrong with it is one message, and nothing outside is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from gate_jobs import Side, write_job
from synthetic import Scenario

from harness import cli
from harness.analysis import gate
from harness.records import job as jobs
from harness.records.store import StoreError
from harness.records.texts import harmless
from harness.spec.gate_rules import GateConfig
from harness.spec.suite import compose

ROOT = Path(__file__).resolve().parents[2]
SMALL = Side(scenario=Scenario(axes={"batch_size": [1], "block_length": [256], "num_steps": [8]}))


def in_first(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["launches"][0].update(changes)


def refusal_of(damage: Callable[[dict[str, Any]], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What the gate says of a job whose file was damaged."""
    path = write_job(tmp_path, SMALL, SMALL) / jobs.JOB_FILE
    document = json.loads(path.read_text())
    damage(document)
    path.write_text(json.dumps(document))
    assert cli.main(["gate", "--base", str(path.parent)]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "damage",
    [
        in_first(run_dir="../../elsewhere"),
        in_first(run_dir="/etc"),
        in_first(run_dir="head/\0"),
        in_first(run_dir="nowhere"),
        in_first(side="left"),
        in_first(stage="warmup"),
        in_first(pair=-1),
        in_first(pair=10**9),
        in_first(pair="0"),
        in_first(dropped_cells=["a"]),
        in_first(more=1),
        lambda document: document.pop("seed"),
        lambda document: document.update(launches=[]),
        lambda document: document.update(job_schema=99),
        lambda document: document.update(base=None),
    ],
)
def test_a_damaged_job_is_refused_with_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[dict[str, Any]], None]
) -> None:
    stderr = refusal_of(damage, tmp_path, capsys)
    assert stderr.startswith("error: ")
    assert len(stderr.splitlines()) <= 5


def one_folder(document: dict[str, Any]) -> None:
    document["launches"][1]["run_dir"] = f"./{document['launches'][0]['run_dir']}"


def one_place(document: dict[str, Any]) -> None:
    place = {key: document["launches"][0][key] for key in ("stage", "pair", "side", "attempt")}
    document["launches"][2].update(place)


@pytest.mark.parametrize(
    ("damage", "said"), [(one_folder, "two launches have one folder"), (one_place, "two launches have one stage, pair")]
)
def test_a_launch_counts_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[dict[str, Any]], None], said: str
) -> None:
    assert said in refusal_of(damage, tmp_path, capsys)


@pytest.mark.parametrize(
    ("copied", "over"), [("base/screen-00", "head/screen-00"), ("head/screen-00", "head/screen-01")]
)
def test_a_copy_of_a_launch_is_no_launch(tmp_path: Path, copied: str, over: str) -> None:
    job_dir = write_job(tmp_path, SMALL, SMALL)
    shutil.rmtree(job_dir / over)
    shutil.copytree(job_dir / copied, job_dir / over)
    with pytest.raises(StoreError, match="is a copy of launch 0 in "):
        gate.judge(job_dir)


def of_environment(**changes: Any) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        document = json.loads(path.read_text())
        path.write_text(json.dumps({**document, **changes}))

    return apply


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (Path.unlink, "is absent, so nobody knows what machine the run is of"),
        (of_environment(identity={"cpu": "another"}), "was altered"),
        (of_environment(stack={}), "was altered"),
        (of_environment(identity={"cpu": float("nan")}), "was altered"),
        (of_environment(identity=[]), "is not an environment file"),
        (of_environment(circumstance=None), "is not an environment file"),
        (of_environment(circumstance=json.loads('{"a": ' * 40 + "1" + "}" * 40)), "is not an environment file"),
        (of_environment(more={}), "is not an environment file"),
    ],
)
def test_a_launch_that_does_not_say_where_it_was_measured_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], said: str
) -> None:
    job_dir = write_job(tmp_path, SMALL, SMALL)
    for path in job_dir.glob("*/screen-01/environment-*.json"):  # of both sides alike
        damage(path)
    assert cli.main(["gate", "--base", str(job_dir)]) == 2
    stderr = capsys.readouterr().err
    assert said in stderr
    assert len(stderr.splitlines()) == 1


COMMAND = "no\n::error::owned\n\x1b[31m##[error]z"


@pytest.mark.parametrize(
    "damage",
    [
        in_first(run_dir=COMMAND),
        in_first(side=COMMAND),
        in_first(dropped_cells={COMMAND: 3}),
        lambda document: document.update({COMMAND: 1}),
    ],
)
def test_no_text_of_a_job_is_a_command_or_an_escape_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[dict[str, Any]], None]
) -> None:
    (line,) = refusal_of(damage, tmp_path, capsys).splitlines()
    assert line.isprintable()
    assert "##[" not in line


def test_a_message_keeps_its_lines_and_nothing_that_a_runner_would_obey() -> None:
    assert harmless("a: b::c\n  ::error::d\n\x1b[31m##[error]e\n:f") == "a: b::c\n  : :error::d\n [31m## [error]e\n:f"


def test_a_job_of_whose_head_no_launch_ended_well_says_so(tmp_path: Path) -> None:
    dropped = Side(scenario=SMALL.scenario)
    job_dir = write_job(tmp_path, SMALL, dropped)
    job = json.loads((job_dir / jobs.JOB_FILE).read_text())
    for launch in job["launches"]:
        launch["dropped"] = "interrupted" if launch["side"] == "head" else None
    (job_dir / jobs.JOB_FILE).write_text(json.dumps(job))
    with pytest.raises(StoreError, match="no launch of head ended well"):
        gate.judge(job_dir)


def test_before_the_first_launch_the_plan_is_the_default(tmp_path: Path) -> None:
    nobody = jobs.Revision(revision="x", commit=None, dirty=None)
    jobs.write(tmp_path, jobs.Job(job_schema=1, suite="x", seed=0, base=nobody, head=nobody, launches=()))
    plan = gate.plan_pairs(tmp_path)
    assert (plan.screen, plan.confirm) == (GateConfig().screen_pairs, GateConfig().confirm_pairs)


def test_the_example_of_the_documentation_is_a_suite(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "gate.md").read_text(encoding="utf-8")
    block = text.split("```yaml\n")[1].split("```")[0]
    (tmp_path / "suite").mkdir()
    start = "# @package _global_\ndefaults: [{override /device: cpu}, {override /protocol: quick}]\n"
    (tmp_path / "suite" / "mine.yaml").write_text(start + block)
    rules = compose(["suite=mine", *_TINY], config_dir=str(tmp_path), backends=["reference"]).gate.rules
    for name, given in yaml.safe_load(block)["gate"]["rules"].items():
        for key, value in given.items():
            assert getattr(rules[name], key) == value


_TINY = ["axes.block_length=[32]", "axes.prompt_set=[mini_mix]", "axes.prompt_tokens=[48]", "axes.output_tokens=[32]"]


def test_the_documentation_names_every_state_and_every_verb() -> None:
    from harness.analysis.verdict import State

    text = (ROOT / "docs" / "gate.md").read_text(encoding="utf-8")
    assert not [state for state in State if state not in text]
