"""Counters for an untimed round: experts that passes really read, how uncertain steps were, when positions settled.

Legend: B batch, L block length, N tokens, K experts per token.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch

MOST_ROWS = 8  # of a batch, of which single positions are kept: enough to see an order, and records stay small


@dataclass(slots=True)
class Seen:
    """What passed by. Lists run over passes in order of execution.

    kinds: "denoise" or "decode" of each counted pass; prefill and commit are not counted.
    expert_hits: for each counted pass, the number of distinct experts that each layer read.
    entropies: for each denoising step, the mean entropy in nats of each row that it ran for.
    settled_steps: for each canvas, for each of the first MOST_ROWS rows, for each position, the step, counted from 1,
        from which on its likeliest token never changed.
    """

    kinds: list[str] = field(default_factory=list)
    expert_hits: list[list[int]] = field(default_factory=list)
    entropies: list[list[float]] = field(default_factory=list)
    _settled_BL: list[torch.Tensor] = field(default_factory=list)  # one a canvas
    _argmax_BL: torch.Tensor | None = None  # of the step before
    _counting: bool = False

    def begin(self, kind: str) -> None:
        """A pass of this kind starts; `kind` "" means one that is not counted."""
        self._counting = kind != ""
        if self._counting:
            self.kinds.append(kind)
            self.expert_hits.append([])

    def experts(self, experts_NK: torch.Tensor) -> None:
        """A layer chose these experts."""
        if self._counting:
            self.expert_hits[-1].append(experts_NK.unique().numel())

    def entropy(self, entropy_BL: torch.Tensor) -> None:
        """A denoising step saw these entropies."""
        self.entropies.append(entropy_BL.mean(dim=-1).tolist())

    def argmax(self, step: int, argmax_BL: torch.Tensor) -> None:
        """The likeliest tokens after a step, counted from 0, which begins a canvas."""
        argmax_BL = argmax_BL[:MOST_ROWS]
        if step == 0 or self._argmax_BL is None:
            self._settled_BL.append(torch.ones_like(argmax_BL))
        else:
            self._settled_BL[-1][argmax_BL != self._argmax_BL] = step + 1
        self._argmax_BL = argmax_BL

    @property
    def settled_steps(self) -> list[list[list[int]]]:
        return [settled_BL.tolist() for settled_BL in self._settled_BL]


class Observed(Protocol):
    """A model, as far as its observer knows it."""

    seen: Seen | None


@contextmanager
def observe(model: Observed) -> Iterator[Seen]:
    """`with observe(model) as seen: generate(model, ...)`. It reads the device in every layer: never time such a round.

    Raises:
        ValueError: the model is being observed already.
    """
    if model.seen is not None:
        raise ValueError("observe: this model is being observed already, expected one observer at a time")
    model.seen = Seen()
    try:
        yield model.seen
    finally:
        model.seen = None
