"""The experts' gated MLPs, y = down (gelu_tanh(gate x) * up x), without a read of the row counts on the host.

grouped_experts: the (token, expert) pairs are sorted by expert, and the grid has as many row tiles as any routing can
need. Each program finds its expert and its rows from where the experts' rows end, or finds that it has none; an expert
without rows costs nothing. A canvas of 256 tokens gives each of 128 experts 16 rows on average, hence tiles of 16.
gathered_experts: for autoregressive batches of up to 4, one program per pair reads the weights of that pair's expert
and nothing else, unsorted, without padding a row to 16. (gpt-fast's mixtral-moe does the same with torch's indexing.)

Each pair's output is rounded to the activations' type, multiplied by its float32 routing weight and stored on its own;
a token's pairs are then summed in float32, in their order, so that equal inputs give equal bits. (transformers,
src/transformers/integrations/moe.py, rounds so too; it also rounds gate, up and the gelu, which here stay in float32.)
Weights in float8_e4m3 with a scale per output channel become the activations' type in registers, exactly, and the
float32 sums are scaled; Triton compiles that type for compute capability 8.9 and up. Speed on a GPU: not measured.

Legend: N tokens, K experts per token, S = N * K pairs, E experts, H hidden, I an expert's width, O outputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from engine.kernels.arithmetic import dot, rounded
from engine.kernels.fp8 import dequantised
from engine.kernels.linear import add_product

_FLOAT = (torch.float32, torch.bfloat16)


def grouped_experts(
    x_NH: torch.Tensor, weights_NK: torch.Tensor, experts_NK: torch.Tensor,
    gate_up_EOH: torch.Tensor, down_EHI: torch.Tensor,
    gate_up_scale_EO: torch.Tensor | None = None, down_scale_EH: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """Weighted sum of the K experts of each token, (N, H) in x's type.

    x_NH float32 or bfloat16, weights_NK float32, experts_NK int64 ids below E. gate_up_EOH has the gate in the first
    half of its 2 * I outputs. Weights have x's type, or are float8_e4m3 with float32 scales per output channel.
    """
    _check(x_NH, weights_NK, experts_NK, gate_up_EOH, down_EHI, gate_up_scale_EO, down_scale_EH)
    (tokens, hidden), k = x_NH.shape, experts_NK.shape[1]
    experts, width, pairs = down_EHI.shape[0], down_EHI.shape[2], tokens * k
    expert_S, order_S = experts_NK.flatten().sort(stable=True)
    every_E = torch.arange(experts, device=x_NH.device)
    ends_E = torch.searchsorted(expert_S, every_E, right=True, out_int32=True)
    block_m = min(max(16, triton.next_power_of_2(pairs // experts)), 64)
    row_tiles = min(pairs, experts + pairs // block_m)  # each expert may leave one tile part empty
    how = {"EXPERTS": triton.next_power_of_2(experts), "BLOCK_M": block_m, "BLOCK_N": 64, "BLOCK_K": 64}
    # Shared memory of the released sizes, compiled: 36 KiB in bfloat16, 72 in float32 (tiles of 64 rows: 144 at most).
    how |= {"num_warps": 4, "num_stages": 3}

    mid_SI = torch.empty(pairs, width, dtype=x_NH.dtype, device=x_NH.device)
    _gate_up[(row_tiles, triton.cdiv(width, 64))](
        x_NH, order_S, ends_E, gate_up_EOH, gate_up_scale_EO, mid_SI, experts, k, hidden, width, **how
    )
    y_SH = torch.empty(pairs, hidden, dtype=torch.float32, device=x_NH.device)
    _down[(row_tiles, triton.cdiv(hidden, 64))](
        mid_SI, order_S, ends_E, down_EHI, down_scale_EH, weights_NK, y_SH, experts, hidden, width, **how
    )
    return y_SH.view(tokens, k, hidden).sum(dim=1).to(x_NH.dtype)


def gathered_experts(
    x_NH: torch.Tensor, weights_NK: torch.Tensor, experts_NK: torch.Tensor,
    gate_up_EOH: torch.Tensor, down_EHI: torch.Tensor,
    gate_up_scale_EO: torch.Tensor | None = None, down_scale_EH: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """The same as `grouped_experts`, for few tokens (engine.moe.GATHER_UP_TO): right for more, but slow."""
    _check(x_NH, weights_NK, experts_NK, gate_up_EOH, down_EHI, gate_up_scale_EO, down_scale_EH)
    (tokens, hidden), k, width = x_NH.shape, experts_NK.shape[1], down_EHI.shape[2]
    how = {
        "BLOCK_N": 16,
        "BLOCK_K": 256,
        "num_warps": 4,
    }  # 704 / 16 * 8 pairs: 352 programs for one token's gate and up
    mid_SI = torch.empty(tokens * k, width, dtype=x_NH.dtype, device=x_NH.device)
    _gathered_gate_up[(tokens * k, triton.cdiv(width, 16))](
        x_NH, experts_NK, gate_up_EOH, gate_up_scale_EO, mid_SI, k, hidden, width, **how
    )
    y_SH = torch.empty(tokens * k, hidden, dtype=torch.float32, device=x_NH.device)
    _gathered_down[(tokens * k, triton.cdiv(hidden, 16))](
        mid_SI, experts_NK, down_EHI, down_scale_EH, weights_NK, y_SH, hidden, width, **how
    )
    return y_SH.view(tokens, k, hidden).sum(dim=1).to(x_NH.dtype)


def experts_oracle(
    x_NH: torch.Tensor, weights_NK: torch.Tensor, experts_NK: torch.Tensor,
    gate_up_EOH: torch.Tensor, down_EHI: torch.Tensor,
    gate_up_scale_EO: torch.Tensor | None = None, down_scale_EH: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """Pair after pair in float32, with the two roundings of the kernels: the inner activations and each output."""
    dtype = x_NH.dtype
    out_NH = torch.zeros_like(x_NH, dtype=torch.float32)
    scales = (gate_up_scale_EO, down_scale_EH)
    gate_up, down = (
        w.float() if s is None else dequantised(w, s) for w, s in zip((gate_up_EOH, down_EHI), scales, strict=True)
    )
    for n, ids in enumerate(experts_NK.tolist()):
        for weight, e in zip(weights_NK[n], ids, strict=True):
            gate, up = (gate_up[e] @ x_NH[n].float()).chunk(2)
            mid = (F.gelu(gate, approximate="tanh") * up).to(dtype)
            out_NH[n] += weight * (down[e] @ mid.float()).to(dtype).float()
    return out_NH.to(dtype)


def _check(
    x_NH: torch.Tensor, weights_NK: torch.Tensor, experts_NK: torch.Tensor, gate_up_EOH: torch.Tensor,
    down_EHI: torch.Tensor, gate_up_scale_EO: torch.Tensor | None, down_scale_EH: torch.Tensor | None,
) -> None:  # fmt: skip
    experts, hidden, width = down_EHI.shape
    if x_NH.dtype not in _FLOAT or x_NH.shape[1] != hidden or gate_up_EOH.shape != (experts, 2 * width, hidden):
        raise ValueError(
            f"activations {tuple(x_NH.shape)} {x_NH.dtype}, gate and up {tuple(gate_up_EOH.shape)} and down "
            f"{tuple(down_EHI.shape)} do not fit: (N, H) float32 or bfloat16, (E, 2 I, H), (E, H, I)"
        )
    shape = (x_NH.shape[0], experts_NK.shape[-1])
    if weights_NK.shape != shape or experts_NK.shape != shape or weights_NK.dtype != torch.float32:
        raise ValueError(f"routing weights must be {shape} float32, got {tuple(weights_NK.shape)} {weights_NK.dtype}")
    for name, weight, scale in (("gate_up", gate_up_EOH, gate_up_scale_EO), ("down", down_EHI, down_scale_EH)):
        wanted = x_NH.dtype if scale is None else torch.float8_e4m3fn
        if weight.dtype != wanted or (scale is not None and scale.shape != weight.shape[:2]):
            raise ValueError(
                f"{name}: {weight.dtype} weights with {'no' if scale is None else tuple(scale.shape)} scales; "
                f"float8_e4m3fn needs one per output channel {tuple(weight.shape[:2])}, {x_NH.dtype} needs none"
            )
    tensors = (x_NH, weights_NK, experts_NK, gate_up_EOH, down_EHI, gate_up_scale_EO, down_scale_EH)
    if not all(t is None or t.is_contiguous() for t in tensors):
        raise ValueError("the experts' kernels need contiguous tensors")


@triton.jit
def _gelu_tanh(x):
    """x/2 (1 + tanh t) = x / (1 + e^-2t), t = sqrt(2 / pi) (x + 0.044715 x^3), bounded so that nothing overflows."""
    t = 0.7978845608028654 * (x + 0.044715 * x * x * x)
    return x / (1 + tl.exp(-2 * tl.minimum(tl.maximum(t, -40.0), 40.0)))


@triton.jit
def _rows_of_tile(ends, experts, EXPERTS: tl.constexpr, BLOCK_M: tl.constexpr):
    """Expert of this program's tile, its rows, and where the expert's rows end. A tile too many gets `experts`."""
    tile = tl.program_id(0)
    e_E = tl.arange(0, EXPERTS)
    end_E = tl.load(ends + e_E, mask=e_E < experts, other=0)
    begin_E = tl.load(ends + e_E - 1, mask=(e_E > 0) & (e_E < experts), other=0)
    tiles_E = tl.where(e_E < experts, (end_E - begin_E + BLOCK_M - 1) // BLOCK_M, 0)
    last_E = tl.cumsum(tiles_E, axis=0)
    mine_E = (last_E > tile) & (last_E - tiles_E <= tile)
    expert = tl.min(tl.where(mine_E, e_E, experts), axis=0)
    first = tl.sum(tl.where(mine_E, begin_E + (tile - (last_E - tiles_E)) * BLOCK_M, 0), axis=0)
    end = tl.sum(tl.where(mine_E, end_E, 0), axis=0)
    return expert, first + tl.arange(0, BLOCK_M), end


@triton.jit
def _scaled(acc_MN, scale, at_N, mask_N):
    if scale is not None:
        acc_MN = acc_MN * tl.load(scale + at_N, mask=mask_N, other=0.0)[None, :]
    return acc_MN


@triton.jit
def _gate_up(
    x, order, ends, gate_up, scale, mid, experts, k, hidden, width,
    EXPERTS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    expert, row_M, end = _rows_of_tile(ends, experts, EXPERTS, BLOCK_M)
    if expert < experts:
        some_M = row_M < end
        x_M = tl.load(order + row_M, mask=some_M, other=0) // k * hidden  # int64, as the pairs' order is
        n_N = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
        some_N = n_N < width
        gate_N = expert.to(tl.int64) * 2 * width + n_N
        up_N = gate_N + width
        zero_MN = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        gate_MN, up_MN = zero_MN, zero_MN
        for begin in range(0, hidden, BLOCK_K):
            k_K = begin + tl.arange(0, BLOCK_K)
            in_K = k_K < hidden
            x_MK = tl.load(x + x_M[:, None] + k_K[None, :], mask=some_M[:, None] & in_K[None, :], other=0.0)
            some_KN = some_N[None, :] & in_K[:, None]
            gate_KN = tl.load(gate_up + gate_N[None, :] * hidden + k_K[:, None], mask=some_KN, other=0.0)
            up_KN = tl.load(gate_up + up_N[None, :] * hidden + k_K[:, None], mask=some_KN, other=0.0)
            gate_MN = dot(x_MK, gate_KN.to(x_MK.dtype), gate_MN)
            up_MN = dot(x_MK, up_KN.to(x_MK.dtype), up_MN)
        mid_MN = _gelu_tanh(_scaled(gate_MN, scale, gate_N, some_N)) * _scaled(up_MN, scale, up_N, some_N)
        at_MN = row_M.to(tl.int64)[:, None] * width + n_N[None, :]
        tl.store(mid + at_MN, rounded(mid_MN, mid.dtype.element_ty), mask=some_M[:, None] & some_N[None, :])


@triton.jit
def _down(
    mid, order, ends, down, scale, weights, y, experts, hidden, width,
    EXPERTS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    expert, row_M, end = _rows_of_tile(ends, experts, EXPERTS, BLOCK_M)
    if expert < experts:
        some_M = row_M < end
        pair_M = tl.load(order + row_M, mask=some_M, other=0)
        n_N = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
        some_N = n_N < hidden
        down_N = expert.to(tl.int64) * hidden + n_N
        acc_MN = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        mid_M = row_M.to(tl.int64) * width
        acc_MN = add_product(acc_MN, mid, mid_M, some_M, down, down_N * width, some_N, width, BLOCK_K)
        y_MN = rounded(_scaled(acc_MN, scale, down_N, some_N), mid.dtype.element_ty).to(tl.float32)
        y_MN *= tl.load(weights + pair_M, mask=some_M, other=0.0)[:, None]
        at_MN = pair_M[:, None] * hidden + n_N[None, :]
        tl.store(y + at_MN, y_MN, mask=some_M[:, None] & some_N[None, :])


@triton.jit
def _row_product(row, w_N, some_N, w, size, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    """w row, (BLOCK_N,) float32: the rows of `w` at w_N times one vector of `size`."""
    acc_NK = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    for begin in range(0, size, BLOCK_K):
        k_K = begin + tl.arange(0, BLOCK_K)
        x_K = tl.load(row + k_K, mask=k_K < size, other=0.0).to(tl.float32)
        some_NK = some_N[:, None] & (k_K < size)[None, :]
        w_NK = tl.load(w + w_N[:, None] * size + k_K[None, :], mask=some_NK, other=0.0)
        acc_NK += w_NK.to(tl.float32) * x_K[None, :]
    return tl.sum(acc_NK, axis=1)


@triton.jit
def _gathered_gate_up(x, experts, gate_up, scale, mid, k, hidden, width, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    pair = tl.program_id(0).to(tl.int64)
    n_N = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    some_N = n_N < width
    gate_N = tl.load(experts + pair) * 2 * width + n_N
    up_N = gate_N + width
    row = x + pair // k * hidden
    gate = _row_product(row, gate_N, some_N, gate_up, hidden, BLOCK_N, BLOCK_K)
    up = _row_product(row, up_N, some_N, gate_up, hidden, BLOCK_N, BLOCK_K)
    if scale is not None:
        gate *= tl.load(scale + gate_N, mask=some_N, other=0.0)
        up *= tl.load(scale + up_N, mask=some_N, other=0.0)
    tl.store(mid + pair * width + n_N, rounded(_gelu_tanh(gate) * up, mid.dtype.element_ty), mask=some_N)


@triton.jit
def _gathered_down(mid, experts, down, scale, weights, y, hidden, width, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    pair = tl.program_id(0).to(tl.int64)
    n_N = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    some_N = n_N < hidden
    down_N = tl.load(experts + pair) * hidden + n_N
    acc_N = _row_product(mid + pair * width, down_N, some_N, down, width, BLOCK_N, BLOCK_K)
    if scale is not None:
        acc_N *= tl.load(scale + down_N, mask=some_N, other=0.0)
    y_N = rounded(acc_N, mid.dtype.element_ty).to(tl.float32) * tl.load(weights + pair)
    tl.store(y + pair * hidden + n_N, y_N, mask=some_N)
