"""In which order the positions of a canvas settle."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

from harness.records.types import Record


def settled_rows(record: Record) -> list[list[int]]:
    """Of every canvas and kept row that took part: the step at which each useful position settled."""
    return [row for canvas in record.counters.get("settled_steps", ()) for row in canvas if row]


def left_to_right(rows: Iterable[Sequence[int]]) -> float | None:
    """Mean of Kendall's tau-b between position and step, without rows that settle all at once and have no order."""
    from scipy.stats import kendalltau

    ordered = [row for row in rows if len(set(row)) > 1]
    if not ordered:
        return None
    return fmean(float(kendalltau(range(len(row)), row, method="asymptotic").statistic) for row in ordered)
