"""Compiles for a GPU that need not be there every kernel that the wrappers launch at the released model's sizes.

Run by test_kernels_compile.py, with the compute capability (90) as its argument, in a process where Triton is not
interpreted. Prints one line a kernel: its name and its bytes of shared memory.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from engine.kernels import attention, grouped_experts, linear, sampler

TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float8_e4m3fn: "*fp8e4nv", torch.int64: "*i64",
         torch.int32: "*i32"}  # fmt: skip
TARGET = GPUTarget("cuda", int(sys.argv[1]), 32)
done: set[Any] = set()


def compile_instead(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
    given = dict(zip(self.arg_names, args, strict=False)) | {k: v for k, v in options.items() if k in self.arg_names}
    constant = {p.name for p in self.params if p.is_constexpr} | {n for n, value in given.items() if value is None}
    signature, aligned = {}, {}
    for place, name in enumerate(self.arg_names):
        value = given[name]
        is_tensor = isinstance(value, torch.Tensor)
        signature[name] = "constexpr" if name in constant else TYPES[value.dtype] if is_tensor else "i32"
        if name not in constant and (is_tensor or value % 16 == 0):
            aligned[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(self, signature, {n: given[n] for n in constant}, aligned)
    key = (self.__name__, str(signature), str({n: given[n] for n in constant}))
    if key not in done:
        done.add(key)
        settings = {k: v for k, v in options.items() if k.startswith("num_")}
        binary = triton.compile(source, target=TARGET, options=settings)
        print(self.__name__, binary.metadata.shared)


def empty(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def main() -> None:
    triton.runtime.jit.JITFunction.run = compile_instead
    bf16, f32, i32, i64, fp8 = torch.bfloat16, torch.float32, torch.int32, torch.int64, torch.float8_e4m3fn
    scalars = (empty(1, dtype=f32), empty(1, dtype=i64), empty(1, dtype=i64))
    for dtype in (f32, bf16):
        sampler.sample(empty(256, 262144, dtype=dtype), *scalars, softcap=30.0, probs_dtype=bf16)
    for dtype in (bf16, f32):
        for tokens, form in ((1, "causal"), (256, "canvas")):
            for kv_heads, size, window in ((8, 256, 1024), (2, 512, None)):
                buffer, bound = empty(1, kv_heads, 8192, size, dtype=dtype), empty(1, dtype=i32)
                q = empty(1, tokens, 16, size, dtype=dtype)
                attention.attend(q, buffer, buffer, bound, bound, form=form, window=window)
    for tokens, kernel in ((1, grouped_experts.gathered_experts), (256, grouped_experts.grouped_experts)):
        routing = (empty(tokens, 8, dtype=f32), empty(tokens, 8, dtype=i64))
        for dtype, weights in ((bf16, bf16), (f32, f32), *(((bf16, fp8),) if TARGET.arch >= 89 else ())):
            scales = (empty(128, 1408, dtype=f32), empty(128, 2816, dtype=f32)) if weights == fp8 else ()
            gate_up, down = empty(128, 1408, 2816, dtype=weights), empty(128, 2816, 704, dtype=weights)
            kernel(empty(tokens, 2816, dtype=dtype), *routing, gate_up, down, *scales)
    if TARGET.arch >= 89:
        for rows in (1, 256):
            linear.fp8_linear(empty(rows, 2816, dtype=bf16), empty(2112, 2816, dtype=fp8), empty(2112, dtype=f32))


if __name__ == "__main__":
    main()
