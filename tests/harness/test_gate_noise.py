"""The gate under test: how often it cries wolf and how often it sleeps, on made-up noise with fixed seeds.

The very functions that judge real launches judge these. A sweep has 200 cells; in some, 10 of them are slower.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
import pytest
from noise import NORMAL_GPU, QUIET_GPU, SHARED_VM, Profile, pairs, sweep

from harness.analysis.gate import times
from harness.analysis.verdict import State
from harness.spec.gate_rules import GateConfig

NUM_CELLS, NUM_SLOW = 200, 10
CLEAN_SWEEPS, SLOW_SWEEPS = 40, 15


@dataclass
class Tally:
    clean: Counter[State] = field(default_factory=Counter)  # of cells that are as fast as before
    slow: Counter[State] = field(default_factory=Counter)
    sweeps: int = 0
    red_sweeps: int = 0  # with a false alarm
    pairs: list[float] = field(default_factory=list)

    def share(self, state: State, cells: Counter[State]) -> float:
        return cells[state] / cells.total()


@cache
def tally(profile: Profile, slowdown: float, num_sweeps: int) -> Tally:
    effects = np.zeros(NUM_CELLS)
    num_slow = NUM_SLOW if slowdown else 0
    effects[:num_slow] = np.log1p(slowdown)
    found = Tally()
    for seed in range(num_sweeps):
        swept = sweep(profile, effects, seed)
        states = [result.state for result in swept.results]
        found.slow.update(states[:num_slow])
        found.clean.update(states[num_slow:])
        found.sweeps += 1
        found.red_sweeps += State.REGRESSED in states[num_slow:]
        found.pairs.append(swept.pairs_per_cell)
    return found


@pytest.mark.parametrize("profile", [QUIET_GPU, NORMAL_GPU, SHARED_VM], ids=["quiet GPU", "normal GPU", "shared VM"])
def test_at_most_one_cell_in_a_hundred_and_one_clean_sweep_in_twenty_is_red(profile: Profile) -> None:
    clean = tally(profile, 0.0, CLEAN_SWEEPS)
    assert clean.share(State.REGRESSED, clean.clean) <= 0.01
    assert clean.red_sweeps / clean.sweeps <= 0.05


@pytest.mark.parametrize("profile", [NORMAL_GPU, SHARED_VM], ids=["normal GPU", "shared VM"])
def test_cells_beside_slower_ones_are_no_redder(profile: Profile) -> None:
    beside = tally(profile, 0.05, SLOW_SWEEPS)
    assert beside.share(State.REGRESSED, beside.clean) <= 0.01


@pytest.mark.parametrize("profile", [QUIET_GPU, NORMAL_GPU], ids=["quiet GPU", "normal GPU"])
def test_on_a_gpu_nearly_every_slowdown_by_5_percent_is_red(profile: Profile) -> None:
    found = tally(profile, 0.05, SLOW_SWEEPS)
    assert found.share(State.REGRESSED, found.slow) >= 0.95


def test_on_a_shared_machine_10_percent_is_red_and_never_ok() -> None:
    found = tally(SHARED_VM, 0.10, SLOW_SWEEPS)
    assert found.share(State.REGRESSED, found.slow) >= 0.8
    assert set(found.slow) <= {State.REGRESSED, State.INCONCLUSIVE}


def test_a_slowdown_at_the_very_limit_is_called_ok_in_at_most_one_case_of_twenty() -> None:
    found = tally(SHARED_VM, 0.05, SLOW_SWEEPS)
    assert found.share(State.OK, found.slow) <= 0.05


def test_a_clean_sweep_on_a_gpu_takes_at_most_four_and_a_half_pairs_a_cell() -> None:
    assert np.mean(tally(NORMAL_GPU, 0.0, CLEAN_SWEEPS).pairs) <= 4.5


def test_a_clean_sweep_on_a_gpu_is_ok_and_not_merely_not_red() -> None:
    clean = tally(NORMAL_GPU, 0.0, CLEAN_SWEEPS)
    assert clean.share(State.OK, clean.clean) >= 0.99


def test_on_a_shared_machine_a_clean_sweep_is_told_to_be_ok() -> None:
    """Cells that are as fast as before get as many pairs as it takes to rule a slowdown out."""
    clean = tally(SHARED_VM, 0.0, CLEAN_SWEEPS)
    assert clean.share(State.OK, clean.clean) >= 0.95


def test_what_noise_hides_is_inconclusive_and_not_ok() -> None:
    """Four times the shared machine's noise: no 5 % can be seen, so hardly a cell may be called OK."""
    loud = Profile(**{name: 4 * value for name, value in vars(SHARED_VM).items()})
    states = Counter(result.state for result in sweep(loud, np.full(NUM_CELLS, np.log(1.05)), 0).results)
    assert states[State.OK] / NUM_CELLS <= 0.1
    assert states[State.INCONCLUSIVE] / NUM_CELLS >= 0.8


def test_cells_of_unlike_noise_raise_no_more_alarms() -> None:
    draw = np.random.default_rng(0)
    scale = np.exp(0.5 * draw.standard_normal(NUM_CELLS))[:, None]
    gate = GateConfig()
    red = 0
    for _ in range(30):
        screen = times.screened(scale * pairs(NORMAL_GPU, np.zeros(NUM_CELLS), 3, draw), gate)
        confirm = scale * pairs(NORMAL_GPU, np.zeros(NUM_CELLS), times.confirm_pairs(screen, gate, 0.025), draw)
        confirm[~screen.kept] = np.nan
        results = times.judged(screen, confirm, np.full(NUM_CELLS, 0.025), gate)
        red += any(result.state is State.REGRESSED for result in results)
    assert red <= 3


def test_a_quieter_machine_detects_smaller_slowdowns() -> None:
    effects = np.zeros(NUM_CELLS)
    quiet, normal = (
        np.median([result.mde for result in sweep(profile, effects, 0).results if result.mde is not None])
        for profile in (QUIET_GPU, NORMAL_GPU)
    )
    assert quiet < normal < 0.06


def test_the_floor_keeps_a_certain_but_small_slowdown_from_being_red() -> None:
    results = sweep(QUIET_GPU, np.full(NUM_CELLS, np.log(1.015)), 0).results
    assert {result.state for result in results} == {State.OK}


def test_more_scatter_asks_for_more_pairs() -> None:
    """A screen of 3 is planned for a quiet machine, of 8 for a shared one, and fresh pairs grow likewise."""
    gate = GateConfig()
    draw = np.random.default_rng(0)
    quiet, shared = (
        times.screened(pairs(profile, np.zeros(NUM_CELLS), 3, draw), gate) for profile in (QUIET_GPU, SHARED_VM)
    )
    assert (times.screen_pairs(quiet, gate), times.confirm_pairs(quiet, gate, 0.025)) == (3, 10)
    assert (times.screen_pairs(shared, gate), times.confirm_pairs(shared, gate, 0.025)) == (8, 15)


def test_a_calibrated_scatter_replaces_the_measured_one() -> None:
    gate = replace(GateConfig(), pair_sd=0.2)
    assert {result.state for result in sweep(QUIET_GPU, np.zeros(NUM_CELLS), 0, gate).results} == {State.INCONCLUSIVE}
