"""Products of activations with weights: several projections of one input as one, and oneDNN where it is faster.

On a CPU, torch.nn.functional.linear hands float32 to MKL, which lays a weight out for its kernels in every call. oneDNN
can do that once. torch exposes it as the operators that torch.compile emits for frozen weights; they are not part of
its public interface, so `engine.choices.can_pack` asks for them first. They also apply an activation, or multiply by
another tensor, before the product leaves the processor's registers. Small products stay with MKL, which starts sooner.
Weights in float8_e4m3 (engine/float8.py) become float32 for the product, or stay small in a Triton kernel.

Legend: N rows, I input size, O output size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.compiler import is_compiling as compiling

from engine.choices import Choices
from engine.kernels.fp8 import dequantised

# From so many multiply-adds on oneDNN was faster on two cores of an EPYC of 2024, with weights that are not in a cache:
# one row of 256 to 256.
PACKED_FROM = 2**16
# Up to so many, a product with one row was faster there as a batch of the weight's two halves.
HALVES_UP_TO = 2**21

# Activation -> its plain form, and oneDNN's name and algorithm.
ACTIVATIONS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str, str]] = {
    "none": (lambda y: y, "none", ""),
    "gelu_tanh": (lambda y: F.gelu(y, approximate="tanh"), "gelu", "tanh"),
    "tanh": (torch.tanh, "tanh", ""),
}


def _packed(x_NI: torch.Tensor, packed: torch.Tensor, activation: str, times_NO: torch.Tensor | None) -> torch.Tensor:
    linear = torch.ops.mkldnn._linear_pointwise
    if times_NO is not None:
        product: torch.Tensor = linear.binary(x_NI, times_NO, packed, None, "mul")
        return product
    _, name, algorithm = ACTIVATIONS[activation]
    product = linear(x_NI, packed, None, name, [], algorithm)
    return product


@torch.library.custom_op("canvasbench::packed_product", mutates_args=())
def _compilable(x_NI: torch.Tensor, packed: torch.Tensor, out_size: int) -> torch.Tensor:
    """The bare product as an operator that torch.compile leaves alone; it expects weights that it has packed itself."""
    return _packed(x_NI, packed, "none", None)


@_compilable.register_fake
def _(x_NI: torch.Tensor, packed: torch.Tensor, out_size: int) -> torch.Tensor:
    return x_NI.new_empty(len(x_NI), out_size)


def column_twice(x: torch.Tensor) -> torch.Tensor:
    """x (..., I) as a factor of each of two halves, (..., 2, I, 1), without a copy.

    The last stride has to be I: MKL takes a column with another one for a matrix, which is six times as slow.
    """
    return x[..., None, None, :].expand(*x.shape[:-1], 2, 1, -1).transpose(-1, -2)


def _by_halves(row: torch.Tensor, matrix_OI: torch.Tensor) -> torch.Tensor:
    """One row (..., I) times the matrix, (..., O), by MKL, which gives the members of a batch to its threads.

    A plain product of one row stays on one thread.
    """
    in_size = row.shape[-1]
    y_2o1 = torch.bmm(matrix_OI.view(2, -1, in_size), column_twice(row.view(in_size)))
    return y_2o1.view(*row.shape[:-1], -1)


def _finished(product: torch.Tensor, activation: str, times: torch.Tensor | None) -> torch.Tensor:
    plain, _, _ = ACTIVATIONS[activation]
    return plain(product) if times is None else times * product


def gated(x: torch.Tensor, gate: Weight, up: Weight, choices: Choices) -> torch.Tensor:
    """gelu(gate x) times up x."""
    return up.product(x, choices, times=gate.product(x, choices, activation="gelu_tanh"))


class Weight:
    """One weight matrix (O, I), or the rows of several, as the chosen product wants it: made at first use, then kept.

    It never holds the only copy: what is loaded, saved and trained are the parameters that `source` reads.
    """

    def __init__(
        self,
        source: Callable[[], torch.Tensor],
        *,
        made: bool = False,
        scale: Callable[[], torch.Tensor | None] = lambda: None,
    ) -> None:
        """source: gives the matrix; `made` says that it has to copy parameters for that. scale: of float8 rows (O,)."""
        self._source, self._scale = source, scale
        self._made = made
        self._matrix: tuple[torch.Tensor, torch.Tensor | None] | None = None  # with scale
        self._packed: tuple[torch.Tensor, int, int] | None = None  # with O and I

    @classmethod
    def of(cls, part: nn.Linear) -> Weight:
        return cls(lambda: part.weight, scale=lambda: _scale_of(part))

    @classmethod
    def rows_of(cls, *parts: nn.Linear) -> Weight:
        """All output rows of several projections."""

        def scale() -> torch.Tensor | None:
            scales = [s for s in map(_scale_of, parts) if s is not None]
            return torch.cat(scales) if scales else None

        return cls(lambda: torch.cat([part.weight for part in parts]), made=True, scale=scale)

    def product(
        self, x: torch.Tensor, choices: Choices, *, activation: str = "none", times: torch.Tensor | None = None
    ) -> torch.Tensor:
        """x (..., I) times the matrix: (..., O), then the activation; or, with `times` (..., O), that times it."""
        assert activation == "none" or times is None
        if choices.linear == "packed" and x.numel() == x.shape[-1] and not compiling():
            matrix_OI, _ = self._plain()
            if len(matrix_OI) % 2 == 0 and x.numel() * len(matrix_OI) <= HALVES_UP_TO and matrix_OI.is_contiguous():
                return _finished(_by_halves(x, matrix_OI), activation, times)
        if choices.linear == "packed":
            if self._packed is None:
                matrix_OI = self._source().contiguous()
                self._packed = (torch.ops.mkldnn._reorder_linear_weight(matrix_OI), *matrix_OI.shape)
            packed, out_size, in_size = self._packed
            if x.numel() * out_size >= PACKED_FROM:
                rows_NI = x.reshape(-1, in_size)
                if compiling():
                    bare = _compilable(rows_NI, packed, out_size).view(*x.shape[:-1], out_size)
                    return _finished(bare, activation, times)
                times_NO = None if times is None else times.reshape(-1, out_size)
                return _packed(rows_NI, packed, activation, times_NO).view(*x.shape[:-1], out_size)
        matrix_OI, scale_O = self._plain()
        bare = F.linear(x, matrix_OI) if scale_O is None else _float8_product(x, matrix_OI, scale_O, choices)
        return _finished(bare, activation, times)

    def _plain(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        if not self._made:
            return self._source(), self._scale()
        if self._matrix is None:
            self._matrix = self._source(), self._scale()
        return self._matrix


def _scale_of(part: nn.Linear) -> torch.Tensor | None:
    """Where engine/float8.py has quantised it."""
    scale: torch.Tensor | None = getattr(part, "scale", None)
    return scale


def _float8_product(x: torch.Tensor, matrix_OI: torch.Tensor, scale_O: torch.Tensor, choices: Choices) -> torch.Tensor:
    if choices.linear != "kernel":
        return (x.float() @ dequantised(matrix_OI, scale_O).T).to(x.dtype)
    from engine.kernels.linear import fp8_linear  # only where it is launched: there may be no Triton

    rows_NI = x.reshape(-1, x.shape[-1]).contiguous()
    return fp8_linear(rows_NI, matrix_OI, scale_O).view(*x.shape[:-1], -1)
