"""y = x W^T with float8_e4m3 weights that become the activations' type in registers: half the bytes of bfloat16.

Every float8_e4m3 number is a bfloat16 number, so the product is exact up to its float32 sum; the sum is then scaled per
output channel and rounded once. It pays where the weights' bytes are the limit (few rows). Triton compiles this type
for compute capability 8.9 and up. Speed on a GPU: not measured.

Legend: N rows, O output channels, I inputs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.arithmetic import dot, rounded
from engine.kernels.fp8 import dequantised


def fp8_linear(x_NI: torch.Tensor, weight_OI: torch.Tensor, scale_O: torch.Tensor) -> torch.Tensor:
    """x W^T, (N, O) in x's type (float32 or bfloat16); weight and scale from `engine.kernels.fp8.quantised`."""
    (rows, inputs), outputs = x_NI.shape, weight_OI.shape[0]
    if weight_OI.shape != (outputs, inputs) or scale_O.shape != (outputs,) or weight_OI.dtype != torch.float8_e4m3fn:
        raise ValueError(
            f"rows {tuple(x_NI.shape)}, weights {tuple(weight_OI.shape)} {weight_OI.dtype} and scales "
            f"{tuple(scale_O.shape)} do not fit: (N, I), (O, I) float8_e4m3fn, (O,)"
        )
    if x_NI.dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"activations must be float32 or bfloat16, got {x_NI.dtype}")
    if not (x_NI.is_contiguous() and weight_OI.is_contiguous() and scale_O.is_contiguous()):
        raise ValueError("fp8_linear needs contiguous tensors")
    y_NO = torch.empty(rows, outputs, dtype=x_NI.dtype, device=x_NI.device)
    block_m = min(max(16, triton.next_power_of_2(rows)), 64)
    # Shared memory: 3 stages of 64 x 64 float32 or bfloat16 activations and 64 x 64 bytes of weights, 60 KiB at most.
    _linear[(triton.cdiv(rows, block_m), triton.cdiv(outputs, 64))](
        x_NI, weight_OI, scale_O, y_NO, rows, outputs, inputs,
        BLOCK_M=block_m, BLOCK_N=64, BLOCK_K=64, num_warps=4, num_stages=3,
    )  # fmt: skip
    return y_NO


def fp8_linear_oracle(x_NI: torch.Tensor, weight_OI: torch.Tensor, scale_O: torch.Tensor) -> torch.Tensor:
    return (x_NI.float() @ dequantised(weight_OI, scale_O).T).to(x_NI.dtype)


@triton.jit
def add_product(acc_MN, a, a_M, some_M, w, w_N, some_N, size, BLOCK_K: tl.constexpr):
    """acc + a w^T over `size` columns: rows of `a` begin at offsets a_M, rows of `w` at w_N; masked rows are zeros."""
    for begin in range(0, size, BLOCK_K):
        k_K = begin + tl.arange(0, BLOCK_K)
        in_K = k_K < size
        a_MK = tl.load(a + a_M[:, None] + k_K[None, :], mask=some_M[:, None] & in_K[None, :], other=0.0)
        w_KN = tl.load(w + w_N[None, :] + k_K[:, None], mask=some_N[None, :] & in_K[:, None], other=0.0)
        acc_MN = dot(a_MK, w_KN.to(a_MK.dtype), acc_MN)
    return acc_MN


@triton.jit
def _linear(
    x, weight, scale, y, rows, outputs, inputs, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr
):
    m_M = (tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    n_N = (tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    some_M, some_N = m_M < rows, n_N < outputs
    acc_MN = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    acc_MN = add_product(acc_MN, x, m_M * inputs, some_M, weight, n_N * inputs, some_N, inputs, BLOCK_K)
    acc_MN *= tl.load(scale + n_N, mask=some_N, other=0.0)[None, :]
    at_MN = m_M[:, None] * outputs + n_N[None, :]
    tl.store(y + at_MN, rounded(acc_MN, y.dtype.element_ty), mask=some_M[:, None] & some_N[None, :])
