"""How a denoising step turns logits into the next canvas, and when a canvas is done. Pure functions.

Formulas and the order of random draws: huggingface/transformers, src/transformers/models/diffusion_gemma/
generation_diffusion_gemma.py; the acceptance rule is that of https://arxiv.org/abs/2505.24857. To add a sampler, write
one function with the signature of `reference` and name it in `SAMPLERS`.

Where rows have left the batch (`rows`), draws are made for the whole of it, and those of the rows that are here are
used: a row draws the same whoever is still there.

Legend: B rows that a step runs for, L block length, V vocabulary in C chunks of W, N steps or rows, S remembered steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from engine.ranges import ACCEPT, ENTROPY, RENOISE, SAMPLE
from engine.rows import Rows, drawn_by_row


@dataclass(frozen=True, slots=True)
class Denoised:
    """What one step decides."""

    canvas_BL: torch.Tensor  # the next step's input: accepted draws, fresh noise elsewhere
    argmax_BL: torch.Tensor  # the likeliest tokens: what is committed if this was the last step
    entropy_BL: torch.Tensor  # nats per position
    # For the next step's self-conditioning, one of the two:
    conditioning_BLV: torch.Tensor | None = None  # temperature-divided logits
    probs_BLV: torch.Tensor | None = None  # their softmax in float32


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


def _noise(like_BLV: torch.Tensor, generator: torch.Generator | None, rows: Rows | None) -> torch.Tensor:
    """Fresh tokens, (B, L)."""
    batch, length, vocab = like_BLV.shape
    return drawn_by_row(rows, batch, lambda every: random_canvas(every, length, vocab, like_BLV.device, generator))


def reference(
    logits_BLV: torch.Tensor,
    temperature: torch.Tensor,
    entropy_bound: float,
    generator: torch.Generator | None,
    rows: Rows | None = None,
) -> Denoised:
    """The checkpoint's sampler with the draws of transformers: one multinomial over B * L rows, one randint(B, L)."""
    return _entropy_bound_step(logits_BLV, temperature, entropy_bound, generator, rows, _multinomial)


def plain(
    logits_BLV: torch.Tensor,
    temperature: torch.Tensor,
    entropy_bound: float,
    generator: torch.Generator | None,
    rows: Rows | None = None,
) -> Denoised:
    """The same step, and from equal generators the same tokens, without multinomial's checks of the probabilities."""
    return _entropy_bound_step(logits_BLV, temperature, entropy_bound, generator, rows, draw)


def fast(
    logits_BLV: torch.Tensor,
    temperature: torch.Tensor,
    entropy_bound: float,
    generator: torch.Generator | None,
    rows: Rows | None = None,
) -> Denoised:
    """The same step with one number drawn per position instead of one per token of the vocabulary.

    With d = z - max z, Z = sum e^d and S = sum d e^d, the probabilities are e^d / Z and the entropy is log Z - S / Z.
    The probabilities take the place of the logits.
    """
    batch, length, _ = logits_BLV.shape

    def uniform(every: int) -> torch.Tensor:
        return torch.rand(every, length, dtype=torch.float64, device=logits_BLV.device, generator=generator)

    with SAMPLE():
        d_BLV = logits_BLV / temperature
        top_BL1, argmax_BL = largest(d_BLV)
        d_BLV -= top_BL1
        probs_BLV = torch.exp(d_BLV, out=logits_BLV)
        total_BL1 = probs_BLV.sum(dim=-1, keepdim=True)
        probs_BLV /= total_BL1
        u_BL = drawn_by_row(rows, batch, uniform)
        drawn_BL = invert(probs_BLV, u_BL)
    with ENTROPY():
        entropy_BL = total_BL1[..., 0].log() - d_BLV.mul_(probs_BLV).sum(dim=-1)
    with ACCEPT():
        accepted_BL = within_bound(entropy_BL, entropy_bound)
    with RENOISE():
        noise_BL = _noise(logits_BLV, generator, rows)
        canvas_BL = torch.where(accepted_BL, drawn_BL, noise_BL)
    return Denoised(canvas_BL, argmax_BL, entropy_BL, probs_BLV=probs_BLV)


# (logits_BLV, temperature, entropy_bound, generator), and after rows have left, which only compaction=on does, `rows`.
# The logits are the sampler's to overwrite.
Sampler = Callable[..., Denoised]
SAMPLERS: dict[str, Sampler] = {"reference": reference, "plain": plain, "fast": fast}


def largest(z_BLV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The maximum (B, L, 1) and the first place of it (B, L), as max and argmax, by way of the chunks' maxima.

    On a CPU argmax over many numbers takes nine times as long as their maximum.
    """
    chunks_BLCW = _in_chunks(z_BLV)
    chunk_max_BLC = chunks_BLCW.amax(dim=-1)
    chunk_BL1 = chunk_max_BLC.argmax(dim=-1, keepdim=True)
    best_BLW = _take(chunks_BLCW, chunk_BL1)
    place_BL = chunk_BL1[..., 0] * chunks_BLCW.shape[-1] + best_BLW.argmax(dim=-1)
    return chunk_max_BLC.gather(-1, chunk_BL1), place_BL


def invert(probs_BLV: torch.Tensor, u_BL: torch.Tensor) -> torch.Tensor:
    """One token of each row, (B, L): the first whose cumulated probability exceeds u in [0, 1).

    First the chunk in which that is, then the token in the chunk; sums in float64, so that no token's share is lost to
    rounding, and as shares of their last one, so that rounding leads to no token beyond the last possible one.
    """
    chunks_BLCW = _in_chunks(probs_BLV)
    upto_BLC = chunks_BLCW.sum(dim=-1).double().cumsum(dim=-1)
    target_BL1 = u_BL[..., None] * upto_BLC[..., -1:]
    chunk_BL1 = torch.searchsorted(upto_BLC, target_BL1, right=True)
    before_BL1 = upto_BLC.gather(-1, (chunk_BL1 - 1).clamp_min(0)) * (chunk_BL1 > 0)
    share_BL1 = (target_BL1 - before_BL1) / (upto_BLC.gather(-1, chunk_BL1) - before_BL1)
    inside_BLW = _take(chunks_BLCW, chunk_BL1).double().cumsum(dim=-1)
    token_BL1 = torch.searchsorted(inside_BLW, share_BL1 * inside_BLW[..., -1:], right=True)
    return (chunk_BL1 * chunks_BLCW.shape[-1] + token_BL1)[..., 0]


def _in_chunks(x_BLV: torch.Tensor) -> torch.Tensor:
    """(B, L, C, W) with W near the root of V where V allows it, otherwise one chunk."""
    vocab = x_BLV.shape[-1]
    width = 1 << ((vocab.bit_length() + 1) // 2)
    return x_BLV.view(*x_BLV.shape[:-1], -1, width if vocab % width == 0 else vocab)


def _take(chunks_BLCW: torch.Tensor, chunk_BL1: torch.Tensor) -> torch.Tensor:
    """The chosen chunk of each row, (B, L, W)."""
    width = chunks_BLCW.shape[-1]
    return chunks_BLCW.gather(2, chunk_BL1[..., None].expand(-1, -1, -1, width))[:, :, 0]


def _entropy_bound_step(
    logits_BLV: torch.Tensor,
    temperature: torch.Tensor,
    entropy_bound: float,
    generator: torch.Generator | None,
    rows: Rows | None,
    draw_rows: Callable[[torch.Tensor, torch.Generator | None], torch.Tensor],
) -> Denoised:
    batch, length, vocab = logits_BLV.shape

    def token_of_each(every: int) -> torch.Tensor:
        # Rows that have left draw too, from no matter what, so that the generator goes on as without their leaving.
        all_BLV = probs_BLV if rows is None else rows.put(probs_BLV.new_ones(every, length, vocab), probs_BLV)
        return draw_rows(all_BLV.view(-1, vocab), generator).view(every, length)

    with SAMPLE():
        z_BLV = logits_BLV / temperature
        probs_BLV = z_BLV.softmax(dim=-1, dtype=torch.float32)
        drawn_BL = drawn_by_row(rows, batch, token_of_each)
        argmax_BL = z_BLV.argmax(dim=-1)
    with ENTROPY():
        entropy_BL = entropy(z_BLV)
    with ACCEPT():
        accepted_BL = within_bound(entropy_BL, entropy_bound)
    with RENOISE():
        noise_BL = _noise(logits_BLV, generator, rows)
        canvas_BL = torch.where(accepted_BL, drawn_BL, noise_BL)
    return Denoised(canvas_BL, argmax_BL, entropy_BL, conditioning_BLV=z_BLV)


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
        self.history_SBL.copy_(torch.cat([self.history_SBL[1:], argmax_BL[None]]))  # in its place, for engine/steps.py
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
