"""Times judged as arrays: cells x pairs of launches, each value log(head / base), its sign such that above 0 is worse.

A row is one rule on one cell. Screen all rows with a few pairs, confirm those that it keeps with fresh ones, and call
OK only what the pairs can show to be OK. One function for real jobs and for the made-up ones of the self-test.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import ceil, log

import numpy as np
from numpy.typing import NDArray

from harness.analysis import stats
from harness.analysis.stats import Floats, Paired
from harness.analysis.verdict import State
from harness.spec.gate_rules import GateConfig

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Screened:
    """What the screen says of each row."""

    stats: Paired
    slower: Bools  # to be confirmed as slower
    faster: Bools
    pair_sd: float  # of one pair: calibrated, or pooled over all rows
    degrees: float  # of freedom that pair_sd has; infinite where it is calibrated

    @property
    def kept(self) -> Bools:
        return self.slower | self.faster


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeResult:
    """Of one row. mean, low, high: log ratios; worse is above 0. None: too few pairs to say."""

    state: State
    stage: str  # screen | confirm: which pairs decided
    mean: float | None
    low: float | None
    high: float | None
    p: float | None = None
    p_adjusted: float | None = None
    mde: float | None = None  # as a share: 0.05 is 5 %; None: so few pairs cannot tell


def screened(differences: Floats, gate: GateConfig) -> Screened:
    """Keep a row whose mean is beyond gate.screen_effect with a one-sided p below gate.screen_p, either way."""
    found = stats.paired(differences)
    pair_sd, degrees = stats.pooled_sd(found.sd, found.n)
    calibrated = gate.pair_sd is not None
    return Screened(
        stats=found,
        slower=(found.mean > gate.screen_effect) & (found.p_greater < gate.screen_p),
        faster=(found.mean < -gate.screen_effect) & (found.p_less < gate.screen_p),
        pair_sd=gate.pair_sd if gate.pair_sd is not None else pair_sd,
        degrees=float("inf") if calibrated else float(degrees),
    )


def screen_pairs(screen: Screened, gate: GateConfig) -> int:
    """How many pairs the screen needs; capped.

    So many that it keeps a row that is slower by gate.effect, and that a row of this scatter which is as fast as before
    can be called OK, either with gate.power.
    """
    sd = screen.pair_sd
    if not np.isfinite(sd):
        return gate.screen_pairs
    least, most = gate.screen_pairs, gate.most_screen_pairs
    limit = log(1 + gate.effect)
    to_keep = stats.pairs_needed(limit, gate.screen_effect, sd, gate.screen_p, gate.power, least, most) or most
    to_rule_out = ((_quantile(screen) + stats.normal_quantile(gate.power)) * sd / limit) ** 2
    return max(to_keep, ceil(min(to_rule_out, most)))


def confirm_pairs(screen: Screened, gate: GateConfig, floor: float) -> int:
    """How many fresh pairs show a slowdown by gate.effect at the level that Holm leaves the first row; capped."""
    kept = int(max(screen.slower.sum(), screen.faster.sum(), 1))
    if not np.isfinite(screen.pair_sd):
        return gate.confirm_pairs
    needed = partial(stats.pairs_needed, log(1 + gate.effect), log(1 + floor), screen.pair_sd)
    return needed(gate.alpha / kept, gate.power, gate.confirm_pairs, gate.most_confirm_pairs) or gate.most_confirm_pairs


def judged(screen: Screened, confirm: Floats, floors: Floats, gate: GateConfig) -> list[TimeResult]:
    """Every row's result.

    confirm: fresh pairs of the kept rows; rows that were not kept are NaN, and so are pairs that were not measured.
    floors: of each row, the least change that may be called one, as a share.
    """
    found = stats.paired(confirm)
    limit = log(1 + gate.effect)
    adjusted = np.full(len(floors), np.nan)
    own_p = np.where(screen.slower, found.p_greater, found.p_less)
    sizes = np.ones(len(floors), dtype=int)
    for side in (screen.slower, screen.faster):
        rows = np.flatnonzero(side & ~np.isnan(own_p))
        adjusted[rows] = stats.holm(own_p[rows])
        sizes[rows] = len(rows)
    beyond = np.abs(found.mean) > np.log1p(floors)
    significant = (adjusted < gate.alpha) & beyond
    results = []
    half_widths = _screen_half_widths(screen)
    for row in range(len(floors)):
        if not screen.kept[row]:
            results.append(_of_screen(screen, row, float(half_widths[row]), limit, gate))
            continue
        mean, low, high = (float(column[row]) for column in (found.mean, found.low, found.high))
        if found.n[row] < 2:
            results.append(_unsure("confirm"))
            continue
        if significant[row] and screen.slower[row]:
            state = State.REGRESSED
        elif significant[row]:
            state = State.IMPROVED
        else:
            state = State.OK if high < limit else State.INCONCLUSIVE
        mde = _mde(int(found.n[row]), float(found.sd[row]), gate.alpha / sizes[row], log(1 + floors[row]), gate)
        results.append(
            TimeResult(
                state=state,
                stage="confirm",
                mean=mean,
                low=low,
                high=high,
                p=float(own_p[row]),
                p_adjusted=float(adjusted[row]),
                mde=mde,
            )
        )
    return results


def _screen_half_widths(screen: Screened) -> Floats:
    """Of each row's 95 % interval, by the larger of its own scatter and that of all rows: three pairs alone know too
    little of theirs.
    """
    found = screen.stats
    with np.errstate(invalid="ignore", divide="ignore"):
        widths: Floats = _quantile(screen) * np.fmax(found.sd, screen.pair_sd) / np.sqrt(found.n)
    return widths


def _quantile(screen: Screened) -> float:
    """Standard errors from a mean to the ends of its 95 % interval."""
    two_sided = (1 + stats.WANTED_CONFIDENCE) / 2
    return float(stats.t_quantile(two_sided, screen.degrees)) if screen.degrees else float("inf")


def _of_screen(screen: Screened, row: int, half_width: float, limit: float, gate: GateConfig) -> TimeResult:
    """A row that the screen did not keep is OK only where a slowdown by gate.effect can be ruled out."""
    found = screen.stats
    n = int(found.n[row])
    if n < 2:
        return _unsure("screen")
    mean = float(found.mean[row])
    sd = float(np.fmax(found.sd[row], screen.pair_sd))
    return TimeResult(
        state=State.OK if mean + half_width < limit else State.INCONCLUSIVE,
        stage="screen",
        mean=mean,
        low=mean - half_width,
        high=mean + half_width,
        p=float(min(found.p_greater[row], found.p_less[row])),
        mde=_mde(n, sd, gate.screen_p, gate.screen_effect, gate),
    )


def _unsure(stage: str) -> TimeResult:
    return TimeResult(state=State.INCONCLUSIVE, stage=stage, mean=None, low=None, high=None)


def _mde(n: int, sd: float, alpha: float, floor: float, gate: GateConfig) -> float | None:
    """The least slowdown, as a share, that n pairs show with gate.power by the test and beyond the floor. None: it can
    not be told, as where two pairs are asked for the p that many cells leave.
    """
    with np.errstate(over="ignore"):
        share = float(np.expm1(stats.least_shown(n, sd, alpha, floor, gate.power)))
    return share if np.isfinite(share) else None
