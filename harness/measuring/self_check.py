"""What must hold in every round, whatever backend gave it: counts that fit together, and times that fit into time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from harness.records.types import AUTOREGRESSIVE, PASS_KINDS, SELF_CHECK, Cell, Round

# Device events and the host's clock may run this far apart.
_CLOCK_SLACK = 0.01


class WrongAnswer(Exception):
    """A round that cannot be true: what it says of its speed would be no result."""

    def __init__(self, found: Sequence[str]) -> None:
        super().__init__(f"{SELF_CHECK}: {'; '.join(found)}")


def broken(round: Round, cell: Cell) -> list[str]:
    """Each identity that the round breaks, in words."""
    passes = _passes(round, cell) if round.passes else ()  # a backend that cannot see them has none
    return [*passes, *_tokens(round, cell), *_times(round)]


def _passes(round: Round, cell: Cell) -> Iterator[str]:
    """A prefill, then what the decoding says: a decode pass a token, or the steps and commits of canvases."""
    passes = {kind: round.passes.get(kind, 0) for kind in PASS_KINDS}
    blocks = len(round.block_s)
    if passes["prefill"] != 1:
        yield f"{passes['prefill']} prefill passes, expected 1"
    if cell.decoding == AUTOREGRESSIVE:
        wanted = {"denoise": 0, "commit": 0, "decode": blocks - 1}
    else:
        wanted = {"commit": blocks - 1, "decode": 0}
        yield from _denoise_passes(round, cell, passes["denoise"])
    for kind, count in wanted.items():
        if passes[kind] != count:
            yield f"{passes[kind]} {kind} passes, expected {count} with {blocks} blocks"
    for kind, rows in round.row_passes.items():
        if not passes.get(kind, 0) <= rows <= passes.get(kind, 0) * cell.batch_size:
            yield f"{passes.get(kind, 0)} {kind} passes for {rows} rows, with a batch of {cell.batch_size}"
    executed = passes["denoise"] + passes["decode"]
    if round.step_s and len(round.step_s) != executed:
        yield f"{len(round.step_s)} step times, but {executed} denoise and decode passes"


def _denoise_passes(round: Round, cell: Cell, passes: int) -> Iterator[str]:
    """Every canvas runs until its last row stops; a row that has met its end counts no steps but may still run."""
    if not round.steps_per_canvas:
        return
    canvases = list(zip(*round.steps_per_canvas, strict=False))
    steps = sum(max(rows) for rows in canvases)
    if len(canvases) != len(round.block_s):
        yield f"steps of {len(canvases)} canvases, but times of {len(round.block_s)}"
    if passes < steps or (cell.eos == "ignore" and passes != steps):
        yield f"{passes} denoise passes, but the canvases' longest rows took {steps} steps"
    if (rows := round.row_passes.get("denoise", 0)) < (taken := sum(map(sum, canvases))):
        yield f"denoise passes for {rows} rows, but rows took {taken} steps"
    if cell.num_steps is not None and max(map(max, canvases), default=0) > cell.num_steps:
        yield f"a canvas took more than {cell.num_steps} steps"


def _tokens(round: Round, cell: Cell) -> Iterator[str]:
    """Tokens per pass times passes are tokens: rows get what their blocks can hold, and with eos ignored all of it."""
    capacity = len(round.block_s) * (cell.block_length or 1)
    if len(round.useful_tokens) != cell.batch_size:
        yield f"useful tokens of {len(round.useful_tokens)} rows, expected {cell.batch_size}"
    if round.raw_tokens != (computed := _computed(round, cell, capacity)):
        yield f"{round.raw_tokens} positions computed, expected {computed}"
    for useful in sorted(set(round.useful_tokens)):
        if useful > cell.output_tokens:
            yield f"{useful} useful tokens, but only {cell.output_tokens} were asked for"
        elif useful > capacity:
            yield f"{useful} useful tokens, but the blocks hold {capacity}"
        elif cell.eos == "ignore" and useful != cell.output_tokens:
            yield f"{useful} useful tokens with eos ignored, expected {cell.output_tokens}"


def _computed(round: Round, cell: Cell, capacity: int) -> int:
    """Positions of all rows' blocks: one behind a prefill, and one behind each commit or decode pass."""
    if not round.passes:
        return capacity * cell.batch_size
    blocks = sum(round.row_passes.get(kind, 0) for kind in ("prefill", "commit", "decode"))
    return blocks * (cell.block_length or 1)


def _times(round: Round) -> Iterator[str]:
    """Time runs forward, and no part is longer than the whole."""
    if any(after < before for before, after in pairwise((0.0, *round.block_s))) or min(round.step_s, default=0.0) < 0:
        yield "its events run backwards"
    if round.block_s and round.ttfb_s != round.block_s[0]:
        yield "ttfb_s is not the time of the first block"
    parts = {"ttfb_s is": round.ttfb_s, "a block's time is": max(round.block_s, default=0.0)}
    parts |= {"the steps together are": sum(round.step_s)}
    for name, seconds in parts.items():
        if seconds > round.wall_s * (1 + _CLOCK_SLACK):
            yield f"{name} longer than the request"
