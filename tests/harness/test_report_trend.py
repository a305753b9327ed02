"""Does it hold over time, and may I merge: what several runs of a suite say, recomputed from their record lines."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
from altered import alter, lines_of
from synthetic import Scenario, write_run

from harness.analysis.analyse import Analysis, analyse
from harness.analysis.run_data import load_run
from harness.records.types import Cell
from harness.report.figures.base import NotDrawn
from harness.report.figures.merge import merge
from harness.report.figures.trend import trend
from harness.report.frame import build_page

AXES = {"batch_size": [1, 4], "block_length": [128], "num_steps": [8]}


def runs_of(folder: Path, factors: list[float], **changes: object) -> list[Path]:
    """A run a day, its passes so many times as slow; the directory of the newest first."""
    made = []
    for day, factor in enumerate(factors, start=1):

        def pass_s(cell: Cell, factor: float = factor) -> float:
            return 0.01 * factor * (3 if cell.block_length else 1)

        run_dir = write_run(folder, Scenario(**{"axes": AXES, "rounds": 7, "pass_s": pass_s, **changes}))  # type: ignore[arg-type]

        def dated(line: dict[str, object], day: int = day) -> None:
            line["started_at"] = f"2026-01-{day:02d}T00:00:00+00:00"

        made.append(alter(run_dir, dated))
    return made[::-1]


def analysed(run_dirs: list[Path]) -> Analysis:
    return analyse([load_run(run_dir) for run_dir in run_dirs])


def speed(run_dir: Path, cell_id: str) -> float:
    rounds = [one for line in lines_of(run_dir) if line["cell_id"] == cell_id for one in line["rounds"]]
    return statistics.median(sum(one["useful_tokens"]) / one["wall_s"] for one in rounds)


@pytest.mark.parametrize(("factor", "way"), [(1.25, "slower"), (0.8, "faster")])
def test_the_answer_tells_the_largest_change_its_day_and_its_commit(tmp_path: Path, factor: float, way: str) -> None:
    run_dirs = runs_of(tmp_path, [1, 1, factor, factor])
    third, second = run_dirs[1], run_dirs[2]
    ratios = {one: speed(third, one) / speed(second, one) for one in {line["cell_id"] for line in lines_of(third)}}
    largest = max(ratios, key=lambda one: max(ratios[one], 1 / ratios[one]))
    answer = trend(analysed(run_dirs), "x").answer
    assert answer.startswith("Over 4 runs of 4 cells from 2026-01-01 to 2026-01-04, 4 cells changed ")
    assert (
        f"{100 * abs(ratios[largest] - 1):.0f} % {way} in the run of 2026-01-03 (commit c0ffee) than before" in answer
    )


def test_runs_that_differ_by_noise_alone_have_not_changed(tmp_path: Path) -> None:
    """Of one seed: rounds differ by 1 % within a run, runs by nothing."""
    answer = trend(analysed(runs_of(tmp_path, [1, 1, 1])), "x").answer
    assert "no cell is faster or slower than in the run before by more than the intervals of both" in answer


def test_the_link_finds_the_cells_of_the_lines(tmp_path: Path) -> None:
    run_dirs = runs_of(tmp_path, [1, 1])
    figure = trend(analysed(run_dirs), "x")
    assert figure.rows_filter is not None
    assert set(figure.rows_filter.removeprefix("cell_id=").split("|")) == {
        one["cell_id"] for one in lines_of(run_dirs[0])
    }


def test_of_many_cells_a_few_are_pinned(tmp_path: Path) -> None:
    axes = {"batch_size": [1, 2, 4, 8], "block_length": [128], "num_steps": [2, 4, 8, 16]}
    assert "of 10 cells" in trend(analysed(runs_of(tmp_path, [1, 1], axes=axes)), "x").answer


def test_a_cell_that_one_run_lacks_is_left_out(tmp_path: Path) -> None:
    whole, part = runs_of(tmp_path, [1, 1])
    (path,) = part.glob("records-*.jsonl")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    assert "of 3 cells" in trend(analysed([whole, part]), "x").answer


def test_runs_of_two_devices_are_no_trend(tmp_path: Path) -> None:
    run_dirs = [*runs_of(tmp_path, [1]), *runs_of(tmp_path / "other", [2], display_name="Other GPU")]
    with pytest.raises(NotDrawn, match="several runs of one suite on one kind of machine"):
        trend(analysed(run_dirs), "x")


def test_one_run_says_what_would_make_a_trend_and_a_verdict(tmp_path: Path) -> None:
    analysis = analysed(runs_of(tmp_path, [1]))
    with pytest.raises(NotDrawn, match=r"this page has 1 run: name them all, `report RUN RUN \.\.\.`"):
        trend(analysis, "x")
    with pytest.raises(NotDrawn, match=r"this page has 1 run of 1 commit \(c0ffee\) and no baseline"):
        merge(analysis, "x")
    page = build_page(analysis)
    missing = page[page.index('id="not-drawn"') : page.index('id="cells"')]
    assert "May I merge?" in missing
    assert "Does it hold over time?" in missing


def test_a_run_in_which_every_cell_failed_is_no_trend(tmp_path: Path) -> None:
    with pytest.raises(NotDrawn, match="with a finished cell in common"):
        trend(analysed(runs_of(tmp_path, [1, 1], outcome=lambda cell, _: "error")), "x")
