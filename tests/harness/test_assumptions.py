"""What assumptions do to a predicted speed-up: directions that hold, compaction by plain simulation, the figure."""

from __future__ import annotations

import json
import math
import random
import re
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pages import frame_of
from scipy.stats import binom
from synthetic import Scenario, usual_pass_s, write_run

from harness.analysis.analyse import Analysis, analyse
from harness.analysis.assumptions import Assumptions, assumptions_of
from harness.analysis.metrics import Missing
from harness.analysis.run_data import Run, load_run
from harness.records.types import Cell
from harness.report import headlines
from harness.report.figures.assumptions import assumptions
from harness.report.frame import build_page
from harness.report.slices import slices_of
from harness.report.wording import percent
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


def test_a_histogram_that_is_gone_is_a_reason_and_no_error(run: Run, found: Assumptions) -> None:
    gone = replace(found.cell, options={**found.cell.options, "replay_steps": "gone.yaml"})
    with pytest.raises(Missing, match=r"'gone\.yaml' is no file"):
        assumptions_of(run, gone, BATCHES)


def test_what_arithmetic_cannot_tell_from_nothing_is_called_nothing(tmp_path: Path) -> None:
    """A batch of one row waits for nobody: its straggler share is what a sum of 48 numbers is off by."""
    assert (percent(2.2e-16), percent(2.2e-8)) == ("0 %", "2.2e-06 %")
    run = load_run(write_run(tmp_path, Scenario(axes={"batch_size": [1]})))
    alone = assumptions_of(run, run.cells[1].cell, [1])
    assert max(abs(alone.straggler_share[0][1]), abs(alone.saved_share[0][1])) < 1e-9
    (part,) = slices_of(analyse([run]), is_wide=True)
    answer = assumptions(part, "x").answer
    assert "no row waits for another one, so compaction saves nothing." in answer
    assert not re.search(r"e-\d", answer)


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    """Untrained weights on one device: once with uniform routing, replayed steps among them, and once with zipf."""
    axes: dict[str, Any] = {"batch_size": [1, 4, 16, 64], "block_length": [128], "num_steps": [16]}
    axes["prompt_set"] = ["code"]

    def slower(cell: Cell) -> float:
        return usual_pass_s(cell) * (1.5 if cell.block_length else 1)

    both = {"stopping": ["fixed", "replay"]}
    scenarios = [
        Scenario(trained=False, routing="uniform", axes={**axes, **both}),
        Scenario(trained=False, routing="zipf", axes=axes, pass_s=slower),
    ]
    folder = tmp_path_factory.mktemp("routed")
    return analyse([load_run(write_run(folder / str(i), one)) for i, one in enumerate(scenarios)])


def last_falling(points: pd.Series) -> float:
    """The batch at which a speed-up falls to 1 for the last time, on logarithms; inf: it stays above, 0: below."""
    x, y = np.log(points.index.to_numpy(float)), np.log(points.to_numpy(float))
    places = [np.exp(np.interp(0, y[[i + 1, i]], x[[i + 1, i]])) for i in range(len(x) - 1) if y[i] > 0 > y[i + 1]]
    return math.inf if y[-1] > 0 else (places or [0.0])[-1]


def told(places: list[float], smallest: int, largest: int) -> str:
    ends = {0.0: f"under {smallest}", math.inf: f"over {largest}"}
    return " to ".join(dict.fromkeys(ends.get(one, f"{one:.3g}") for one in (min(places), max(places))))


def test_the_measured_crossover_of_untrained_weights_is_a_range_over_routings_and_steps(routed: Analysis) -> None:
    frame = frame_of(routed)
    diffusion = frame[frame.decoding == "block_diffusion"]
    headline = routed.headlines[0]
    lines = [part.set_index("batch_size")["speedup_vs_ar.value"].sort_index()
             for _, part in diffusion.groupby(["run_id", "stopping"])]  # fmt: skip
    assert len(lines) == 3
    places = [last_falling(line) for line in lines]
    assert len(set(places)) == 3
    tile = headlines.tiles(headline, routed)[2]
    assert tile.value == told(places, 1, 64)
    for place in places:
        assert any(note.startswith("with ") and note.endswith(f": {place:.3g}") for note in tile.notes)


def test_the_predicted_crossover_is_a_range_at_the_floors_and_at_the_measured_shares(routed: Analysis) -> None:
    """From the plan's floors, the measured speed-ups, and how much each assumption changes the floors' speed-up."""
    run = next(iter(routed.runs.values()))
    plan = json.loads((run.directory / "plan.json").read_text())["cells"]
    floors = pd.DataFrame({**one["cell"], "floor_s": one["floor_s"]} for one in plan).set_index("batch_size")
    ours, theirs = floors[floors.stopping == "fixed"].floor_s, floors[floors.decoding == "autoregressive"].floor_s
    uniform = (theirs / ours).sort_index()
    frame = frame_of(routed)
    own = frame[(frame.run_id == run.run_id) & (frame.cell_id == routed.headlines[0].diffusion.cell_id)].iloc[0]
    rows = frame[(frame.run_id == run.run_id) & (frame.stopping == own.stopping)].set_index("batch_size")
    limits = uniform if own.stopping == "fixed" else (theirs / floors[floors.stopping == "replay"].floor_s).sort_index()
    share = rows["speedup_vs_ar.value"].sort_index() / limits
    found = json.loads(json.dumps(routed.to_json(), allow_nan=False))["crossover_ranges"][0]["predicted"]
    lines = {one["assumption"]: pd.Series(dict(one["speedups"])) for one in found["crossover_range_at_floors"]["lines"]}
    assert lines["uniform"].to_dict() == pytest.approx(uniform.to_dict())
    assert list(lines) == ["uniform", "zipf 0.5", "zipf 1", "diffusiongemma_evals, static batch",
                           "diffusiongemma_evals, compacted"]  # fmt: skip
    at_floors = told([last_falling(line) for line in lines.values()], 1, 64)
    at_shares = told([last_falling(line * share) for line in lines.values()], 1, 64)
    notes = headlines.tiles(routed.headlines[0], routed)[2].notes
    span = f"{at_shares} at the measured floor shares, {at_floors} at the floors (predicted)"
    assert notes[-1] == f"untrained weights: over routings and published steps, {span}"
    part = slices_of(routed, is_wide=True)[0]
    assert f"Over all of these, the crossover batch is {at_floors}" in assumptions(part, "x").answer


def test_trained_weights_need_no_assumption_about_routing_in_their_tile(run: Run) -> None:
    analysis = analyse([run])
    assert not any("predicted" in note for note in headlines.tiles(analysis.headlines[0], analysis)[2].notes)


def test_the_page_draws_it_and_says_that_it_is_predicted(run: Run) -> None:
    page = build_page(analyse([run]))
    assert "What does each assumption do to the speed-up?" in page
    assert "Predicted at the floors" in page
