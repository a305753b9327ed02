"""The interval of a median. Who measures asks it whether rounds suffice, and who summarises prints it: one rule."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from scipy.special import bdtr  # the binomial distribution; scipy.stats has it too, but takes a second to load

WANTED_CONFIDENCE = 0.95


class Interval(NamedTuple):  # made as often as summaries are
    low: float
    high: float
    confidence: float  # achieved: that the median of what was sampled lies within


def median_interval(sample: Sequence[float], wanted: float = WANTED_CONFIDENCE) -> Interval:
    """The narrowest symmetric pair of order statistics that holds the median with the wanted confidence.

    The k-th smallest and k-th largest of n hold it with 1 - 2 P(Binomial(n, 1/2) < k). A sample that is too small for
    the wanted confidence gives its smallest and largest value and what those achieve: 75 % for 3, 0 % for 1.
    """
    ordered = sorted(sample)
    n = len(ordered)
    k, confidence = _rank(n, wanted)
    return Interval(low=ordered[k - 1], high=ordered[n - k], confidence=confidence)


@cache
def _rank(n: int, wanted: float) -> tuple[int, float]:
    """The largest k that achieves the wanted confidence, else 1, and what it achieves."""
    achieved = [1 - 2 * float(bdtr(k - 1, n, 0.5)) for k in range(1, n // 2 + 1)] or [0.0]
    enough = [k for k, confidence in enumerate(achieved, 1) if confidence >= wanted]
    k = enough[-1] if enough else 1
    return k, achieved[k - 1]
