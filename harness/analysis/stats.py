"""Pure statistics: numbers in, an interval that states its own confidence out."""

from __future__ import annotations

from collections.abc import Sequence

from harness.spec.intervals import WANTED_CONFIDENCE, Interval, median_interval

__all__ = ["WANTED_CONFIDENCE", "Interval", "median_interval", "share_interval"]


def share_interval(share: float, weights: Sequence[float], wanted: float = WANTED_CONFIDENCE) -> Interval:
    """Wilson's interval of a share that prompts of these weights gave.

    Unequal weights count as fewer prompts (Kish: their sum squared / the sum of their squares). Of prompts that give 0
    or 1 it is Wilson's own; of those that give something between it is wider than need be.
    """
    from statsmodels.stats.proportion import proportion_confint  # loads pandas: half a second that few need

    n_prompts = sum(weights) ** 2 / sum(weight**2 for weight in weights)
    low, high = proportion_confint(share * n_prompts, n_prompts, alpha=1 - wanted, method="wilson")
    return Interval(low=min(float(low), share), high=max(float(high), share), confidence=wanted)
