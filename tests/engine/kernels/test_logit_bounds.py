"""What bfloat16 and float8 weights do to the trained mini's logits: within the stated bounds, and not by much."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from engine import api
from engine.kernels import fp8

Change = Callable[[torch.Tensor], torch.Tensor]
QUANTISED = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "gate_up_proj"}


def as_float8(weight_OI: torch.Tensor) -> torch.Tensor:
    return fp8.dequantised(*fp8.quantised(weight_OI))


def as_signs(weight_OI: torch.Tensor) -> torch.Tensor:
    """Minus one, zero or one times the channel's largest magnitude."""
    scale_O1 = weight_OI.float().abs().amax(dim=-1, keepdim=True)
    return (weight_OI.float() / scale_O1).round() * scale_O1


def logits_of(dtype: torch.dtype, change: Change | None = None) -> torch.Tensor:
    """Of a denoising and a causal pass over eight random prompts; all but norms, router and embedding is changed."""
    model = api.load("mini", dtype=dtype)
    g = torch.Generator().manual_seed(0)
    prompt, canvas = (torch.randint(4, 896, (8, 32), generator=g) for _ in range(2))
    with torch.no_grad():
        for name, weight in model.named_parameters() if change is not None else ():
            if QUANTISED & set(name.split(".")):
                weight.copy_(change(weight))
        denoised = api.denoise_logits(model, canvas, api.encode(model, prompt))
        return torch.stack([denoised, api.causal_logits(model, prompt)])


@pytest.fixture(scope="module")
def exact() -> torch.Tensor:
    return logits_of(torch.float32)


@pytest.mark.parametrize(("weights", "change"), [(torch.bfloat16, None), (torch.float8_e4m3fn, as_float8)])
def test_the_minis_logits_are_within_the_stated_bound_and_not_far_below(
    exact: torch.Tensor, weights: torch.dtype, change: Change | None
) -> None:
    error = fp8.check_logits(logits_of(torch.bfloat16, change), exact, weights)
    assert error > fp8.BOUNDS[weights] / 4


def test_a_model_of_which_signs_are_left_is_refused(exact: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="Keep this model's weights in a wider type"):
        fp8.check_logits(logits_of(torch.bfloat16, as_signs), exact, torch.float8_e4m3fn)
