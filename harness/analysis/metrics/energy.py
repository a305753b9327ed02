"""Energy and money. A record's energy is that of one window of repeated requests, or a reason why there is none.

What is spent behind convergence or an end of sequence no counter can tell apart: those two are estimates.
"""

from __future__ import annotations

from itertools import accumulate
from statistics import fmean
from typing import Any

from harness.analysis.metrics.registry import Missing, metric
from harness.analysis.run_data import CellPlan
from harness.records.types import AUTOREGRESSIVE, Record, Round


@metric(unit="J/token", better="lower", kind="time", scope="record")
def energy_per_useful_token_j(record: Record, planned: CellPlan) -> float:
    """Energy of a window of repeated requests by the counter, idle power included / useful tokens of all rows in it."""
    window = _window(record)
    return _number("energy_j", window) / _number("useful_tokens", window)


@metric(unit="J/token", better="lower", kind="time", scope="record")
def energy_above_idle_per_useful_token_j(record: Record, planned: CellPlan) -> float:
    """(Energy of a window of repeated requests - idle power x its length) / useful tokens of all rows in it.

    Idle power is the mean of a few seconds before the first worker started.
    """
    window = _window(record)
    idle_j = _number("idle_w", window) * _number("window_s", window)
    return (_number("energy_j", window) - idle_j) / _number("useful_tokens", window)


@metric(unit="J, estimate", better="lower", kind="time", scope="record")
def energy_after_convergence_j(record: Record, planned: CellPlan) -> float:
    """An estimate: energy of a request x the share of round 0's wall time that lies in denoise steps behind the one
    from which on no useful position of a row's canvas changed its likeliest token; mean over the first eight rows.

    It takes power for even over a request. Rows that had ended before a canvas are left out: that is post-EOS waste.
    """
    if planned.cell.decoding == AUTOREGRESSIVE:
        raise Missing("autoregressive decoding has no canvas that converges")
    return _request_j(record) * _share_after_convergence(record)


@metric(unit="J, estimate", better="lower", kind="time", scope="record")
def energy_after_eos_j(record: Record, planned: CellPlan) -> float:
    """An estimate: energy of a request x post_eos_waste of the window's requests, the share of computed positions
    behind a row's first EOS or its requested length. It takes every position for equally dear, and the prefill for
    nothing.
    """
    window = _window(record)
    return _request_j(record) * (1 - _number("useful_tokens", window) / _number("raw_tokens", window))


@metric(unit="USD/M tokens", better="lower", kind="time")
def usd_per_million_useful_tokens(round: Round, planned: CellPlan) -> float:
    """The device file's price of an hour, of the date that its source names, x wall time of the request / useful tokens
    of all rows, for a million of them: the device is taken to work without a pause.
    """
    if planned.price_usd_per_hour is None:
        raise Missing("the device's file has no price")
    return planned.price_usd_per_hour / 3600 * round.wall_s / sum(round.useful_tokens) * 1e6


def _window(record: Record) -> dict[str, Any]:
    """The energy of the record's window.

    Raises:
        Missing: none was asked for, or its reason.
    """
    if not record.energy:
        raise Missing("not asked for: the suite's `energy` does not name this cell")
    if "reason" in record.energy:
        raise Missing(f"{record.energy['reason']}: {record.energy.get('why')}")
    return record.energy


def _number(name: str, window: dict[str, Any]) -> float:
    value = window.get(name)
    if not isinstance(value, int | float):
        why = window.get("missing")
        raise Missing(f"{name}: {why.get(name, 'not recorded') if isinstance(why, dict) else 'not recorded'}")
    return float(value)


def _request_j(record: Record) -> float:
    window = _window(record)
    return _number("energy_j", window) / _number("num_requests", window)


def _share_after_convergence(record: Record) -> float:
    """Of round 0's wall time, which the counting request repeated."""
    settled = record.counters.get("settled_steps")
    if not settled:
        raise Missing("settled_steps was not counted")
    first = record.rounds[0]
    executed = [max(steps) for steps in zip(*first.steps_per_canvas, strict=True)]  # steps of each canvas
    if sum(executed) != len(first.step_s) or len(settled) != len(executed):
        raise Missing("steps, their times and the counted canvases do not belong together")
    after_s = 0.0
    for num_steps, end, rows in zip(executed, accumulate(executed), settled, strict=True):
        behind_s = [sum(first.step_s[end - num_steps + max(row) : end]) for row in rows if row]
        after_s += fmean(behind_s) if behind_s else 0.0
    return after_s / first.wall_s
