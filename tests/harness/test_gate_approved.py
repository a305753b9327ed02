"""Stored runs against approved values, from the command line: what is compared, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from synthetic import ENVIRONMENT, Scenario, fill_run, plan_of, records_of
from test_gate_verbs import AXES, operations, stored

from harness import cli
from harness.records.types import Environment, Record
from harness.spec.gate_rules import GateRule

APPROVE = ["baseline", "approve"]


def elsewhere(
    results: Path,
    name: str,
    change: Callable[[Record], Record] = lambda record: record,
    *,
    torch: str = "2.0",
    **plan: Any,
) -> str:
    """A run on another version of torch, or of another question. plan: keys of plan.json."""
    environment = Environment(
        identity=ENVIRONMENT.identity,
        stack={**ENVIRONMENT.stack, "packages": {"torch": torch}},
        circumstance=ENVIRONMENT.circumstance,
    )
    scenario = Scenario(observed=True, axes=AXES)
    run_dir = results / "made_up" / name
    run_dir.mkdir(parents=True)
    records = [
        replace(change(record), environment_id=environment.environment_id)
        for record in records_of(scenario, plan_of(scenario), name)
    ]
    fill_run(run_dir, plan_of(scenario), records, environment, **plan)
    return f"made_up/{name}"


def states_of(folder: str) -> dict[str, str]:
    """label -> state of verdict.json in the folder."""
    return {cell["label"]: cell["state"] for cell in json.loads((Path(folder) / "verdict.json").read_text())["cells"]}


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "results"


def test_a_run_in_which_every_cell_failed_is_nothing_to_approve(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = stored(results, "a", outcome=lambda cell, launch: "error")
    assert cli.main([*APPROVE, failed, "--reason", "all failed"]) == 4
    stderr = capsys.readouterr().err
    assert "nothing to approve" in stderr
    assert len(stderr.splitlines()) == 1
    assert not list(results.glob("baselines/*/*"))


def test_a_baseline_without_a_cell_of_head_is_a_usage_error(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, other = stored(results, "a"), stored(results, "b", axes={**AXES, "batch_size": [2]})
    assert cli.main([*APPROVE, first, "--reason", "the first one", "-q"]) == 0
    assert cli.main(["gate", "--base", "baseline", "--head", other]) == 2
    assert "no cell in common" in capsys.readouterr().err
    (path,) = results.glob("baselines/*/*.json")
    whole = path.read_text()
    path.write_text(whole[: whole.index('"values"')] + '"values": []\n}\n')
    assert cli.main(["gate", "--base", "baseline", "--head", first]) == 2
    assert "no cell in common (0 and 4 cells)" in capsys.readouterr().err


def test_a_value_is_compared_on_the_stack_of_its_own_approval_alone(results: Path) -> None:
    first, newer = stored(results, "a", operations(100)), elsewhere(results, "b", operations(100), torch="2.1")
    worse = elsewhere(results, "c", operations(110), torch="2.1")
    assert cli.main([*APPROVE, first, "--reason", "all on 2.0", "-q"]) == 0
    assert cli.main([*APPROVE, newer, "--reason", "one on 2.1", "--cells", "BD L256 s8 b4", "-q"]) == 0
    assert cli.main(["gate", "--base", "baseline", "--head", worse, "-q", "-o", "out"]) == 1
    states = states_of("out")
    assert [label for label, state in states.items() if state == "REGRESSED"] == ["BD L256 s8 b4 random 64->512"]
    assert sorted(states.values()) == ["INCOMPARABLE"] * 3 + ["REGRESSED"]
    assert "packages.torch (2.0, 2.1 on head)" in Path("out/verdict.json").read_text()
    declared = ["--declare", "packages.torch"]
    assert cli.main(["gate", "--base", "baseline", "--head", worse, "-q", "-o", "declared", *declared]) == 1
    assert set(states_of("declared").values()) == {"REGRESSED"}


OTHER_QUESTIONS: dict[str, dict[str, Any]] = {
    "seed": {"seed": 7},
    "weights": {"provenance": {"weights_hash": "other"}},
    "prompts": {"prompts": {"random": "other"}},
    "protocol.rounds": {"protocol": {"rounds": 9, "launches": 1}},
}


@pytest.mark.parametrize("key", sorted(OTHER_QUESTIONS))
def test_a_run_of_another_question_is_not_comparable_with_a_baseline(results: Path, key: str) -> None:
    first = elsewhere(results, "a", prompts={"random": "one"})
    other = elsewhere(results, "b", **{"prompts": {"random": "one"}, **OTHER_QUESTIONS[key]})
    assert cli.main([*APPROVE, first, "--reason", "the first one", "-q"]) == 0
    assert cli.main(["gate", "--base", "baseline", "--head", first, "-q"]) == 0
    assert cli.main(["gate", "--base", "baseline", "--head", other, "-q", "-o", "out", "--declare", "packages"]) == 4
    assert set(states_of("out").values()) == {"INCOMPARABLE"}
    assert key in Path("out/verdict.json").read_text()


def test_a_value_of_another_metric_is_not_compared(results: Path) -> None:
    first = stored(results, "a", operations(100))
    rules = {"operations": asdict(GateRule(metric="passes"))}
    other = elsewhere(results, "b", operations(100), gate={"rules": rules})
    assert cli.main([*APPROVE, first, "--reason", "the first one", "-q"]) == 0
    assert cli.main(["gate", "--base", "baseline", "--head", other, "-q", "-o", "out"]) == 4
    assert (
        "approved is torch_operations by exact, and the rule is one of passes" in Path("out/verdict.json").read_text()
    )


def test_a_baseline_of_more_launches_is_compared_with_a_run_of_one(results: Path) -> None:
    first, head = stored(results, "a", operations(100), launches=5), stored(results, "b", operations(101))
    assert cli.main([*APPROVE, first, "--reason", "the first one", "-q"]) == 0
    assert cli.main(["gate", "--base", "baseline", "--head", head, "-q"]) == 1


def test_a_verdict_against_a_baseline_says_that_outputs_are_not_compared(results: Path) -> None:
    first = stored(results, "a")
    assert cli.main([*APPROVE, first, "--reason", "the first one", "-q"]) == 0
    assert cli.main(["gate", "--base", "baseline", "--head", first, "-q", "-o", "out"]) == 0
    warnings = json.loads(Path("out/verdict.json").read_text())["warnings"]
    assert any("outputs are not compared" in one for one in warnings)
