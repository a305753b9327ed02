"""Weights in float8_e4m3 with one scale per output channel, and the gate that says whether that is good enough.

A channel's scale is its largest magnitude over 448, the format's largest number, so that nothing overflows; each weight
is rounded to nearest even. E4M3 keeps 3 bits behind the leading one (https://arxiv.org/abs/2209.05433): a weight w of a
channel with scale s is off by at most max(|w| / 16, s / 1024), the second below the format's smallest normal number.
Only torch is needed here. Products with such weights: engine/kernels/linear.py and grouped_experts.py.

Legend: O output channels, I inputs; leading dimensions (experts) pass through.
"""

from __future__ import annotations

import torch

LARGEST = 448.0  # of float8_e4m3
# Largest accepted error of a model's logits (`logit_error`, against the same model in float32): 1.5 times the largest
# measured with the trained mini, over denoising and causal passes on 12 sets of 8 random prompts of 40 tokens: 4.6 %
# in bfloat16, 8.8 % with float8 weights under bfloat16 activations (norms, router and embedding not quantised). Random
# weights fare worse: `tiny` has 9.8 % and 17.7 %.
BOUNDS = {torch.bfloat16: 0.07, torch.float8_e4m3fn: 0.135}


def quantised(weight_OI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights as float8_e4m3, and their scales (..., O) float32: weight = float8 * scale."""
    w_OI = weight_OI.float()
    largest_O = w_OI.abs().amax(dim=-1)
    if not bool(largest_O.isfinite().all()):
        raise ValueError("weights with infinities or NaN have no float8 form")
    scale_O = torch.where(largest_O > 0, largest_O / LARGEST, 1.0)
    return (w_OI / scale_O[..., None]).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn), scale_O


def dequantised(weight_OI: torch.Tensor, scale_O: torch.Tensor) -> torch.Tensor:
    """What the stored weights stand for, float32."""
    return weight_OI.float() * scale_O[..., None]


def logit_error(logits: torch.Tensor, exact: torch.Tensor) -> float:
    """Root mean square of the difference over that of the exact logits: a share of 1, over all positions."""
    exact = exact.double()
    return float((logits.double() - exact).norm() / exact.norm())


def check_logits(logits: torch.Tensor, exact: torch.Tensor, dtype: torch.dtype) -> float:
    """The error of logits from weights of `dtype`; over that type's bound, or no number at all: ValueError."""
    error, bound = logit_error(logits, exact), BOUNDS[dtype]
    if not error <= bound:
        raise ValueError(
            f"with {str(dtype).removeprefix('torch.')} weights the logits are off by {error:.2%} (root mean square, "
            f"against float32); at most {bound:.2%} is accepted. Keep this model's weights in a wider type."
        )
    return error
