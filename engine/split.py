"""Where the time of a pass goes: the ranges of a request as a stopwatch, for one request that is not timed otherwise.

Exclusive time: whatever a part contains is counted once, in the innermost range that names a part. Marks cost no
synchronisation: on a CPU they are the host's clock, on CUDA events, which are read in batches.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch

from engine import ranges

# A range that begins a pass -> the pass's kind.
PASSES = {"prefill": "prefill", "commit": "commit", "denoise.step": "denoise", "decode.step": "decode"}
# A range that names a part -> the part, by cost.py's name of the operation where one range is one operation. Attention
# is projections and core together, self-conditioning the soft embedding and its MLP, lm_head with its norm and cap.
PARTS = {
    "attn.sliding": "attention",
    "attn.full": "attention",
    "mlp": "dense_mlp",
    "router": "router",
    "experts": "experts",
    "selfcond": "self_conditioning",
    "final_norm": "lm_head",
    "lm_head": "lm_head",
    "softcap": "lm_head",
    "sample": "sampler",
    "entropy": "sampler",
    "accept": "sampler",
    "renoise": "sampler",
    "stop.check": "sampler",
}
OTHER = "other"  # of a pass, what no part holds: embedding, norms, residuals, masks, the loop itself
_MOST_MARKS = 4096  # unread ones: CUDA events are no endless supply

Place = tuple[str, str] | None  # (pass kind, part), or between passes


class Split:
    """Seconds of each part and number of passes, by kind: `with listening(device) as split: generate(...)`."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, dict[str, float]] = {}
        self.passes: dict[str, int] = {}
        self._cuda = device.type == "cuda"
        self._place: Place = None
        self._marks: list[tuple[Any, Place]] = []  # when, and the place from then on

    def enter(self, name: str) -> Place:
        """A range of this name begins; gives the place that it interrupts, for `leave`."""
        before = self._place
        if name in PASSES:
            kind = PASSES[name]
            self.passes[kind] = self.passes.get(kind, 0) + 1
            self._move((kind, OTHER))
        elif before is not None and name in PARTS:
            self._move((before[0], PARTS[name]))
        return before

    def leave(self, before: Place) -> None:
        """The range ends that `enter` gave this place for."""
        self._move(before)

    def read(self) -> None:
        """Bring all marks into `seconds`. On CUDA it waits for the last of them."""
        if self._cuda and self._marks:
            self._marks[-1][0].synchronize()
        for (begin, place), (end, _) in pairwise(self._marks):
            if place is not None:
                parts = self.seconds.setdefault(place[0], {})
                taken = begin.elapsed_time(end) / 1e3 if self._cuda else end - begin
                parts[place[1]] = parts.get(place[1], 0.0) + taken
        del self._marks[:-1]

    def _move(self, place: Place) -> None:
        if place == self._place:
            return
        self._place = place
        self._marks.append((self._now(), place))
        if place is None and len(self._marks) > _MOST_MARKS:  # between passes, where waiting distorts none
            self.read()

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


@contextmanager
def listening(device: torch.device) -> Iterator[Split]:
    """Ranges tell the split, and no profiler, until the end; then its numbers are complete."""
    split = Split(device)
    with ranges.heard_by(split):
        yield split
    split.read()
