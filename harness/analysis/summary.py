"""A metric of one cell over its rounds and launches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from harness.analysis.stats import median_interval

ENOUGH_LAUNCHES = 5  # from here on launches, which differ by more than rounds do, carry the interval
WITHIN_ONE_LAUNCH, OVER_LAUNCHES = "within one launch", "over launches"


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """value: median over launches of each launch's median over its rounds. low, high: an interval of the median.

    basis says what the interval is over: the launches, or, with fewer than five of them, all rounds alike; then it
    leaves out what differs between launches and is labelled "within one launch".
    """

    value: float
    unit: str
    n_rounds: int
    n_launches: int
    low: float
    high: float
    minimum: float
    maximum: float
    confidence: float
    basis: str


def summarise(by_launch: Sequence[Sequence[float]], unit: str) -> Summary:
    """Summary of the values of each launch's rounds; at least one launch, and none of them empty."""
    medians = [median(values) for values in by_launch]
    rounds = [value for values in by_launch for value in values]
    over_launches = len(medians) >= ENOUGH_LAUNCHES
    interval = median_interval(medians if over_launches else rounds)
    value = median(medians)
    return Summary(
        value=value,
        unit=unit,
        n_rounds=len(rounds),
        n_launches=len(medians),
        low=min(interval.low, value),  # pooled rounds of 2 to 4 launches need not surround the median of medians
        high=max(interval.high, value),
        minimum=min(rounds),
        maximum=max(rounds),
        confidence=interval.confidence,
        basis=OVER_LAUNCHES if over_launches else WITHIN_ONE_LAUNCH,
    )
