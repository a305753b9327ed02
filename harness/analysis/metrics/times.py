"""How long it takes, and how much that is in a second."""

from __future__ import annotations

from itertools import pairwise
from statistics import median

from harness.analysis.metrics.registry import Missing, metric, present
from harness.analysis.run_data import CellPlan
from harness.records.types import Record, Round


@metric(unit="tok/s", better="higher", kind="time")
def useful_tok_s(round: Round, planned: CellPlan) -> float:
    """Useful tokens of all rows / wall time of the whole request: prefill, commits and discarded work included."""
    return _tok_s(round)


@metric(unit="x", better="higher", kind="time", scope="pair")
def speedup_vs_ar(round: Round, twin: Round) -> float:
    """useful_tok_s / that of the plain autoregressive twin's round (no speculation) of one index in one process."""
    return _tok_s(round) / _tok_s(twin)


@metric(unit="x", better="lower", kind="time", scope="options")
def slowdown_vs_default(round: Round, default: Round) -> float:
    """wall_s / wall_s of the same round without the cell's own options, of axes.options, in the same process."""
    return round.wall_s / default.wall_s


@metric(unit="x", better="higher", kind="time", scope="pair")
def cpu_speedup_vs_ar(round: Round, twin: Round) -> float:
    """On a CPU: useful tokens per second of CPU time / that of the round which speedup_vs_ar divides by."""
    if round.device_s is not None or twin.device_s is not None:
        raise Missing("another device computes, so CPU time is the host's part alone")
    return (sum(round.useful_tokens) / round.cpu_s) / (sum(twin.useful_tokens) / twin.cpu_s)


@metric(unit="x", better="higher", kind="time", scope="peer")
def peer_speedup(round: Round, peer: Round) -> float:
    """useful_tok_s / useful_tok_s of the peer's round of the same index in the same process."""
    return _tok_s(round) / _tok_s(peer)


@metric(unit="x", better="higher", kind="time", scope="peer")
def peer_step_speedup(round: Round, peer: Round) -> float:
    """step_s of the peer's round of the same index in the same process / step_s: a denoise step, or a decoded token."""
    return _step_s(peer) / _step_s(round)


@metric(unit="s", better="lower", kind="time", scope="record")
def cold_s(record: Record, planned: CellPlan) -> float:
    """Wall time of the cell's first request in its launch, before any warm-up; rounds leave it out."""
    cold_s = record.course.get("cold_s")
    if cold_s is None:
        raise Missing("no cold request was timed")
    return float(cold_s)


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
    return _step_s(round)


@metric(unit="s", better="lower", kind="time")
def device_s(round: Round, planned: CellPlan) -> float:
    """Time of the whole request between two device events."""
    return float(present("device_s", round))


@metric(unit="share", better="higher", kind="time")
def device_share(round: Round, planned: CellPlan) -> float:
    """device_s / request_s: what is left is the gap between device events and wall time."""
    return float(present("device_s", round)) / round.wall_s


@metric(unit="s", better="lower", kind="time")
def cpu_s(round: Round, planned: CellPlan) -> float:
    """Processor time of our process during the request, over all its threads."""
    return round.cpu_s


def _tok_s(round: Round) -> float:
    tokens = sum(round.useful_tokens)
    if not tokens:
        raise Missing("a round gave no useful token")
    return tokens / round.wall_s


def _step_s(round: Round) -> float:
    if not round.step_s:
        raise Missing(round.missing.get("step_s", "no step times"))
    return median(round.step_s)


def _time_to(count: int, round: Round, planned: CellPlan) -> float:
    """The same for every row, because a static batch advances together."""
    if min(round.useful_tokens, default=0) < count:
        raise Missing(f"a row has fewer than {count} useful tokens")
    block = (count - 1) // (planned.cell.block_length or 1)
    if block >= len(round.block_s):
        raise Missing("no time for the block that brings it")
    return round.block_s[block]
