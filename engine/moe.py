"""Mixture of experts: which experts a token goes to, and what they make of it.

Formulas: huggingface/transformers, src/transformers/models/diffusion_gemma/modeling_diffusion_gemma.py (router) and
src/transformers/integrations/moe.py (the order of roundings: expert outputs times float32 weights, summed in float32,
cast once).

Legend: N tokens, H hidden, E experts, K experts per token, S = N * K (token, expert) pairs sorted by expert,
I an expert's width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from engine.attention import rms_norm
from engine.config import ModelConfig
from engine.ranges import EXPERTS, EXPERTS_COMBINE, EXPERTS_DISPATCH, EXPERTS_GEMM


class Router(nn.Module):
    """Chooses K experts per token from the raw residual, with a norm of its own."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(config.hidden_size))
        self.proj = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.per_expert_scale = nn.Parameter(torch.empty(config.num_experts))
        self.top_k = config.top_k_experts
        self.eps = config.rms_norm_eps
        self.root = config.hidden_size**-0.5

    def forward(self, x_NH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights (N, K) float32 and expert ids (N, K). Weights of a token don't sum to 1: each is scaled last."""
        scores_NE = self.proj(rms_norm(x_NH, None, self.eps) * self.scale * self.root)
        probs_NE = scores_NE.softmax(dim=-1, dtype=torch.float32)
        weights_NK, experts_NK = probs_NE.topk(self.top_k, dim=-1)
        weights_NK = weights_NK / weights_NK.sum(dim=-1, keepdim=True)
        return weights_NK * self.per_expert_scale[experts_NK], experts_NK


class Experts(nn.Module):
    """E gated MLPs in two packed tensors; the first half of gate_up_proj is the gate."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        experts, hidden, width = config.num_experts, config.hidden_size, config.moe_intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * width, hidden))
        self.down_proj = nn.Parameter(torch.empty(experts, hidden, width))


def expert_mlp(
    x_NH: torch.Tensor, weights_NK: torch.Tensor, experts_NK: torch.Tensor, experts: Experts, index: int
) -> torch.Tensor:
    """Weighted sum of the K experts of each token, (N, H). Faster kernels go into `EXPERT_GEMMS`."""
    tokens, k = experts_NK.shape
    with EXPERTS(index):
        with EXPERTS_DISPATCH(index):
            expert_S, order_S = experts_NK.flatten().sort(stable=True)
            every_E = torch.arange(experts.down_proj.shape[0], device=x_NH.device)
            ends_E = torch.searchsorted(expert_S, every_E, right=True, out_int32=True)  # where each expert's rows end
            x_SH = x_NH[order_S // k]
        with EXPERTS_GEMM(index):
            y_SH = EXPERT_GEMMS[gemm_name(x_NH)](x_SH, ends_E, experts)
        with EXPERTS_COMBINE(index):
            y_SH = y_SH * weights_NK.flatten()[order_S, None]  # promotes to float32
            back_S = torch.empty_like(order_S)
            back_S[order_S] = torch.arange(tokens * k, device=order_S.device)
            return y_SH[back_S].view(tokens, k, -1).sum(dim=1).to(x_NH.dtype)


def gemm_name(x: torch.Tensor) -> str:
    """The entry of `EXPERT_GEMMS` that runs for activations like x."""
    return "grouped" if x.is_cuda and x.dtype == torch.bfloat16 else "loop"


def _gated(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return F.gelu(gate, approximate="tanh") * up


def _loop(x_SH: torch.Tensor, ends_E: torch.Tensor, experts: Experts) -> torch.Tensor:
    """One expert after another. It reads the row counts on the host: on a GPU that is a synchronisation per layer."""
    y_SH = torch.empty_like(x_SH)
    begin = 0
    for e, end in enumerate(ends_E.tolist()):
        if end > begin:
            hidden = _gated(F.linear(x_SH[begin:end], experts.gate_up_proj[e]))
            y_SH[begin:end] = F.linear(hidden, experts.down_proj[e])
            begin = end
    return y_SH


def _grouped(x_SH: torch.Tensor, ends_E: torch.Tensor, experts: Experts) -> torch.Tensor:
    """All experts in one launch each way; the row counts stay on the device."""
    hidden = _gated(F.grouped_mm(x_SH, experts.gate_up_proj.transpose(1, 2), offs=ends_E))
    return F.grouped_mm(hidden, experts.down_proj.transpose(1, 2), offs=ends_E)


EXPERT_GEMMS: dict[str, Callable[[torch.Tensor, torch.Tensor, Experts], torch.Tensor]] = {
    "loop": _loop,
    "grouped": _grouped,
}
