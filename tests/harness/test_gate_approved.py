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
from harness.spec.gate_rules import GateConfig, GateRule

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


def test_a_fall_of_quality_to_nothing_that_is_approved_is_green_between_two_runs(results: Path) -> None:
    axes = {**AXES, "prompt_set": ["code"]}
    good, bad = (
        stored(results, name, axes=axes, eos="respect", rounds=12, quality=lambda cell, share=share: share)
        for name, share in (("a", 1.0), ("b", 0.0))
    )
    assert cli.main(["gate", "--base", good, "--head", bad, "-q"]) == 1
    assert cli.main([*APPROVE, good, "--reason", "the first one", "-q"]) == 0
    assert cli.main([*APPROVE, bad, "--reason", "an empty model", "--until", "2099-01-31", "-q"]) == 0
    assert cli.main(["gate", "--base", good, "--head", bad, "-q", "-o", "out"]) == 0
    assert set(states_of("out").values()) == {"ACCEPTED"}


@pytest.mark.parametrize(
    ("status", "state", "code"),
    [("error", "BROKEN", 3), ("timeout", "BROKEN", 3), ("absent", "MISSING", 3), ("oom", "NEW", 0), ("ok", "NEW", 0)],
)
def test_a_cell_that_the_baseline_does_not_have_is_new_and_red_where_it_fails_or_was_not_measured(
    results: Path, status: str, state: str, code: int
) -> None:
    first = stored(results, "a")
    wider = {**AXES, "batch_size": [1, 4, 8]}
    head = stored(results, "b", axes=wider, outcome=lambda cell, _: status if cell.batch_size == 8 else "ok")
    assert cli.main([*APPROVE, first, "--reason", "the first one", "-q"]) == 0
    assert cli.main(["gate", "--base", "baseline", "--head", head, "-q", "-o", "out"]) == code
    new = {state for label, state in states_of("out").items() if " b8 " in label}
    assert new == {state}


@pytest.mark.parametrize(
    ("change", "state", "code"),
    [
        ({"enabled": False}, "REPORTED", 0),
        ({"where": {"decoding": []}}, "REPORTED", 0),
        ({"metric": "torch_flops"}, "INCOMPARABLE", 4),
    ],
)
def test_a_value_whose_rule_the_suite_gave_up_is_shown_and_one_whose_rule_has_another_metric_is_incomparable(
    results: Path, change: dict[str, Any], state: str, code: int
) -> None:
    first = stored(results, "a", operations(100))
    rule = {**asdict(GateRule(metric="torch_operations")), **change}
    gate = {"rules": {**asdict(GateConfig())["rules"], "operations": rule}}
    head = elsewhere(results, "b", operations(100), gate=gate)
    assert cli.main([*APPROVE, first, "--reason", "the first one", "-q"]) == 0
    assert cli.main(["gate", "--base", "baseline", "--head", head, "-q", "-o", "out"]) == code
    states = {
        rule["state"]
        for cell in json.loads(Path("out/verdict.json").read_text())["cells"]
        for rule in cell["rules"]
        if rule["rule"] == "operations"
    }
    assert states == {state}


def test_an_approved_value_that_head_lost_is_missing(results: Path) -> None:
    first, head = stored(results, "a", operations(100)), stored(results, "b")
    assert cli.main([*APPROVE, first, "--reason", "the first one", "-q"]) == 0
    assert cli.main(["gate", "--base", "baseline", "--head", head, "-q", "-o", "out"]) == 3
    assert "MISSING" in states_of("out").values()


@pytest.mark.parametrize(("eos", "is_said"), [("respect", True), ("ignore", False)])
def test_a_changed_count_that_rounding_may_have_changed_says_so_against_a_baseline(
    results: Path, eos: str, is_said: bool
) -> None:
    first, head = stored(results, "a", operations(100), eos=eos), stored(results, "b", operations(101), eos=eos)
    assert cli.main([*APPROVE, first, "--reason", "the first one", "-q"]) == 0
    assert cli.main(["gate", "--base", "baseline", "--head", head, "-q", "-o", "out"]) == 1
    assert ("rounding changed" in Path("out/verdict.json").read_text()) == is_said


def test_a_verdict_against_a_baseline_says_that_outputs_are_not_compared(results: Path) -> None:
    first = stored(results, "a")
    assert cli.main([*APPROVE, first, "--reason", "the first one", "-q"]) == 0
    assert cli.main(["gate", "--base", "baseline", "--head", first, "-q", "-o", "out"]) == 0
    warnings = json.loads(Path("out/verdict.json").read_text())["warnings"]
    assert any("outputs are not compared" in one for one in warnings)
