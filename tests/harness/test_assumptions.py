"""What assumptions do to a predicted speed-up: directions that hold, compaction by plain simulation, the figure."""

from __future__ import annotations

import random
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from scipy.stats import binom
from synthetic import Scenario, write_run

from harness.analysis.analyse import analyse
from harness.analysis.assumptions import Assumptions, assumptions_of
from harness.analysis.metrics import Missing
from harness.analysis.run_data import Run, load_run
from harness.records.types import Cell
from harness.report.frame import build_page
from harness.spec import draws, floor

BATCHES = [1, 4, 16]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return load_run(write_run(tmp_path_factory.mktemp("run")))


@pytest.fixture(scope="module")
def found(run: Run) -> Assumptions:
    cell = next(one.cell for one in run.cells if one.cell.num_steps == 16 and one.cell.block_length == 128)
    return assumptions_of(run, cell, BATCHES)


def test_a_skewed_router_is_kinder_to_autoregressive_batches(found: Assumptions) -> None:
    names = ("uniform", "zipf 0.5", "zipf 1")
    uniform, mild, steep = ([speedup for _, speedup in found.routings[name]] for name in names)
    assert uniform[0] == pytest.approx(steep[0], rel=0.02)  # one row reads its k experts, however it chooses them
    assert uniform[1] >= mild[1] >= steep[1]
    assert [speedup for _, speedup in found.fixed] == pytest.approx(uniform)


def test_stragglers_cost_more_the_larger_the_batch_and_compaction_wins_back_at_most_that(found: Assumptions) -> None:
    shares = [share for _, share in found.straggler_share]
    assert shares[0] == pytest.approx(0, abs=1e-12)
    assert shares == sorted(shares)
    for (_, saved), share in zip(found.saved_share, shares, strict=True):
        assert -1e-9 <= saved <= share + 1e-9
    for (_, static), (_, compacted) in zip(found.replayed, found.compacted, strict=True):
        assert compacted >= static * (1 - 1e-9)


def test_compaction_takes_the_mean_time_of_batches_that_shrink(run: Run, found: Assumptions) -> None:
    """Draw batches of 4, and add up step after step what a pass over the rows still active costs."""
    assert run.shape is not None
    dice, histogram = random.Random(1), draws.steps_of(found.cell)

    def denoise_s(rows: int) -> float:
        assert run.shape is not None
        return floor.one_step_of(_with_rows(found, rows), run.shape, run.device)["denoise"].floor_s or 0.0

    of_rows = [0.0, *(denoise_s(rows) for rows in range(1, 5))]
    times = []
    for _ in range(3000):
        steps = dice.choices(range(1, len(histogram.shares) + 1), histogram.shares, k=4)
        times.append(sum(of_rows[sum(n >= step for n in steps)] for step in range(1, max(steps) + 1)))
    phases = floor.one_step_of(_with_rows(found, 4), run.shape, run.device)
    rest_s = sum(phase.floor_s or 0.0 for kind, phase in phases.items() if kind != "denoise")
    twin = sum(p.floor_s or 0.0 for p in floor.one_step_of(_with_rows(found, 4).twin, run.shape, run.device).values())
    assert dict(found.compacted)[4] == pytest.approx(twin / (rest_s + statistics.mean(times)), rel=0.03)


def test_compaction_of_4096_rows_takes_binomial_probabilities(run: Run, found: Assumptions) -> None:
    """A step costs what passes over each number of rows cost, weighted by scipy.stats but for tails of 1e-9."""
    assert run.shape is not None
    (compacted,) = assumptions_of(run, found.cell, [4096]).compacted
    cell = _with_rows(found, 4096)
    phases = floor.one_step_of(cell, run.shape, run.device)
    steps_s = 0.0
    for active in draws.steps_of(found.cell).still_active(found.cap):
        low, high = (int(binom.ppf(q, 4096, min(active, 1.0))) for q in (1e-9, 1 - 1e-9))
        for rows in range(max(low, 1), high + 1):
            denoise = floor.one_step_of(_with_rows(found, rows), run.shape, run.device)["denoise"]
            steps_s += binom.pmf(rows, 4096, min(active, 1.0)) * (denoise.floor_s or 0.0)
    rest_s = sum(phase.floor_s or 0.0 for kind, phase in phases.items() if kind != "denoise")
    twin_s = sum(phase.floor_s or 0.0 for phase in floor.one_step_of(cell.twin, run.shape, run.device).values())
    assert compacted == (4096, pytest.approx(twin_s / (rest_s + steps_s), rel=1e-6))


def _with_rows(found: Assumptions, rows: int) -> Cell:
    return replace(found.cell, batch_size=rows)


def test_without_roofs_there_is_nothing_to_predict(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path, Scenario(roofs=False)))
    with pytest.raises(Missing, match="none was measured"):
        assumptions_of(run, run.cells[1].cell, BATCHES)


def test_the_page_draws_it_and_says_that_it_is_predicted(run: Run) -> None:
    page = build_page(analyse([run]))
    assert "What does each assumption do to the speed-up?" in page
    assert "Predicted at the floors" in page
