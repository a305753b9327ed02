"""How a denoising step turns logits into the next canvas, and when a canvas is done. Pure functions.

Formulas and the order of random draws: huggingface/transformers, src/transformers/models/diffusion_gemma/
generation_diffusion_gemma.py; the acceptance rule is that of https://arxiv.org/abs/2505.24857. To add a sampler, write
one function with the signature of `reference` and name it in `SAMPLERS`.

Legend: B batch, L block length, V vocabulary, N steps or rows, S remembered steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from engine.ranges import ACCEPT, ENTROPY, RENOISE, SAMPLE


@dataclass(frozen=True, slots=True)
class Denoised:
    """What one step decides."""

    canvas_BL: torch.Tensor  # the next step's input: accepted draws, fresh noise elsewhere
    argmax_BL: torch.Tensor  # the likeliest tokens: what is committed if this was the last step
    entropy_BL: torch.Tensor  # nats per position
    conditioning_BLV: torch.Tensor  # temperature-divided logits, for the next step's self-conditioning


def temperatures(steps: int, t_min: float, t_max: float, device: torch.device) -> torch.Tensor:
    """Temperature of each step, (N,) float32: t_max at the first, t_min + (t_max - t_min) / N at the last.

    Computed as transformers does, from whole step numbers counted down, so that every bit agrees.
    """
    remaining_N = torch.arange(steps, 0, -1, dtype=torch.int32, device=device)
    return t_min + (t_max - t_min) * (remaining_N / steps)


def random_canvas(
    batch: int, length: int, vocab: int, device: torch.device, generator: torch.Generator | None
) -> torch.Tensor:
    return torch.randint(0, vocab, (batch, length), device=device, generator=generator)


def reference(
    logits_BLV: torch.Tensor, temperature: torch.Tensor, entropy_bound: float, generator: torch.Generator | None
) -> Denoised:
    """The checkpoint's sampler with the draws of transformers: one multinomial over B * L rows, one randint(B, L)."""
    return _entropy_bound_step(logits_BLV, temperature, entropy_bound, generator, _multinomial)


def fast(
    logits_BLV: torch.Tensor, temperature: torch.Tensor, entropy_bound: float, generator: torch.Generator | None
) -> Denoised:
    """The same step, and from equal generators the same tokens, without multinomial's checks of the probabilities."""
    return _entropy_bound_step(logits_BLV, temperature, entropy_bound, generator, draw)


Sampler = Callable[[torch.Tensor, torch.Tensor, float, torch.Generator | None], Denoised]
SAMPLERS: dict[str, Sampler] = {"reference": reference, "fast": fast}


def _entropy_bound_step(
    logits_BLV: torch.Tensor,
    temperature: torch.Tensor,
    entropy_bound: float,
    generator: torch.Generator | None,
    draw_rows: Callable[[torch.Tensor, torch.Generator | None], torch.Tensor],
) -> Denoised:
    batch, length, vocab = logits_BLV.shape
    with SAMPLE():
        z_BLV = logits_BLV / temperature
        probs_BLV = z_BLV.softmax(dim=-1, dtype=torch.float32)
        drawn_BL = draw_rows(probs_BLV.view(-1, vocab), generator).view(batch, length)
        argmax_BL = z_BLV.argmax(dim=-1)
    with ENTROPY():
        entropy_BL = entropy(z_BLV)
    with ACCEPT():
        accepted_BL = within_bound(entropy_BL, entropy_bound)
    with RENOISE():
        noise_BL = random_canvas(batch, length, vocab, logits_BLV.device, generator)
        canvas_BL = torch.where(accepted_BL, drawn_BL, noise_BL)
    return Denoised(canvas_BL, argmax_BL, entropy_BL, z_BLV)


def draw(probs_NV: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """One token of each row, (N, 1), by an exponential race: the arithmetic of torch.multinomial for one sample.

    Multinomial itself first checks that the probabilities are valid, which takes three more passes over all of them.
    """
    return (probs_NV / torch.empty_like(probs_NV).exponential_(generator=generator)).argmax(dim=-1, keepdim=True)


def _multinomial(probs_NV: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    return torch.multinomial(probs_NV, 1, generator=generator)


def entropy(z_BLV: torch.Tensor) -> torch.Tensor:
    """Entropy of softmax(z) in nats, (B, L), by the operations of torch.distributions.Categorical."""
    log_probs_BLV = z_BLV - z_BLV.logsumexp(dim=-1, keepdim=True)
    return -(log_probs_BLV * log_probs_BLV.softmax(dim=-1)).sum(dim=-1)


def within_bound(entropy_BL: torch.Tensor, bound: float) -> torch.Tensor:
    """Positions to accept: the least uncertain ones, while the entropies before them sum to at most the bound.

    At least one position per row is accepted, since nothing comes before the first.
    """
    ascending_BL, order_BL = entropy_BL.sort(dim=-1)
    accepted_BL = ascending_BL.cumsum(dim=-1) - ascending_BL <= bound
    return torch.zeros_like(accepted_BL).scatter(-1, order_BL, accepted_BL)


class AdaptiveStop:
    """A row is done when its likeliest tokens equal those of the last S steps and its mean entropy is small."""

    def __init__(self, stability: int, confidence: float) -> None:
        self.stability = stability
        self.confidence = confidence
        self.history_SBL: torch.Tensor | None = None

    def __call__(self, argmax_BL: torch.Tensor, entropy_BL: torch.Tensor) -> torch.Tensor:
        """Rows that stop after this step, (B,) bool on the device."""
        confident_B = entropy_BL.mean(dim=-1) < self.confidence
        if self.stability == 0:
            return confident_B
        if self.history_SBL is None:  # no token has id -1, so that a fresh history equals nothing
            self.history_SBL = torch.full_like(argmax_BL, -1).repeat(self.stability, 1, 1)
        stable_B = (self.history_SBL == argmax_BL).all(dim=-1).all(dim=0)
        self.history_SBL = torch.cat([self.history_SBL[1:], argmax_BL[None]])
        return stable_B & confident_B


class ReplayedStop(AdaptiveStop):
    """Rows stop on a schedule drawn in advance. The adaptive rule's own work is still done, and its answer not used."""

    def __init__(self, stability: int, confidence: float, steps_B: torch.Tensor) -> None:
        super().__init__(stability, confidence)
        self.steps_B = steps_B
        self.taken = 0

    def __call__(self, argmax_BL: torch.Tensor, entropy_BL: torch.Tensor) -> torch.Tensor:
        super().__call__(argmax_BL, entropy_BL)
        self.taken += 1
        return self.steps_B <= self.taken
