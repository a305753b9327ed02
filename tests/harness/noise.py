"""Made-up launches with the noise of three kinds of machines, for the gate's self-test.

log time = drift over the slots of a job (AR(1)) + launch + one of two modes of a launch + round noise + outliers that
only slow. Cells are independent. Standard deviations are shares: 0.01 is 1 %. The profiles are assumptions, chosen near
what CodSpeed publishes of bare metal and of hosted runners (codspeed.io/blog/benchmarks-in-ci-without-noise); the A/A
calibration of a machine replaces them.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from harness.analysis.gate import times
from harness.analysis.gate.times import TimeResult
from harness.spec.gate_rules import GateConfig

Floats = NDArray[np.float64]
DRIFT_MEMORY = 0.9  # of AR(1), from one launch to the next
ROUNDS = 10


@dataclass(frozen=True, kw_only=True)
class Profile:
    drift: float
    launch: float
    mode_share: float
    mode_jump: float
    round: float
    outlier_share: float
    outlier_mean: float


QUIET_GPU = Profile(
    drift=0.002, launch=0.003, mode_share=0.05, mode_jump=0.01, round=0.005, outlier_share=0.01, outlier_mean=0.1
)
NORMAL_GPU = Profile(
    drift=0.008, launch=0.007, mode_share=0.15, mode_jump=0.02, round=0.01, outlier_share=0.02, outlier_mean=0.3
)
SHARED_VM = Profile(
    drift=0.02, launch=0.015, mode_share=0.2, mode_jump=0.04, round=0.03, outlier_share=0.05, outlier_mean=0.5
)


def launches(profile: Profile, num_cells: int, num_slots: int, draw: Generator) -> Floats:
    """log time of each round: cells x slots of a job x rounds."""
    drift = np.empty((num_cells, num_slots))
    value = profile.drift * draw.standard_normal(num_cells)
    for slot in range(num_slots):
        drift[:, slot] = value
        step = profile.drift * (1 - DRIFT_MEMORY**2) ** 0.5 * draw.standard_normal(num_cells)
        value = DRIFT_MEMORY * value + step
    shape = (num_cells, num_slots)
    level = drift + profile.launch * draw.standard_normal(shape)
    level += profile.mode_jump * (draw.random(shape) < profile.mode_share)
    rounds = profile.round * draw.standard_normal((*shape, ROUNDS))
    rounds += (draw.random(rounds.shape) < profile.outlier_share) * draw.exponential(profile.outlier_mean, rounds.shape)
    return level[..., None] + rounds


def pairs(profile: Profile, effects: Floats, num_pairs: int, draw: Generator) -> Floats:
    """log(head / base) of launches in the order base, head, head, base, ..., the median over rounds.

    effects: log slowdown of each head.
    """
    level = launches(profile, len(effects), 2 * num_pairs, draw)
    later = np.median(level[:, 1::2] - level[:, 0::2], axis=2)
    base_first = np.arange(num_pairs) % 2 == 0
    return np.where(base_first, later, -later) + effects[:, None]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    results: list[TimeResult]
    pairs_per_cell: float


def sweep(profile: Profile, effects: Floats, seed: int, gate: GateConfig | None = None, floor: float = 0.025) -> Sweep:
    """The whole path of a job: screen, more of it where the pairs scatter, confirm what it keeps, judge."""
    gate = gate or GateConfig()
    draw = np.random.default_rng([seed, len(effects)])
    differences = pairs(profile, effects, gate.screen_pairs, draw)
    more = times.screen_pairs(times.screened(differences, gate), gate) - gate.screen_pairs
    if more > 0:
        differences = np.hstack([differences, pairs(profile, effects, more, draw)])
    screen = times.screened(differences, gate)
    num_confirm = times.confirm_pairs(screen, gate, floor)
    confirm = pairs(profile, effects, num_confirm, draw)
    confirm[~screen.kept] = np.nan
    results = times.judged(screen, confirm, np.full(len(effects), floor), gate)
    return Sweep(results=results, pairs_per_cell=differences.shape[1] + float(screen.kept.mean()) * num_confirm)


def main() -> None:
    parser = argparse.ArgumentParser(description="Sweeps of 200 cells, 10 of them slower: what the gate says of them.")
    parser.add_argument("--sweeps", type=int, default=400)
    num_sweeps = parser.parse_args().sweeps
    for name, profile in (("quiet GPU", QUIET_GPU), ("normal GPU", NORMAL_GPU), ("shared VM", SHARED_VM)):
        for slowdown in (0.0, 0.05, 0.1):
            effects = np.zeros(200)
            effects[:10] = np.log1p(slowdown)
            sweeps = [sweep(profile, effects, seed) for seed in range(num_sweeps)]
            num_slow = 10 if slowdown else 0
            slow = Counter(str(result.state) for one in sweeps for result in one.results[:num_slow])
            clean = Counter(str(result.state) for one in sweeps for result in one.results[num_slow:])
            red = sum(any(r.state == "REGRESSED" for r in one.results[num_slow:]) for one in sweeps)
            cost = np.mean([one.pairs_per_cell for one in sweeps])
            print(f"{name}, {slowdown:.0%}: {red / num_sweeps:.1%} of sweeps with a false alarm, {cost:.2f} pairs")
            print(f"  as fast: {dict(clean)}\n  slower: {dict(slow)}", flush=True)


if __name__ == "__main__":
    main()
