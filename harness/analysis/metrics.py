"""What can be said about a measured cell. A metric is one declared function; its docstring is its formula.

Reports and gates read the registry METRICS, so a new metric needs nothing but its function here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean, median
from typing import Any, Literal

from harness.analysis.run_data import CellPlan
from harness.records.types import AUTOREGRESSIVE, Record, Round

Better = Literal["higher", "lower"]
Kind = Literal["counter", "time"]  # a counter repeats exactly with its seed; a time does not
# What a metric is computed from: (round, planned cell), (record, planned cell), or (round, the twin's round).
Scope = Literal["round", "record", "pair"]


class Missing(Exception):
    """A metric cannot be had here; the message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    name: str
    unit: str
    better: Better
    kind: Kind
    scope: Scope
    formula: str
    function: Callable[..., float]

    def compute(self, *inputs: Any) -> float:
        """The metric's value.

        Raises:
            Missing: it cannot be had, or is no finite number.
        """
        try:
            value = float(self.function(*inputs))
        except (ZeroDivisionError, ValueError):  # ValueError: the mean or the largest of nothing
            raise Missing("its formula has no value here") from None
        if not math.isfinite(value):
            raise Missing("its value is not finite")
        return value


METRICS: dict[str, Metric] = {}


def metric(
    *, unit: str, better: Better, kind: Kind, scope: Scope = "round"
) -> Callable[[Callable[..., float]], Callable[..., float]]:
    """Declare the decorated function as the metric of that name."""

    def declare(function: Callable[..., float]) -> Callable[..., float]:
        name = function.__name__
        assert function.__doc__, f"metric {name} has no formula"
        assert name not in METRICS, f"metric {name} is declared twice"
        formula = " ".join(function.__doc__.split())
        METRICS[name] = Metric(
            name=name, unit=unit, better=better, kind=kind, scope=scope, formula=formula, function=function
        )
        return function

    return declare


@metric(unit="tok/s", better="higher", kind="time")
def useful_tok_s(round: Round, planned: CellPlan) -> float:
    """Useful tokens of all rows / wall time of the whole request: prefill, commits and discarded work included."""
    return _tok_s(round)


@metric(unit="x", better="higher", kind="time", scope="pair")
def speedup_vs_ar(round: Round, twin: Round) -> float:
    """useful_tok_s / useful_tok_s of the autoregressive twin's round of the same index in the same process."""
    return _tok_s(round) / _tok_s(twin)


@metric(unit="s", better="lower", kind="time")
def request_s(round: Round, planned: CellPlan) -> float:
    """Wall time of the whole request of the batch."""
    return round.wall_s


@metric(unit="tok/s", better="higher", kind="time")
def decode_tok_s(round: Round, planned: CellPlan) -> float:
    """Useful tokens after each row's first block / (time of the last block - time of the first).

    A block is a canvas, or one token when decoding is autoregressive. With one block it is missing: the time to that
    block holds the prefill, so nothing is left that is decoding alone.
    """
    if len(round.block_s) < 2:
        raise Missing("one block: there is nothing after it to time")
    block = planned.cell.block_length or 1
    tokens = sum(max(0, useful - block) for useful in round.useful_tokens)
    if not tokens:
        raise Missing("no useful token after the first block")
    return tokens / (round.block_s[-1] - round.block_s[0])


@metric(unit="s", better="lower", kind="time")
def ttfb_s(round: Round, planned: CellPlan) -> float:
    """Time until the first canvas's tokens (autoregressive: the first token) are on the host, before its commit."""
    return round.ttfb_s


@metric(unit="s", better="lower", kind="time")
def time_to_1_s(round: Round, planned: CellPlan) -> float:
    """Time until the block that brings a row's first useful token is on the host."""
    return _time_to(1, round, planned)


@metric(unit="s", better="lower", kind="time")
def time_to_64_s(round: Round, planned: CellPlan) -> float:
    """Time until the block that brings a row's 64th useful token is on the host; every row must have so many."""
    return _time_to(64, round, planned)


@metric(unit="s", better="lower", kind="time")
def time_to_256_s(round: Round, planned: CellPlan) -> float:
    """Time until the block that brings a row's 256th useful token is on the host; every row must have so many."""
    return _time_to(256, round, planned)


@metric(unit="s", better="lower", kind="time")
def block_s(round: Round, planned: CellPlan) -> float:
    """Median time from one block to the next; with one block, the time to it, which holds the prefill."""
    if not round.block_s:
        raise Missing("no block times")
    between = [after - before for before, after in pairwise(round.block_s)]
    return median(between or round.block_s)


@metric(unit="s", better="lower", kind="time")
def step_s(round: Round, planned: CellPlan) -> float:
    """Median time of a denoise step or decode pass."""
    if not round.step_s:
        raise Missing(round.missing.get("step_s", "no step times"))
    return median(round.step_s)


@metric(unit="steps", better="lower", kind="counter")
def steps_per_canvas(round: Round, planned: CellPlan) -> float:
    """Mean algorithmic steps over rows and canvases; a canvas after a row's end, where it takes none, is left out."""
    if planned.cell.decoding == AUTOREGRESSIVE:
        raise Missing("autoregressive decoding has no canvas")
    return mean(steps for row in _steps(round) for steps in row if steps)


@metric(unit="tokens/pass", better="higher", kind="counter")
def tpf_denoise(round: Round, planned: CellPlan) -> float:
    """Mean over rows of useful tokens / denoise passes."""
    passes = round.passes.get("denoise", 0)
    if not passes:
        raise Missing("no denoise pass")
    return mean(useful / passes for useful in round.useful_tokens)


@metric(unit="tokens/pass", better="higher", kind="counter")
def tpf_total(round: Round, planned: CellPlan) -> float:
    """Mean over rows of useful tokens / all passes after prefill."""
    passes = sum(count for kind, count in round.passes.items() if kind != "prefill")
    if not passes:
        raise Missing("no pass after prefill")
    return mean(useful / passes for useful in round.useful_tokens)


@metric(unit="tokens", better="higher", kind="counter")
def useful_tokens_per_row(round: Round, planned: CellPlan) -> float:
    """Mean over rows of useful tokens: the length of an answer."""
    return mean(round.useful_tokens)


@metric(unit="share", better="lower", kind="counter")
def straggler_share(round: Round, planned: CellPlan) -> float:
    """1 - work of the rows / work of the static batch, which runs until its last row is done.

    Work is denoise steps (executed for every row: batch x denoise passes), or useful tokens when autoregressive
    (executed for every row: those of the longest).
    """
    if planned.cell.decoding == AUTOREGRESSIVE:
        return 1 - sum(round.useful_tokens) / (len(round.useful_tokens) * max(round.useful_tokens))
    rows = _steps(round)
    return 1 - sum(map(sum, rows)) / (len(rows) * round.passes.get("denoise", 0))


@metric(unit="share", better="lower", kind="counter")
def post_eos_waste(round: Round, planned: CellPlan) -> float:
    """1 - useful tokens of all rows / computed positions: those of every canvas (autoregressive: every token) x rows.

    The waste is what lies behind a row's first EOS or behind its requested length: the rest of its last canvas, and all
    that the static batch computes for it until its last row is done. With eos ignored, the rest of the last canvas.
    """
    return 1 - sum(round.useful_tokens) / round.raw_tokens


@metric(unit="share", better="higher", kind="counter")
def canvas_fill(round: Round, planned: CellPlan) -> float:
    """Mean over rows of useful tokens / (block_length x canvases in which the row took a step).

    Unlike 1 - post_eos_waste it does not charge a row for canvases that ran for other rows alone.
    """
    block_length = planned.cell.block_length
    if block_length is None:
        raise Missing("autoregressive decoding has no canvas")
    rows = zip(round.useful_tokens, _steps(round), strict=True)
    return mean(useful / (block_length * sum(1 for steps in row if steps)) for useful, row in rows)


@metric(unit="share", better="higher", kind="time")
def floor_share(round: Round, planned: CellPlan) -> float:
    """Floor of the passes that were executed (floor of a pass kind / planned count x executed count) / wall time."""
    return sum(_floor_of(kind, count, planned) for kind, count in round.passes.items() if count) / round.wall_s


@metric(unit="s", better="lower", kind="time")
def device_s(round: Round, planned: CellPlan) -> float:
    """Time of the whole request between two device events."""
    return _present("device_s", round)


@metric(unit="share", better="higher", kind="time")
def device_share(round: Round, planned: CellPlan) -> float:
    """device_s / request_s: what is left is the gap between device events and wall time."""
    return _present("device_s", round) / round.wall_s


@metric(unit="s", better="lower", kind="time")
def cpu_s(round: Round, planned: CellPlan) -> float:
    """Processor time of our process during the request, over all its threads."""
    return round.cpu_s


@metric(unit="bytes", better="lower", kind="counter")
def peak_memory_bytes(round: Round, planned: CellPlan) -> float:
    """Most bytes that the framework had allocated on the device at once."""
    return _present("peak_allocated_bytes", round)


@metric(unit="bytes", better="lower", kind="counter")
def peak_device_bytes(round: Round, planned: CellPlan) -> float:
    """Most bytes in use on the whole device; on a CPU, by the process."""
    return _present("peak_device_bytes", round)


@metric(unit="experts", better="lower", kind="counter", scope="record")
def distinct_experts(record: Record, planned: CellPlan) -> float:
    """Mean over passes and layers of the distinct experts that were read, from the record's untimed counting round."""
    hits: list[int] = [count for layers in record.counters.get("expert_hits", ()) for count in layers]
    if not hits:
        raise Missing("experts were not counted")
    return mean(hits)


def _tok_s(round: Round) -> float:
    tokens = sum(round.useful_tokens)
    if not tokens:
        raise Missing("a round gave no useful token")
    return tokens / round.wall_s


def _steps(round: Round) -> tuple[tuple[int, ...], ...]:
    if not round.steps_per_canvas:
        raise Missing(round.missing.get("steps_per_canvas", "no step counts"))
    return round.steps_per_canvas


def _time_to(count: int, round: Round, planned: CellPlan) -> float:
    """The same for every row, because a static batch advances together."""
    if min(round.useful_tokens, default=0) < count:
        raise Missing(f"a row has fewer than {count} useful tokens")
    block = (count - 1) // (planned.cell.block_length or 1)
    if block >= len(round.block_s):
        raise Missing("no time for the block that brings it")
    return round.block_s[block]


def _floor_of(kind: str, executed: int, planned: CellPlan) -> float:
    phase = planned.phases.get(kind) or {}
    if not phase.get("count"):
        raise Missing(f"the plan holds no {kind} pass, so that pass has no floor")
    if phase.get("floor_s") is None:
        raise Missing(planned.missing.get("floor_s", "the device has no roofs"))
    return float(phase["floor_s"]) / int(phase["count"]) * executed


def _present(name: str, round: Round) -> float:
    value = getattr(round, name)
    if value is None:
        raise Missing(round.missing.get(name, "not recorded"))
    return float(value)
