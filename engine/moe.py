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

from engine.attention import cast, rms_norm
from engine.choices import Choices
from engine.config import ModelConfig
from engine.kernels.fp8 import dequantised
from engine.linear import Weight, column_twice, gated
from engine.ranges import EXPERTS, EXPERTS_COMBINE, EXPERTS_DISPATCH, EXPERTS_GEMM

# `tailored` multiplies every token with every expert where that is at most MOST_WASTE times the chosen work and where
# an expert gets from FEWEST_ROWS to MOST_ROWS rows in the mean: with fewer, many experts that nobody chose would be
# read. With more, starting a product of its own no longer counts.
MOST_WASTE = 4
FEWEST_ROWS, MOST_ROWS = 1, 32

GATHER_UP_TO = 4  # rows: beyond, they begin to share experts, whose weights would be read again for each


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

    def of_unit(self, unit_NH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same in fewer operations, of what `engine.attention.unit` made of a float32 input.

        The norm's sqrt(H) and the root cancel, and the softmax over the chosen scores is theirs over all, renormalised.
        """
        scores_NE = self.proj(unit_NH * self.scale)
        best_NK, experts_NK = scores_NE.topk(self.top_k, dim=-1)
        weights_NK = best_NK.softmax(dim=-1, dtype=torch.float32)
        return weights_NK * self.per_expert_scale[experts_NK], experts_NK


class Experts(nn.Module):
    """E gated MLPs in two packed tensors; the first half of gate_up_proj is the gate."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        experts, hidden, width = config.num_experts, config.hidden_size, config.moe_intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * width, hidden))
        self.down_proj = nn.Parameter(torch.empty(experts, hidden, width))
        self.gate_up_scale: torch.Tensor | None  # (E, 2I) and (E, H), where engine/float8.py has quantised them
        self.down_scale: torch.Tensor | None
        self.register_buffer("gate_up_scale", None)
        self.register_buffer("down_scale", None)
        self.every_gate = Weight(lambda: self.gate_up_proj[:, :width].flatten(0, 1), made=True)  # (E * I, H)
        self.every_up = Weight(lambda: self.gate_up_proj[:, width:].flatten(0, 1), made=True)  # (E * I, H)
        self.every_down = Weight(lambda: self.down_proj.transpose(0, 1).flatten(1), made=True)  # (H, E * I)
        self._halves: list[tuple[torch.Tensor, torch.Tensor]] = []

    def matrices(self, expert: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """gate_up_proj and down_proj of one expert, float8 weights as `dtype`."""
        gate_up, down = self.gate_up_proj[expert], self.down_proj[expert]
        if self.gate_up_scale is None or self.down_scale is None:
            return gate_up, down
        scales = self.gate_up_scale[expert], self.down_scale[expert]
        return dequantised(gate_up, scales[0]).to(dtype), dequantised(down, scales[1]).to(dtype)

    def halves(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """gate_up_proj and down_proj of each expert, their output rows in two halves: views, kept because slicing takes
        as long as a small product."""
        if not self._halves:
            gate_up, down = (w.unflatten(1, (2, -1)).unbind() for w in (self.gate_up_proj, self.down_proj))
            self._halves = list(zip(gate_up, down, strict=True))
        return self._halves


Gemm = Callable[[torch.Tensor, torch.Tensor, Experts], torch.Tensor]


def expert_mlp(
    x_NH: torch.Tensor,
    weights_NK: torch.Tensor,
    experts_NK: torch.Tensor,
    experts: Experts,
    index: int,
    choices: Choices,
) -> torch.Tensor:
    """Weighted sum of the K experts of each token, (N, H). Kernels over sorted rows go into `EXPERT_GEMMS`."""
    with EXPERTS(index):
        if choices.experts == "tailored":
            return _tailored(x_NH, weights_NK, experts_NK, experts, index, choices)
        if choices.experts == "kernel" or (choices.experts == "gathered" and len(x_NH) <= GATHER_UP_TO):
            with EXPERTS_GEMM(index):
                return _by_kernel(x_NH, weights_NK, experts_NK, experts)
        return _sorted(x_NH, weights_NK, experts_NK, experts, index, EXPERT_GEMMS[choices.experts])


def _sorted(
    x_NH: torch.Tensor, weights_NK: torch.Tensor, experts_NK: torch.Tensor, experts: Experts, index: int, gemm: Gemm
) -> torch.Tensor:
    tokens, k = experts_NK.shape
    with EXPERTS_DISPATCH(index):
        expert_S, order_S = experts_NK.flatten().sort(stable=True)
        every_E = torch.arange(experts.down_proj.shape[0], device=x_NH.device)
        ends_E = torch.searchsorted(expert_S, every_E, right=True, out_int32=True)  # where each expert's rows end
        x_SH = x_NH.index_select(0, order_S // k)
    with EXPERTS_GEMM(index):
        y_SH = gemm(x_SH, ends_E, experts)
    with EXPERTS_COMBINE(index):
        y_SH = y_SH * weights_NK.flatten()[order_S, None]  # promotes to float32
        back_S = torch.empty_like(order_S)
        back_S[order_S] = torch.arange(tokens * k, device=order_S.device)
        return y_SH.index_select(0, back_S).view(tokens, k, -1).sum(dim=1).to(x_NH.dtype)


def _tailored(
    x_NH: torch.Tensor,
    weights_NK: torch.Tensor,
    experts_NK: torch.Tensor,
    experts: Experts,
    index: int,
    choices: Choices,
) -> torch.Tensor:
    """For a CPU, where a small product costs more to start than to compute: the form that fits the number of rows.

    One token: a vector with each of its experts, nothing to sort. Many rows read nearly every expert anyway: where
    experts are not too many, one product with all of them, in which those that a token did not choose weigh 0.
    """
    tokens, k = experts_NK.shape
    num_experts = experts.down_proj.shape[0]
    if torch.compiler.is_compiling():  # the one form that reads nothing on the host
        return _all_experts(x_NH, weights_NK, experts_NK, experts, choices)
    if tokens == 1:
        with EXPERTS_GEMM(index):
            return _one_token(x_NH[0], weights_NK[0], experts_NK[0].tolist(), experts)
    if num_experts <= MOST_WASTE * k and FEWEST_ROWS * num_experts <= tokens * k <= MOST_ROWS * num_experts:
        with EXPERTS_GEMM(index):
            return _all_experts(x_NH, weights_NK, experts_NK, experts, choices)
    return _sorted(x_NH, weights_NK, experts_NK, experts, index, _loop)


def _one_token(x_H: torch.Tensor, weights_K: torch.Tensor, chosen: list[int], experts: Experts) -> torch.Tensor:
    """Each matrix times its vector as a batch of two halves, as engine/linear.py does where rows are few."""
    halves = [experts.halves()[e] for e in chosen]
    x_2H1 = column_twice(x_H)
    gate_up_K2I1 = torch.stack([torch.bmm(gate_up, x_2H1) for gate_up, _ in halves])
    hidden_KI = _gated(gate_up_K2I1.view(len(chosen), -1)).mul_(weights_K[:, None])
    hidden = column_twice(hidden_KI).unbind()
    y_K2H1 = torch.stack([torch.bmm(down, hidden_2I1) for (_, down), hidden_2I1 in zip(halves, hidden, strict=True)])
    return y_K2H1.sum(dim=0).view(1, -1)


def _all_experts(
    x_NH: torch.Tensor, weights_NK: torch.Tensor, experts_NK: torch.Tensor, experts: Experts, choices: Choices
) -> torch.Tensor:
    tokens, num_experts = len(x_NH), experts.down_proj.shape[0]
    weights_NE = weights_NK.new_zeros(tokens, num_experts).scatter_(1, experts_NK, weights_NK)
    hidden_NEI = gated(x_NH, experts.every_gate, experts.every_up, choices).view(tokens, num_experts, -1)
    hidden_NEI = cast(hidden_NEI.mul_(weights_NE[..., None]), x_NH.dtype)
    return experts.every_down.product(hidden_NEI.flatten(1), choices)


def _gated(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return F.gelu(gate, approximate="tanh") * up


def _loop(x_SH: torch.Tensor, ends_E: torch.Tensor, experts: Experts) -> torch.Tensor:
    """One expert after another. It reads the row counts on the host: on a GPU that is a synchronisation per layer."""
    y_SH = torch.empty_like(x_SH)
    begin = 0
    for e, end in enumerate(ends_E.tolist()):
        if end > begin:
            gate_up, down = experts.matrices(e, x_SH.dtype)
            y_SH[begin:end] = F.linear(_gated(F.linear(x_SH[begin:end], gate_up)), down)
            begin = end
    return y_SH


def _grouped(x_SH: torch.Tensor, ends_E: torch.Tensor, experts: Experts) -> torch.Tensor:
    """All experts in one launch each way; the row counts stay on the device."""
    hidden = _gated(F.grouped_mm(x_SH, experts.gate_up_proj.transpose(1, 2), offs=ends_E))
    return F.grouped_mm(hidden, experts.down_proj.transpose(1, 2), offs=ends_E)


def _by_kernel(
    x_NH: torch.Tensor, weights_NK: torch.Tensor, experts_NK: torch.Tensor, experts: Experts
) -> torch.Tensor:
    """Sort and weighted sum included. Imported only where it is launched: there may be no Triton."""
    from engine.kernels.grouped_experts import gathered_experts, grouped_experts

    kernel = gathered_experts if len(x_NH) <= GATHER_UP_TO else grouped_experts
    matrices = (experts.gate_up_proj, experts.down_proj, experts.gate_up_scale, experts.down_scale)
    return kernel(x_NH.contiguous(), weights_NK.float(), experts_NK, *matrices)


# (x_SH sorted by expert, ends_E, experts) -> y_SH
EXPERT_GEMMS: dict[str, Gemm] = {"loop": _loop, "grouped": _grouped, "gathered": _grouped}
