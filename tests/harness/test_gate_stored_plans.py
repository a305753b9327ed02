"""plan.json and records of a stored run may come from anywhere: what makes no sense is one message, and no verdict."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from synthetic import Scenario, write_run

from harness import cli
from harness.records import store
from harness.spec.gate_rules import GateConfig, GateRule, of_plan

SMALL = Scenario(observed=True, axes={"batch_size": [1], "block_length": [256], "num_steps": [8]})
HEAD = replace(SMALL, worker="2-b")
USAGE = 2


def refusal(tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any]) -> str:
    """The one message about a head whose plan.json has these keys otherwise."""
    base = write_run(tmp_path / "base", SMALL)
    head = write_run(tmp_path / "head", HEAD, plan_changes=changes)
    assert cli.main(["gate", "--base", str(base), "--head", str(head)]) == USAGE
    (line,) = capsys.readouterr().err.splitlines()
    return line


def rules(**changes: Any) -> dict[str, Any]:
    return {"rules": {"operations": {**asdict(GateRule(metric="torch_operations")), **changes}}}


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        (rules(where={"nofield": [1]}), "gate.rules.operations.where: 'nofield' is out of place"),
        (rules(where={"batch_size": 1}), "gate.rules.operations.where.batch_size: 1 is out of place"),
        (rules(test="foo"), "gate.rules.operations.test: 'foo' is out of place"),
        (rules(margin=-1.0), "gate.rules.operations.margin: -1.0 is out of place"),
        (rules(metric="no_metric"), "gate.rules.operations.metric"),
        ({"groups": [["nofield"]]}, "gate.groups: 'nofield' is out of place"),
        ({"inconclusive": "x\n::error::y"}, "gate.inconclusive: 'x\\n::error::y' is out of place"),
        ({"alpha": 5.0}, "gate.alpha: 5.0 is out of place"),
        ([1], "gate is '[1]', expected an object"),
        ({"a\n::error::x": 1}, "gate.a\\n::error::x is unknown"),
    ],
)
def test_a_stored_gate_is_checked_like_that_of_a_suite(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], gate: Any, said: str
) -> None:
    assert said in refusal(tmp_path, capsys, {"gate": gate})


@pytest.mark.parametrize("given", [None, {}, asdict(GateConfig())])
def test_an_older_plan_has_the_default_rules(given: Any) -> None:
    assert of_plan(given) == GateConfig()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"protocol": {"launches": 0}}, "protocol.launches is '0', expected a whole number from 1 to 10,000"),
        ({"protocol": {"launches": "many"}}, "protocol.launches is 'many'"),
        ({"protocol": {"launches": 10**9}}, "protocol.launches is '1000000000'"),
        ({"provenance": [1]}, "provenance is '[1]', expected an object"),
        ({"provenance": {"stack": 3}}, "provenance.stack is '3', expected an object"),
        ({"prompts": "x"}, "prompts is 'x', expected an object"),
    ],
)
def test_a_plan_of_the_wrong_kind_is_refused_where_it_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], said: str
) -> None:
    assert f"plan.json: {said}" in refusal(tmp_path, capsys, changes)


def in_rounds(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda record: [one.update(changes) for one in record["rounds"]]  # type: ignore[return-value]


def counting(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda record: record["counters"].update(changes)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (counting(torch_operations=10**400), "counters.'torch_operations' is no finite number"),
        (counting(torch_operations=float("nan")), "counters.'torch_operations' is no finite number"),
        (counting(torch_operations=-1), "counters.'torch_operations' is no finite number"),
        (counting(torch_operations=10**31), "counters.'torch_operations' is no finite number"),
        (in_rounds(passes={"denoise": -1}), "passes is \"{'denoise': -1}\", expected dict[str, int of at least 0]"),
        (in_rounds(raw_tokens=10**400), "raw_tokens is"),
        (in_rounds(useful_tokens=[-1]), "useful_tokens is"),
        (in_rounds(step_s=[-1.0]), "step_s has -1.0 to -1.0, which no clock gives"),
        (counting(output_hashes=5), "counters.output_hashes is '5', expected a list"),
        (counting(output_ids="ab"), "counters.output_ids is 'ab', expected a list"),
        (in_rounds(wall_s=1e308), "wall_s is 1e+308, which no clock gives"),
        (in_rounds(wall_s=-1.0), "wall_s is -1.0, which no clock gives"),
        (in_rounds(cpu_s=5e-324), "cpu_s is 5e-324, which no clock gives"),
    ],
)
def test_a_record_with_a_number_that_nothing_measures_is_skipped_with_its_reason_and_missing_in_the_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[dict[str, Any]], None], said: str
) -> None:
    base, head = write_run(tmp_path / "base", SMALL), write_run(tmp_path / "head", HEAD)
    (path,) = head.glob("records-*.jsonl")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        damage(record)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    warnings = store.read_records(head).warnings
    assert len(warnings) == len(records)
    assert all(said in warning for warning in warnings)
    assert cli.main(["gate", "--base", str(base), "--head", str(head)]) == 3
    captured = capsys.readouterr()
    assert "MISSING" in captured.out
    assert not captured.err
