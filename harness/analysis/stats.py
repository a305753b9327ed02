"""Pure statistics: numbers in, an interval that states its own confidence out. Arrays are cells x pairs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.spec.intervals import WANTED_CONFIDENCE, Interval, median_interval

__all__ = [
    "WANTED_CONFIDENCE",
    "Interval",
    "Paired",
    "detectable_sds",
    "first_difference_p",
    "holm",
    "least_shown",
    "median_interval",
    "normal_quantile",
    "paired",
    "pairs_needed",
    "pooled_sd",
    "ratio_interval",
    "share_interval",
    "sign_flip_p",
    "t_quantile",
]

Floats = NDArray[np.float64]


def share_interval(share: float, weights: Sequence[float], wanted: float = WANTED_CONFIDENCE) -> Interval:
    """Wilson's interval of a share that prompts of these weights gave.

    Unequal weights count as fewer prompts (Kish: their sum squared / the sum of their squares). Of prompts that give 0
    or 1 it is Wilson's own; of those that give something between it is wider than need be. statsmodels has the same
    formula, but takes a second to load and a tenth of a millisecond a share; a large report has 20,000 of them.
    """
    n_prompts = sum(weights) ** 2 / sum(weight**2 for weight in weights)
    z = normal_quantile((1 - wanted) / 2)
    whole = 1 + z * z / n_prompts
    centre = (share + z * z / (2 * n_prompts)) / whole
    reach = -z * math.sqrt(share * (1 - share) / n_prompts + z * z / (4 * n_prompts**2)) / whole
    return Interval(low=min(max(centre - reach, 0), share), high=max(min(centre + reach, 1), share), confidence=wanted)


@dataclass(frozen=True, slots=True)
class Paired:
    """Of each cell: mean and standard deviation of its pairs' differences, the mean's 95 % interval by Student's t, and
    the p-values of the two one-sided tests against 0. Of fewer than two pairs all but n are NaN.
    """

    n: NDArray[np.int64]
    mean: Floats
    sd: Floats
    low: Floats
    high: Floats
    p_greater: Floats
    p_less: Floats


def paired(differences: Floats) -> Paired:
    """Cell by cell; a pair that is NaN was not measured.

    Pairs that are all alike have no scatter to judge by: they count as certain, as times of a real clock never are.
    """
    from scipy.stats import ttest_1samp

    n = np.sum(~np.isnan(differences), axis=1)
    columns: dict[str, Floats] = {
        name: np.full(len(n), np.nan) for name in ("mean", "sd", "low", "high", "p_greater", "p_less")
    }
    for count in np.unique(n[n >= 2]):  # cells that lost a pair are few, and judged by themselves
        rows = np.flatnonzero(n == count)
        values = differences[rows]
        values = values[~np.isnan(values)].reshape(len(rows), count)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # scipy says of equal values that they are nearly equal
            result = ttest_1samp(values, 0.0, axis=1, alternative="greater")
            interval = ttest_1samp(values, 0.0, axis=1).confidence_interval(WANTED_CONFIDENCE)
        mean, sd = values.mean(axis=1), values.std(axis=1, ddof=1)
        alike = sd <= 1e-12 * np.maximum(1.0, np.abs(mean))
        certain = np.where(mean > 0, 0.0, 1.0)
        columns["mean"][rows], columns["sd"][rows] = mean, sd
        columns["low"][rows] = np.where(alike, mean, interval.low)
        columns["high"][rows] = np.where(alike, mean, interval.high)
        columns["p_greater"][rows] = np.where(alike, certain, result.pvalue)
        columns["p_less"][rows] = np.where(alike, np.where(mean < 0, 0.0, 1.0), 1 - result.pvalue)
    return Paired(n=n, **columns)


def pooled_sd(sds: Floats, n: NDArray[np.int64]) -> tuple[float, int]:
    """Standard deviation within cells, and its degrees of freedom; NaN and 0 where no cell has two pairs."""
    has = n >= 2
    degrees = n[has] - 1
    if not degrees.sum():
        return float("nan"), 0
    return float(np.sqrt(np.sum(degrees * sds[has] ** 2) / degrees.sum())), int(degrees.sum())


def holm(p: Sequence[float] | Floats) -> Floats:
    """p-values adjusted for their number, by Holm."""
    if not len(p):
        return np.empty(0)
    from statsmodels.stats.multitest import multipletests

    adjusted: Floats = multipletests(np.asarray(p), method="holm")[1]
    return adjusted


def t_quantile(share: float, degrees: Any) -> Any:
    """Of Student's t; degrees may be an array."""
    from scipy.special import stdtrit

    return stdtrit(degrees, share)


@cache
def normal_quantile(share: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(share))


@lru_cache(maxsize=4096)
def detectable_sds(n: int, alpha: float, power: float) -> float:
    """The least mean, in standard deviations of one pair, that a one-sided t-test of n pairs shows with that power."""
    from statsmodels.stats.power import TTestPower

    if n < 2 or alpha <= 0:
        return float("inf")
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = TTestPower().solve_power(nobs=n, alpha=alpha, power=power, alternative="larger")
    return float(np.max(found))


def pairs_needed(
    effect: float, floor: float, sd: float, alpha: float, power: float, least: int, most: int
) -> int | None:
    """The least number of pairs that shows a mean of `effect` both by the test and beyond `floor`, or None: not `most`.

    sd: of one pair, in the unit of effect and floor.
    """
    return next((n for n in range(least, most + 1) if least_shown(n, sd, alpha, floor, power) <= effect), None)


def least_shown(n: int, sd: float, alpha: float, floor: float, power: float) -> float:
    """The least mean that n pairs show with that power both by the t-test and beyond `floor`."""
    with np.errstate(over="ignore"):
        return float(max(detectable_sds(n, alpha, power) * sd, floor + normal_quantile(power) * sd / n**0.5))


def sign_flip_p(differences: Sequence[float], seed: int) -> float:
    """P of a mean as large or larger, were the sign of every difference a coin's: exact up to 13 that are not 0."""
    from scipy.stats import permutation_test

    moved = np.array([one for one in differences if one], dtype=float)
    if len(moved) == 0:
        return 1.0
    if len(moved) == 1:
        return 0.5 if moved[0] > 0 else 1.0
    found = permutation_test(
        (moved,), np.mean, permutation_type="samples", alternative="greater", vectorized=True, random_state=seed
    )
    return float(found.pvalue)


def first_difference_p(differing: int, compared: int, rate: float) -> float:
    """P of so many differing rows or more among the tokens compared until they differ, were one in 1 / rate to."""
    from scipy.stats import binomtest

    return float(binomtest(differing, compared, rate, alternative="greater").pvalue)


def ratio_interval(base: Sequence[float], head: Sequence[float]) -> tuple[float, float] | tuple[None, None]:
    """95 % interval of head / base, all above 0, by Welch's t of their logs; None where a side has fewer than two."""
    from scipy.stats import ttest_ind

    if min(len(base), len(head)) < 2:
        return None, None
    logs = np.log(head), np.log(base)
    if max(float(np.ptp(one)) for one in logs) == 0:
        ratio = float(np.exp(logs[0][0] - logs[1][0]))
        return ratio, ratio
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one side that is all alike
        interval = ttest_ind(*logs, equal_var=False).confidence_interval(WANTED_CONFIDENCE)
    return float(np.exp(interval.low)), float(np.exp(interval.high))
