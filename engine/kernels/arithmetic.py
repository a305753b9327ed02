"""Rounding and products that give on a CPU, in Triton's interpreter, what they give on a GPU.

Triton 3.7's interpreter holds bfloat16 as its bits. It cuts where a GPU's cast rounds to nearest even, and `tl.dot`
multiplies the bits as if they were integers. Compiled, both functions here are the plain operation.
"""

from __future__ import annotations

import triton
import triton.language as tl

_INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


@triton.jit
def rounded(x, dtype: tl.constexpr):
    """x, float32 and not NaN, as `dtype`."""
    if _INTERPRETED and dtype == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        x = bits.to(tl.float32, bitcast=True)
    return x.to(dtype)


@triton.jit
def dot(a, b, acc):
    """acc + a b in float32. Products of bfloat16 are exact in float32; float32 is not cut to TF32."""
    if _INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision="ieee")
