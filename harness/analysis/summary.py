"""A metric of one cell over its rounds and launches."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import chain
from statistics import median
from typing import NamedTuple

from harness.analysis.stats import WANTED_CONFIDENCE, median_interval, share_interval

ENOUGH_LAUNCHES = 5  # from here on launches, which differ by more than rounds do, carry the interval
WITHIN_ONE_LAUNCH, OVER_LAUNCHES, OVER_PROMPTS = "within one launch", "over launches", "over prompts"


class Summary(NamedTuple):  # a report holds a million of them
    """value: median over launches of each launch's median over its rounds. low, high: an interval of the median.

    basis says what the interval is over: the launches, or, with fewer than five of them, all rounds alike; then it
    leaves out what differs between launches and is labelled "within one launch".

    A share (n_prompts is set) pools all rows instead: value is their parts / their wholes, and the interval, "over
    prompts", says how far it may lie from that over all prompts of the kind. minimum, maximum: of the rounds.
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
    n_prompts: int | None = None  # different ones, over which the interval is taken


def summarise(by_launch: Sequence[Sequence[float]], unit: str) -> Summary:
    """Summary of the values of each launch's rounds; at least one launch, and none of them empty."""
    medians = [median(values) for values in by_launch]
    rounds = sorted(chain.from_iterable(by_launch))
    over_launches = len(medians) >= ENOUGH_LAUNCHES
    low, high, confidence = median_interval(medians if over_launches else rounds)
    value = median(medians)
    return Summary(  # by place, which takes half the time
        value,
        unit,
        len(rounds),
        len(medians),
        min(low, value),  # pooled rounds of 2 to 4 launches need not surround the median of medians
        max(high, value),
        rounds[0],
        rounds[-1],
        confidence,
        OVER_LAUNCHES if over_launches else WITHIN_ONE_LAUNCH,
    )


class Share(NamedTuple):
    """What one row adds to a share, for example 1 of 1 graded answers, or 48 of 60 steps."""

    part: float
    whole: float
    prompt: Hashable


def summarise_share(by_launch: Sequence[Sequence[Sequence[Share]]], unit: str) -> Summary:
    """Summary of a share from the rows of each launch's rounds; at least one row.

    Prompts that a run repeats, in rounds or launches, are no new evidence: each counts once in the interval.
    """
    rounds = [rows for launch in by_launch for rows in launch]
    wholes: dict[Hashable, float] = {}
    for rows in rounds:
        for row in rows:
            wholes[row.prompt] = wholes.get(row.prompt, 0.0) + row.whole
    value = _ratio([row for rows in rounds for row in rows])
    interval = share_interval(value, list(wholes.values()))
    by_round = [_ratio(rows) for rows in rounds]
    return Summary(
        value=value,
        unit=unit,
        n_rounds=len(rounds),
        n_launches=len(by_launch),
        low=interval.low,
        high=interval.high,
        minimum=min(by_round),
        maximum=max(by_round),
        confidence=WANTED_CONFIDENCE,
        basis=OVER_PROMPTS,
        n_prompts=len(wholes),
    )


def _ratio(rows: Sequence[Share]) -> float:
    return sum(row.part for row in rows) / sum(row.whole for row in rows)
