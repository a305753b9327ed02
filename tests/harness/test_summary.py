"""Summaries, statuses, twins, crossovers and the headline: what analysis makes of records."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import ENVIRONMENT, Scenario, plan_of, record_of, write_records, write_run

from harness.analysis.analyse import Analysis, analyse
from harness.analysis.crossover import Line
from harness.analysis.rows import CellRow
from harness.analysis.run_data import load_run
from harness.analysis.stats import median_interval
from harness.analysis.summary import Summary, summarise
from harness.analysis.values import differing_keys
from harness.records.store import StoreError
from harness.records.types import Cell

FINITE = st.floats(min_value=1e-6, max_value=1e6)


def analysed(folder: Path, scenario: Scenario | None = None) -> Analysis:
    return analyse([load_run(write_run(folder, scenario))])


def row_of(analysis: Analysis, **wanted: Any) -> CellRow:
    return next(r for r in analysis.rows if all(getattr(r.cell, key) == value for key, value in wanted.items()))


# Intervals


@pytest.mark.parametrize(("n", "confidence"), [(1, 0.0), (2, 0.5), (3, 0.75), (4, 0.875), (5, 0.9375)])
def test_a_small_sample_gives_its_range_and_admits_the_confidence(n: int, confidence: float) -> None:
    interval = median_interval([float(i) for i in range(n)])
    assert (interval.low, interval.high) == (0.0, n - 1.0)
    assert interval.confidence == pytest.approx(confidence)


@pytest.mark.parametrize("n", [6, 9, 20, 101])
def test_a_large_enough_sample_gives_the_narrowest_interval_of_95_percent(n: int) -> None:
    interval = median_interval([float(i) for i in range(n)])
    k = int(interval.low) + 1

    def achieved(k: int) -> float:
        return 1 - 2 * sum(math.comb(n, i) for i in range(k)) / 2**n

    assert interval.high == n - k
    assert interval.confidence == pytest.approx(achieved(k))
    assert achieved(k) >= 0.95 > achieved(k + 1)


@given(st.lists(st.lists(FINITE, min_size=1, max_size=7), min_size=1, max_size=8))
def test_an_interval_holds_its_value_and_lies_within_the_sample(by_launch: list[list[float]]) -> None:
    summary = summarise(by_launch, "s")
    assert summary.minimum <= summary.low <= summary.value <= summary.high <= summary.maximum


@given(st.lists(FINITE, min_size=1, max_size=12), st.randoms())
def test_the_order_of_rounds_does_not_matter(sample: list[float], order: Any) -> None:
    shuffled = sorted(sample, key=lambda _: order.random())
    assert summarise([sample], "s") == summarise([shuffled], "s")


@pytest.mark.parametrize(
    ("launches", "basis"), [(1, "within one launch"), (4, "within one launch"), (5, "over launches")]
)
def test_fewer_than_five_launches_are_labelled_within_one_launch(launches: int, basis: str) -> None:
    assert summarise([[1.0, 2.0]] * launches, "s").basis == basis


def test_over_launches_the_interval_is_of_their_medians() -> None:
    summary = summarise([[1.0, 1.0, 100.0]] * 3 + [[2.0, 2.0, 100.0]] * 3, "s")
    assert (summary.low, summary.high, summary.maximum) == (1.0, 2.0, 100.0)


# Statuses and coverage


@pytest.mark.parametrize("status", ["oom", "timeout", "error", "unsupported"])
def test_a_failed_cell_is_a_row_with_its_reason_and_no_value(tmp_path: Path, status: str) -> None:
    analysis = analysed(tmp_path, Scenario(outcome=lambda cell, _: status if cell.batch_size == 4 else "ok"))
    row = row_of(analysis, batch_size=4)
    assert (row.status, row.reason, row.metrics) == (status, "made-up reason", {})


def test_a_planned_cell_without_a_record_is_missing(tmp_path: Path) -> None:
    analysis = analysed(tmp_path, Scenario(outcome=lambda cell, _: "absent" if cell.batch_size == 4 else "ok"))
    assert row_of(analysis, batch_size=4).status == "missing"
    assert analysis.coverage()["missing"] == 5


def test_coverage_adds_up_to_the_plan(tmp_path: Path) -> None:
    statuses = ["ok", "oom", "timeout", "error", "unsupported", "absent"]
    analysis = analysed(tmp_path, Scenario(outcome=lambda cell, _: statuses[int(cell.cell_id, 16) % 6]))
    counts = analysis.coverage()
    assert sum(count for name, count in counts.items() if name not in ("planned", "skipped")) == counts["planned"] == 15


@pytest.mark.parametrize(
    ("status", "incomplete"), [("ok", False), ("oom", False), ("unsupported", False), ("error", True), ("absent", True)]
)
def test_a_run_is_incomplete_when_a_cell_failed_or_is_missing(tmp_path: Path, status: str, incomplete: bool) -> None:
    analysis = analysed(tmp_path, Scenario(outcome=lambda cell, _: status if cell.batch_size == 4 else "ok"))
    assert analysis.is_incomplete == incomplete


def test_a_run_without_any_record_has_no_rows_to_show(tmp_path: Path) -> None:
    analysis = analysed(tmp_path, Scenario(outcome=lambda cell, _: "absent"))
    assert not analysis.has_rows
    assert len(analysis.rows) == 15


def test_a_cell_is_as_bad_as_its_worst_launch_and_keeps_the_values_of_the_others(tmp_path: Path) -> None:
    failing = Scenario(launches=3, outcome=lambda cell, launch: "error" if launch == 1 else "ok")
    row = analysed(tmp_path, failing).rows[0]
    assert row.status == "error"
    assert row.reason == "1 of 3 launches: made-up reason"
    assert row.metrics["useful_tok_s"].n_launches == 2
    assert row.marks == ("from its finished launches only",)


def test_an_error_in_one_launch_is_worse_than_no_memory_in_another(tmp_path: Path) -> None:
    statuses = ["oom", "error", "ok"]
    assert (
        analysed(tmp_path, Scenario(launches=3, outcome=lambda _, launch: statuses[launch])).rows[0].status == "error"
    )


def test_rounds_of_a_failed_record_do_not_count(tmp_path: Path) -> None:
    scenario = Scenario()
    plan = plan_of(scenario)
    run_dir = write_run(tmp_path, dataclasses.replace(scenario, outcome=lambda cell, _: "absent"))
    record = record_of(scenario, plan.cells[0].cell, 0, run_dir.name)
    write_records(run_dir, [dataclasses.replace(record, status="oom", reason="late")])
    row = analyse([load_run(run_dir)]).rows[0]
    assert (row.status, row.metrics) == ("oom", {})


def test_skipped_cells_come_with_their_reasons(tmp_path: Path) -> None:
    analysis = analysed(tmp_path, Scenario(exclude=[{"batch_size": [16], "reason": "too slow"}]))
    assert {skipped["reason"] for skipped in analysis.to_json()["skipped"]} == {"excluded by the suite: too slow"}


# Twins


def test_a_speedup_uses_the_anchor_that_the_same_process_measured(tmp_path: Path) -> None:
    """A resumed group measures its anchor again; members from before keep the anchor of their own process."""
    slow = Scenario(pass_s=lambda cell: 0.08)
    quick = Scenario(pass_s=lambda cell: 0.02, worker="2-b")
    anchor, early, late = (plan_of(slow).cells[i].cell for i in (0, 1, 2))
    run_dir = write_run(tmp_path, dataclasses.replace(slow, outcome=lambda cell, _: "absent"))
    first = [record_of(slow, cell, 0, run_dir.name) for cell in (anchor, early)]
    second = [record_of(quick, anchor, 0, run_dir.name, attempt=2), record_of(quick, late, 0, run_dir.name)]
    write_records(run_dir, first)
    write_records(run_dir, second)
    rows = {row.cell_id: row for row in analyse([load_run(run_dir)]).rows}
    for twin, record in (first, second):
        ratios = [other.wall_s / one.wall_s for one, other in zip(record.rounds, twin.rounds, strict=True)]
        assert rows[record.cell_id].value("speedup_vs_ar") == pytest.approx(statistics.median(ratios))


def test_a_twin_from_another_process_is_not_used(tmp_path: Path) -> None:
    scenario = Scenario()
    plan = plan_of(scenario)
    anchor, member = plan.cells[0].cell, plan.cells[1].cell
    run_dir = write_run(tmp_path, dataclasses.replace(scenario, outcome=lambda cell, _: "absent"))
    write_records(run_dir, [record_of(scenario, anchor, 0, run_dir.name)])
    write_records(run_dir, [record_of(dataclasses.replace(scenario, worker="2-b"), member, 0, run_dir.name)])
    row = analyse([load_run(run_dir)]).rows[1]
    assert "in the same process" in row.missing["speedup_vs_ar"]
    assert "useful_tok_s" in row.metrics


def test_a_pair_that_differs_elsewhere_is_refused_and_the_keys_are_named(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path)
    plan = json.loads((run_dir / "plan.json").read_text())
    diffusion = [entry for entry in plan["cells"] if entry["twin_id"]]
    stranger = next(e for e in plan["cells"] if not e["twin_id"] and e["cell"]["batch_size"] != 1)
    assert diffusion[0]["cell"]["batch_size"] == 1
    diffusion[0]["twin_id"] = stranger["cell_id"]
    (run_dir / "plan.json").write_text(json.dumps(plan))
    row = next(r for r in analyse([load_run(run_dir)]).rows if r.cell_id == diffusion[0]["cell_id"])
    assert row.missing["speedup_vs_ar"] == "refused: the pair differs in batch_size"


def test_only_decoding_and_its_three_settings_may_differ_between_twins() -> None:
    cell = plan_of(Scenario()).cells[1].cell
    assert differing_keys(cell, cell.twin) == []
    for field in dataclasses.fields(Cell):
        if field.name not in ("decoding", "block_length", "num_steps", "stopping"):
            changed = dataclasses.replace(cell.twin, **{field.name: "another"})
            assert differing_keys(cell, changed) == [field.name]


def test_a_twin_that_ran_out_of_memory_leaves_no_speedup_and_says_so(tmp_path: Path) -> None:
    analysis = analysed(tmp_path, Scenario(outcome=lambda cell, _: "ok" if cell.block_length else "oom"))
    row = row_of(analysis, block_length=256)
    assert "twin ended in oom" in row.missing["speedup_vs_ar"]


@pytest.mark.parametrize("imbalance", [0.5, 0.78, 0.83, 1.0, 1.2, 1.3, 2.0])
def test_twins_whose_floor_shares_differ_by_more_than_a_quarter_are_marked(tmp_path: Path, imbalance: float) -> None:
    def shares(folder: str, pass_s: float) -> tuple[float, float, tuple[str, ...]]:
        analysis = analysed(tmp_path / folder, Scenario(pass_s=lambda cell: 0.1 if cell.block_length else pass_s))
        row = row_of(analysis, batch_size=1, block_length=128, num_steps=8)
        twin = row_of(analysis, batch_size=1, block_length=None)
        return row.value("floor_share") or 0, twin.value("floor_share") or 0, row.marks

    share, twin_share, _ = shares("probe", 1.0)
    share, twin_share, marks = shares("run", twin_share / share * imbalance)
    assert share / twin_share == pytest.approx(imbalance, rel=0.03)
    assert ("unbalanced baseline" in marks) == (max(imbalance, 1 / imbalance) > 1.25)


def test_rounds_of_different_seeds_are_not_paired(tmp_path: Path) -> None:
    scenario = Scenario()
    anchor, member = (plan_of(scenario).cells[i].cell for i in (0, 1))
    run_dir = write_run(tmp_path, dataclasses.replace(scenario, outcome=lambda cell, _: "absent"))
    records = [record_of(scenario, cell, 0, run_dir.name) for cell in (anchor, member)]
    rounds = tuple(dataclasses.replace(one, seed=one.seed + (one.index == 1)) for one in records[1].rounds)
    write_records(run_dir, [records[0], dataclasses.replace(records[1], rounds=rounds)])
    metrics = analyse([load_run(run_dir)]).rows[1].metrics
    assert (metrics["speedup_vs_ar"].n_rounds, metrics["useful_tok_s"].n_rounds) == (2, 3)


def test_with_eos_respected_both_answers_lengths_are_shown(tmp_path: Path) -> None:
    row = row_of(analysed(tmp_path, Scenario(eos="respect")), block_length=256, batch_size=4)
    assert any(mark.startswith("answers of ") for mark in row.marks)


def test_a_block_length_that_was_not_trained_is_marked(tmp_path: Path) -> None:
    analysis = analysed(tmp_path, Scenario(axes={"block_length": [32, 64]}))  # the mini's own is 32
    assert "not the trained block length" in row_of(analysis, block_length=64).marks
    assert "not the trained block length" not in row_of(analysis, block_length=32).marks


# Crossovers


DIFFUSION_CELL = plan_of(Scenario()).cells[1].cell


def line_of(*speedups: tuple[int, float], noise: float = 0.001) -> Line:

    def row(batch_size: int, value: float) -> CellRow:
        low, high = value * (1 - noise), value * (1 + noise)
        summary = Summary(
            value=value, unit="x", n_rounds=3, n_launches=1, low=low, high=high, minimum=low, maximum=high,
            confidence=0.75, basis="within one launch",
        )  # fmt: skip
        cell = dataclasses.replace(DIFFUSION_CELL, batch_size=batch_size)
        return CellRow(
            run_id="r", cell_id=str(batch_size), cell=cell, twin_id="t", status="ok", reason=None,
            metrics={"speedup_vs_ar": summary}, missing={}, marks=(),
        )  # fmt: skip

    return Line(run_id="r", cells=tuple(row(*one) for one in speedups))


def test_a_crossover_is_interpolated_on_logarithms_between_measured_neighbours() -> None:
    (crossing,) = line_of((1, 4.0), (4, 2.0), (16, 0.5)).crossings
    assert crossing.batch_size == pytest.approx(8.0)  # half way between 4 and 16, as 2 and 1/2 are equally far from 1
    assert crossing.between == (4, 16)
    assert crossing.interpolated
    assert crossing.slower_from_here == "block_diffusion"


def test_a_ratio_that_rises_before_it_falls_has_two_crossovers() -> None:
    crossings = line_of((1, 0.5), (2, 2.0), (4, 3.0), (8, 0.9)).crossings
    assert [c.between for c in crossings] == [(1, 2), (4, 8)]
    assert [c.slower_from_here for c in crossings] == ["autoregressive", "block_diffusion"]


@pytest.mark.parametrize(
    ("speedups", "verdict"),
    [
        (((1, 4.0), (2, 2.0)), "none in the sweep: block_diffusion is faster at every batch"),
        (((1, 0.4), (2, 0.2)), "none in the sweep: autoregressive is faster at every batch"),
        (((1, 0.4),), "none in the sweep: autoregressive is faster at batch 1, the only one"),
        (((1, 1.0), (2, 1.0)), "none in the sweep: both are equally fast"),
        ((), "no speed-up in this line"),
    ],
)
def test_without_a_crossover_the_line_says_who_is_faster(speedups: Any, verdict: str) -> None:
    assert line_of(*speedups).verdict == verdict


def test_a_ratio_of_exactly_one_at_a_measured_batch_is_not_interpolated() -> None:
    (crossing,) = line_of((1, 2.0), (4, 1.0), (16, 0.5)).crossings
    assert (crossing.batch_size, crossing.interpolated) == (4.0, False)


def test_touching_one_without_passing_it_is_no_crossover() -> None:
    assert line_of((1, 2.0), (4, 1.0), (16, 2.0)).crossings == []


def test_a_crossover_that_noise_could_move_says_so() -> None:
    assert line_of((1, 1.05), (4, 0.5)).crossings[0].is_clear
    assert not line_of((1, 1.05), (4, 0.5), noise=0.1).crossings[0].is_clear


@given(st.lists(st.floats(min_value=0.05, max_value=20), min_size=2, max_size=8))
def test_crossovers_lie_inside_the_sweep_and_alternate(values: list[float]) -> None:
    crossings = line_of(*((2**i, value) for i, value in enumerate(values))).crossings
    assert all(c.between[0] <= c.batch_size <= c.between[1] for c in crossings)
    sides = [c.slower_from_here for c in crossings]
    assert all(a != b for a, b in pairwise(sides))


# The headline and the document


def test_the_headline_is_the_fastest_diffusion_cell_at_the_smallest_batch(tmp_path: Path) -> None:
    document = analysed(tmp_path).to_json()
    rows = [c for c in document["cells"] if c["cell"]["block_length"] and c["cell"]["batch_size"] == 1]
    best = max(rows, key=lambda c: c["metrics"]["useful_tok_s"]["value"])
    assert document["headline"]["diffusion"]["cell_id"] == best["cell_id"]
    assert document["headline"]["autoregressive"]["cell_id"] == best["twin_id"]
    assert document["headline"]["speedup_vs_ar"] == best["metrics"]["speedup_vs_ar"]


def diffusion_alone(cell: Cell, launch: int) -> str:
    return "ok" if cell.block_length else "error"


def autoregression_alone(cell: Cell, launch: int) -> str:
    return "error" if cell.block_length else "ok"


@pytest.mark.parametrize(
    ("outcome", "side"), [(diffusion_alone, "diffusion"), (autoregression_alone, "autoregressive")]
)
def test_a_run_of_one_decoding_has_half_a_headline(
    tmp_path: Path, outcome: Callable[[Cell, int], str], side: str
) -> None:
    headline = analysed(tmp_path, Scenario(outcome=outcome)).to_json()["headline"]
    other = "autoregressive" if side == "diffusion" else "diffusion"
    assert headline[side]["useful_tok_s"]["value"] > 0
    assert headline[other] is None
    assert headline["speedup_vs_ar"] is None


def test_the_document_has_the_documented_keys(tmp_path: Path) -> None:
    document = json.loads(json.dumps(analysed(tmp_path).to_json(), allow_nan=False))
    wanted = {"report_schema", "runs", "cells", "skipped", "crossovers", "headline", "coverage", "warnings"}
    assert wanted <= set(document)
    assert {
        "run_id",
        "cell_id",
        "cell",
        "twin_id",
        "status",
        "reason",
        "source",
        "simulated",
        "metrics",
        "missing",
        "marks",
    } <= set(document["cells"][0])
    assert document["runs"][0]["environment_ids"] == [ENVIRONMENT.environment_id]
    assert document["cells"][0]["synthetic"] is True


def test_the_same_records_give_the_same_document(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path)
    assert json.dumps(analyse([load_run(run_dir)]).to_json()) == json.dumps(analyse([load_run(run_dir)]).to_json())


def test_a_run_named_twice_counts_once(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path))
    assert len(analyse([run, run]).rows) == len(analyse([run]).rows)


def test_runs_of_equal_id_in_two_suites_stay_apart(tmp_path: Path) -> None:
    runs = [load_run(write_run(tmp_path, Scenario(name=name))) for name in ("one", "two")]
    assert runs[0].run_id == runs[1].run_id
    analysis = analyse(runs)
    assert len(analysis.rows) == len({(row.run_id, row.cell_id) for row in analysis.rows}) == 30


# What the reader stumbles over


def test_a_torn_line_is_a_warning_and_its_cell_is_missing(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path)
    (path,) = run_dir.glob("records-*.jsonl")
    path.write_bytes(path.read_bytes()[:-50])
    analysis = analyse([load_run(run_dir)])
    assert "torn" in analysis.warnings[0]
    assert analysis.coverage()["missing"] == 1


def test_a_record_that_two_processes_wrote_is_used_once_and_named(tmp_path: Path) -> None:
    scenario = Scenario()
    run_dir = write_run(tmp_path, scenario)
    again = record_of(dataclasses.replace(scenario, worker="2-b"), plan_of(scenario).cells[0].cell, 0, run_dir.name)
    write_records(run_dir, [again])
    analysis = analyse([load_run(run_dir)])
    assert analysis.rows[0].metrics["useful_tok_s"].n_rounds == 3
    assert "recorded twice" in analysis.warnings[0]


def test_equal_warnings_of_many_records_are_one_line(tmp_path: Path) -> None:
    warnings = analysed(tmp_path, Scenario(warnings=("the clock fell",))).warnings
    assert warnings == ("the clock fell (AR b1 random 64->512 and 14 more records)",)


@pytest.mark.parametrize(
    "change",
    [{"plan_schema": 99}, {"cells": None}, {"device": {}}, {"model": 3}, {"cells": [{"cell": {}}]}, {"cells": [3]}],
)
def test_a_damaged_or_newer_plan_is_refused_with_its_path(tmp_path: Path, change: dict[str, Any]) -> None:
    run_dir = write_run(tmp_path, plan_changes=change)
    with pytest.raises(StoreError, match=r"plan\.json"):
        load_run(run_dir)


def test_a_plan_whose_cell_was_edited_is_refused(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path)
    text = (run_dir / "plan.json").read_text().replace('"batch_size": 1,', '"batch_size": 3,', 1)
    (run_dir / "plan.json").write_text(text)
    with pytest.raises(StoreError, match="does not belong to its cell"):
        load_run(run_dir)
