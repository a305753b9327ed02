"""A model whose large weights are float8_e4m3 with a scale per output channel, and what that does to its logits.

Quantised are the projections of attention and of every gated MLP, and the experts. Embedding and head (one table),
router, norms and scalars keep the activations' type. Weights are quantised one by one as they are drawn or read, so
that a wider copy of the whole never exists. Rounding, error bound and gate: engine/kernels/fp8.py. Products:
engine/linear.py and engine/moe.py.
"""

from __future__ import annotations

import torch
from torch import nn

from engine.kernels.fp8 import check_logits, logit_error, quantised
from engine.model import Model
from engine.moe import Experts

FLOAT8 = torch.float8_e4m3fn
_PROJECTIONS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
MOST_COMPARED_BYTES = 2**31  # of a second copy in float32, with which logits are compared at load


def shrink(model: Model) -> Model:
    """The weights' place in float8, and room for their scales; for a model on the meta device."""
    for name, module in model.named_modules():
        if isinstance(module, Experts):
            for part in ("gate_up", "down"):
                weight = getattr(module, f"{part}_proj")
                setattr(module, f"{part}_proj", _small(weight))
                setattr(module, f"{part}_scale", weight.new_empty(weight.shape[:2], dtype=torch.float32))
        elif isinstance(module, nn.Linear) and name.rsplit(".", 1)[-1] in _PROJECTIONS:
            module.register_buffer("scale", module.weight.new_empty(len(module.weight), dtype=torch.float32))
            module.weight = _small(module.weight)
    return model


def _small(weight: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(torch.empty_like(weight, dtype=FLOAT8), requires_grad=False)


def scales_of(model: Model) -> dict[torch.Tensor, torch.Tensor]:
    """The scales of each float8 weight, to be filled with it."""
    found: dict[torch.Tensor, torch.Tensor] = {}
    for module in model.modules():
        if isinstance(module, Experts) and module.gate_up_scale is not None and module.down_scale is not None:
            found |= {module.gate_up_proj: module.gate_up_scale, module.down_proj: module.down_scale}
        elif isinstance(module, nn.Linear) and hasattr(module, "scale"):
            found[module.weight] = module.scale  # type: ignore[assignment]
    return found


def put(target: torch.Tensor, scale: torch.Tensor | None, weight: torch.Tensor) -> None:
    """Copy a weight to its place, quantised where it has scales; expert after expert, for the float32 on the way."""
    if scale is None:
        target.copy_(weight)
    elif weight.dim() == 3:
        for parts in zip(target, scale, weight, strict=True):
            put(*parts)
    else:
        small, found = quantised(weight.to(target.device))
        target.copy_(small)
        scale.copy_(found)


def is_same(target: torch.Tensor, scale: torch.Tensor | None, weight: torch.Tensor) -> bool:
    """Whether `put` would change nothing."""
    if target.shape != weight.shape:
        return False
    again = torch.empty_like(target)
    put(again, None if scale is None else torch.empty_like(scale), weight)
    return torch.equal(again.view(torch.uint8), target.view(torch.uint8))


def compared(model: Model, exact: Model, *, is_trained: bool) -> str:
    """What float8 does to the logits of a few random prompts, in words for the record.

    Raises:
        ValueError: trained weights, and logits that are further off than engine/kernels/fp8.py accepts.
    """
    logits, wanted = (_some_logits(m) for m in (model, exact))
    if is_trained:
        return f"{check_logits(logits, wanted, FLOAT8):.2%} off in logits, accepted"
    return f"{logit_error(logits, wanted):.2%} off in logits, random weights: not gated"


@torch.no_grad()
def _some_logits(model: Model) -> torch.Tensor:
    """Of a causal and, where the model has that, a denoising pass, over eight prompts of 32 tokens."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(model.config.vocab_size, (2, 8, 32), generator=generator).to(model.device)
    logits = [model.causal_logits(drawn[0], model.new_cache(8))]
    if model.config.canvas_length is not None:
        cache = model.new_cache(8)
        model.encode(drawn[0], cache)
        logits.append(model.denoise(drawn[1], cache))
    return torch.stack(logits)
