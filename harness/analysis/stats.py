"""Pure statistics: lists of floats in, an interval that states its own confidence out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from scipy.special import bdtr  # the binomial distribution; scipy.stats has it too, but takes a second to load

WANTED_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
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


def share_interval(share: float, weights: Sequence[float], wanted: float = WANTED_CONFIDENCE) -> Interval:
    """Wilson's interval of a share that prompts of these weights gave.

    Unequal weights count as fewer prompts (Kish: their sum squared / the sum of their squares). Of prompts that give 0
    or 1 it is Wilson's own; of those that give something between it is wider than need be.
    """
    from statsmodels.stats.proportion import proportion_confint  # loads pandas: half a second that few need

    n_prompts = sum(weights) ** 2 / sum(weight**2 for weight in weights)
    low, high = proportion_confint(share * n_prompts, n_prompts, alpha=1 - wanted, method="wilson")
    return Interval(low=min(float(low), share), high=max(float(high), share), confidence=wanted)


@cache
def _rank(n: int, wanted: float) -> tuple[int, float]:
    """The largest k that achieves the wanted confidence, else 1, and what it achieves."""
    achieved = [1 - 2 * float(bdtr(k - 1, n, 0.5)) for k in range(1, n // 2 + 1)] or [0.0]
    enough = [k for k, confidence in enumerate(achieved, 1) if confidence >= wanted]
    k = enough[-1] if enough else 1
    return k, achieved[k - 1]
