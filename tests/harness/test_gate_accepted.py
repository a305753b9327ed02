"""What somebody approved is not red, and no licence for more of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from gate_jobs import Side, verdict_of
from synthetic import Scenario

from harness.analysis import gate
from harness.analysis.acceptance import MOST_WORSENING
from harness.analysis.verdict import CellVerdict, State, Verdict
from harness.records.types import Cell, Record

SMALL = Scenario(observed=True, wobble=0.001, axes={"batch_size": [4], "block_length": [256], "num_steps": [8]})


def is_target(cell: Cell) -> bool:
    return cell.block_length is not None


def target(verdict: Verdict) -> CellVerdict:
    return next(cell for cell in verdict.cells if cell.axes["block_length"] is not None)


def slower(factor: float) -> Side:
    return Side(scenario=SMALL, slowdown=lambda cell: factor if is_target(cell) else 1.0)


def counting(operations: int) -> Side:
    def change(record: Record) -> Record:
        return replace(record, counters={**record.counters, "torch_operations": operations})

    return Side(scenario=SMALL, change=lambda record: change(record) if is_target(record.cell) else record)


def grading(exact: int) -> Side:
    """Every answer is right, or none."""
    scenario = replace(
        SMALL, eos="respect", rounds=4, axes={**SMALL.axes, "prompt_set": ["code"]}, quality=lambda cell: 1.0
    )

    def change(record: Record) -> Record:
        return replace(record, rounds=tuple(replace(one, exact=(exact,) * len(one.exact)) for one in record.rounds))

    return Side(scenario=scenario, change=lambda record: change(record) if is_target(record.cell) else record)


def judged(tmp_path: Path, base: Side, head: Side, rule: str, up_to: float, value: float | None = None) -> CellVerdict:
    gate_of: Callable[..., Verdict] = lambda **options: verdict_of(tmp_path, base, head, **options)  # noqa: E731
    acceptance = gate.Acceptance(up_to=up_to, reason="a new sampler", until="2027-01-31", value=value)
    cell_id = target(verdict_of(tmp_path / "plain", base, head)).cell_id
    return target(gate_of(accepted={(cell_id, rule): acceptance}))


@pytest.mark.parametrize(("up_to", "state"), [(0.12, State.ACCEPTED), (0.05, State.REGRESSED)])
def test_an_accepted_regression_is_shown_and_red_only_beyond_what_was_accepted(
    tmp_path: Path, up_to: float, state: State
) -> None:
    found = judged(tmp_path, slower(1.0), slower(1.1), "wall_time", up_to)
    assert found.state is state
    assert ("a new sampler" in found.reason) == (state is State.ACCEPTED)


@pytest.mark.parametrize(
    ("base", "head", "state"),
    [
        (100, 110, State.ACCEPTED),
        (100, 108, State.ACCEPTED),
        (110, 121, State.REGRESSED),  # the same step again
        (110, 111, State.REGRESSED),
        (102, 112, State.REGRESSED),  # less than 10 %, and beyond what was approved
    ],
)
def test_accepting_ten_per_cent_more_of_a_counter_once_is_no_licence_for_more(
    tmp_path: Path, base: int, head: int, state: State
) -> None:
    assert judged(tmp_path, counting(base), counting(head), "operations", 0.1, value=110.0).state is state


def test_a_quality_that_may_fall_to_nothing_is_accepted(tmp_path: Path) -> None:
    found = judged(tmp_path, grading(1), grading(0), "quality", MOST_WORSENING, value=0.0)
    assert found.state is State.ACCEPTED
    assert "approved up to a change from or to nothing" in found.reason


@pytest.mark.parametrize(
    ("base", "head", "state"),
    [
        (0, 5, State.ACCEPTED),
        (0, 4, State.ACCEPTED),
        (0, 7, State.REGRESSED),  # more than was approved, although no ratio says so
        (5, 10, State.REGRESSED),
    ],
)
def test_accepting_some_of_a_counter_where_there_was_none_is_no_licence_for_more(
    tmp_path: Path, base: int, head: int, state: State
) -> None:
    found = judged(tmp_path, counting(base), counting(head), "operations", MOST_WORSENING, value=5.0)
    assert found.state is state


def test_an_accepted_time_is_not_accepted_again_of_a_base_that_has_it_already(tmp_path: Path) -> None:
    first = verdict_of(tmp_path / "first", slower(1.0), slower(1.1))
    approved = next(one.head for one in target(first).rules if one.rule == "wall_time")
    again = judged(tmp_path / "again", slower(1.1), slower(1.21), "wall_time", 0.12, approved)
    assert (again.state, "base has the approved" in again.reason) == (State.REGRESSED, True)
    assert judged(tmp_path / "same", slower(1.0), slower(1.1), "wall_time", 0.12, approved).state is State.ACCEPTED
