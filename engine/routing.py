"""Drawn routing: each token's experts come from a distribution instead of the router, whose own work is still done.

Untrained routers send all tokens to few experts, which makes an engine look fast. A draw gives each token K different
experts by seeded Gumbel noise on the logarithms of the experts' weights: the K largest are a draw without replacement
(https://arxiv.org/abs/1903.06059). Which distinct experts a pass then reads in expectation: engine/cost/popularity.py.

The noise is a hash of (seed, layer, pass, row, expert), counted on the device: nothing is read from it, a request
repeats with its seed, and rows of both decoders follow one law. Draws are independent: rows of a canvas agree no more
than any others.

Legend: N tokens (rows), E experts, K per token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch

from engine.rows import Rows

_MASK = 0xFFFFFFFF
_BITS = 23  # of the uniform number, so that float32 holds it and half a step exactly


class Routing:
    """Draws for one request. Layers have weights of their own, or all the same."""

    def __init__(
        self, weights: Sequence[Sequence[float]], num_layers: int, seed: int, device: torch.device | str
    ) -> None:
        """weights: for each layer, or once for all, a weight of at least 0 for each expert.

        Raises:
            ValueError: another number of layers.
        """
        if len(weights) not in (1, num_layers):
            raise ValueError(f"routing weights are of {len(weights)} layers, expected 1 or {num_layers}")
        log_1E = torch.tensor([list(layer) for layer in weights], dtype=torch.float64).log().float()
        self.log_weights_LE = log_1E.expand(num_layers, -1).contiguous().to(device)
        self.passes_L = torch.zeros(num_layers, dtype=torch.long, device=device)
        self.expert_E = torch.arange(self.log_weights_LE.shape[1], device=device)
        self.seed_1 = torch.full((1,), seed, dtype=torch.long, device=device)

    def copy(self) -> Routing:
        """The same draws from tensors of its own."""
        other = Routing([[1.0]], 1, 0, self.seed_1.device)
        for name in ("log_weights_LE", "passes_L", "expert_E", "seed_1"):
            setattr(other, name, getattr(self, name).clone())
        return other

    def take(self, other: Routing) -> None:
        """Go on as `other` would, in the tensors that are here."""
        for name in ("log_weights_LE", "passes_L", "seed_1"):
            getattr(self, name).copy_(getattr(other, name))

    def draw(self, layer: int, experts_NK: torch.Tensor, rows: Rows | None = None) -> torch.Tensor:
        """Experts in place of those that the router chose, (N, K): all of a row are different.

        rows: which rows of the batch the tokens belong to, so that they draw the same when others have left; None: all.
        """
        tokens, k = experts_NK.shape
        row_N1 = torch.arange(tokens, device=experts_NK.device)[:, None]
        if rows is not None:
            each = tokens // len(rows.here)
            row_N1 = row_N1 % each + each * rows.here_b.repeat_interleave(each)[:, None]
        key = _mixed(_mixed(self.seed_1 + layer) + self.passes_L[layer])
        hash_NE = _mixed(_mixed(key + row_N1) + self.expert_E)
        self.passes_L[layer] += 1
        uniform_NE = ((hash_NE >> (32 - _BITS)).float() + 0.5) * 2.0**-_BITS
        gumbel_NE = -(-uniform_NE.log()).log()
        return (self.log_weights_LE[layer] + gumbel_NE).topk(k, dim=-1).indices


class Routed(Protocol):
    """A model, as far as drawn routing knows it."""

    routing: Routing | None


@contextmanager
def drawn(model: Routed, routing: Routing | None) -> Iterator[None]:
    """`with drawn(model, routing): generate(model, ...)`; None leaves the router to decide."""
    model.routing = routing
    try:
        yield
    finally:
        model.routing = None


def _mixed(x: torch.Tensor) -> torch.Tensor:
    """A 32-bit integer hash in 64-bit arithmetic that never overflows (lowbias32: nullprogram.com/blog/2018/07/31)."""
    x = x & _MASK
    x = x ^ (x >> 16)
    x = _times(x, 0x21F0AAAD)
    x = x ^ (x >> 15)
    x = _times(x, 0xD35A2D97)
    return x ^ (x >> 15)


def _times(x: torch.Tensor, factor: int) -> torch.Tensor:
    """The product modulo 2^32, in halves: 48 bits at most."""
    low, high = factor & 0xFFFF, factor >> 16
    return (x * low + (((x * high) & 0xFFFF) << 16)) & _MASK
