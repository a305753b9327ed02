"""What bfloat16 and float8 weights do to the trained mini's logits: within the stated bounds, and not by much.

With the implementations that are taken where nobody chooses.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from engine import api, sampling
from engine.kernels import fp8

Change = Callable[[torch.Tensor], torch.Tensor]
QUANTISED = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "gate_up_proj"}


def as_signs(weight_OI: torch.Tensor) -> torch.Tensor:
    """Minus one, zero or one times the channel's largest magnitude."""
    scale_O1 = weight_OI.float().abs().amax(dim=-1, keepdim=True)
    return (weight_OI.float() / scale_O1).round() * scale_O1


def logits_of(dtype: torch.dtype, weights: str | None = None, change: Change | None = None) -> torch.Tensor:
    """Of a canvas's first step, one that goes on from its own predictions, and a causal pass; eight random prompts.

    `change` is made to all weights but norms, router and embedding.
    """
    model = api.load("mini", dtype=dtype, weights=weights)
    g = torch.Generator().manual_seed(0)
    prompt, canvas = (torch.randint(4, 896, (8, 32), generator=g) for _ in range(2))
    with torch.no_grad():
        for name, weight in model.named_parameters() if change is not None else ():
            if QUANTISED & set(name.split(".")):
                weight.copy_(change(weight))
        cache = api.encode(model, prompt)
        first = api.denoise_logits(model, canvas, cache)
        believed = sampling.SAMPLERS[model.choices.sampler](first, torch.tensor(0.8), 0.1, g)
        second = model.denoise(canvas, cache, believed.conditioning_BLV, believed.probs_BLV)
        return torch.stack([first, second, api.causal_logits(model, prompt)])


@pytest.fixture(scope="module")
def exact() -> torch.Tensor:
    return logits_of(torch.float32)


@pytest.mark.parametrize("weights", [torch.bfloat16, torch.float8_e4m3fn])
def test_the_minis_logits_are_within_the_stated_bound_and_not_far_below(
    exact: torch.Tensor, weights: torch.dtype
) -> None:
    float8 = "float8_e4m3" if weights == torch.float8_e4m3fn else None
    error = fp8.check_logits(logits_of(torch.bfloat16, float8), exact, weights)
    assert error > fp8.BOUNDS[weights] / 5


def test_a_model_of_which_signs_are_left_is_refused(exact: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="Keep this model's weights in a wider type"):
        fp8.check_logits(logits_of(torch.bfloat16, change=as_signs), exact, torch.float8_e4m3fn)
