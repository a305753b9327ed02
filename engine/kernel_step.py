"""A denoising step's end with the sampler 'kernel': head, statistics and draws by rows, acceptance and fresh noise.

All that it draws comes from outside, in tensors, so that a captured step can be given new draws before each replay.

Legend: B batch, L block length, N = B * L rows, H hidden, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine.model import Model
from engine.ranges import ACCEPT, RENOISE, SAMPLE
from engine.sampling import Denoised, within_bound

KERNEL = "kernel"  # the sampler's name
_MOST_LOGITS = 2**28  # at once, where the head is chunked: 1 GiB in float32, 1024 rows of 262,144


@dataclass(frozen=True, slots=True)
class Draws:
    """One step's randomness."""

    seed_1: torch.Tensor  # int64, of the kernel's draws
    noise_BL: torch.Tensor  # int64 tokens for positions that are not accepted
    draw_1: torch.Tensor  # int64 zero: a step has a seed of its own

    @classmethod
    def of(cls, canvas_BL: torch.Tensor) -> Draws:
        """Room for a canvas like this one; `renew` fills it."""
        seed_1, draw_1 = (torch.zeros(1, dtype=torch.long, device=canvas_BL.device) for _ in range(2))
        return cls(seed_1, torch.zeros_like(canvas_BL, dtype=torch.long), draw_1)

    def renew(self, vocab: int, generator: torch.Generator | None) -> None:
        self.seed_1.random_(generator=generator)
        self.noise_BL.random_(0, vocab, generator=generator)


def sampled(
    model: Model,
    x_BLH: torch.Tensor,
    temperature: torch.Tensor,
    entropy_bound: float,
    draws: Draws,
    out_probs_BLV: torch.Tensor | None = None,
) -> Denoised:
    """What the step decides, from the last layer's output. Nothing is read on the host.

    Its probabilities, which transformers makes of logits rounded to the weights' type, are written to `out_probs_BLV`
    where that is given.
    """
    from engine.kernels.sampler import sample  # only where it is launched: there may be no Triton

    (batch, length, hidden), vocab = x_BLH.shape, model.config.vocab_size
    x_NH = x_BLH.reshape(-1, hidden)
    if out_probs_BLV is None:
        out_probs_BLV = x_BLH.new_empty(batch, length, vocab)
    probs_NV = out_probs_BLV.view(-1, vocab)
    at_once = max(1, _MOST_LOGITS // vocab) if model.choices.head == "chunked" else len(x_NH)
    parts = []
    for first in range(0, len(x_NH), at_once):
        rows = slice(first, first + at_once)
        logits_NV = model.head(x_NH[rows])
        seed_1 = draws.seed_1 + first  # the kernel numbers rows from 0: another seed, and other draws, for each chunk
        with SAMPLE():
            parts.append(
                sample(
                    logits_NV,
                    temperature,
                    seed_1,
                    draws.draw_1,
                    probs_dtype=x_BLH.dtype,
                    out_probs_NV=probs_NV[rows],
                )
            )
    drawn_BL, argmax_BL, entropy_BL = (
        torch.cat([getattr(part, name) for part in parts]).view(batch, length)
        for name in ("token_N", "argmax_N", "entropy_N")
    )
    with ACCEPT():
        accepted_BL = within_bound(entropy_BL, entropy_bound)
    with RENOISE():
        canvas_BL = torch.where(accepted_BL, drawn_BL, draws.noise_BL)
    return Denoised(canvas_BL, argmax_BL, entropy_BL, probs_BLV=out_probs_BLV)
