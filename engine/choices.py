"""Which implementation each part of the engine uses: every option, its values, and what is taken where nobody chooses.

This is the one place that decides. `resolve` turns a device, a dtype and the user's wishes into `Choices`, which the
parts read and `harness` writes into every record. Each option has a plain value, which is the readable form and the
oracle of the others: they must give its numbers, up to the rounding of float32 where they add in another order.

A new implementation (a Triton kernel, say) is a value here and an entry in its part's table of implementations.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import torch


@dataclass(frozen=True, slots=True)
class Choices:
    """One value of each of `OPTIONS`. The defaults are the plain ones, with which weights may also be trained."""

    linear: str = "plain"
    projections: str = "separate"
    norms: str = "separate"
    experts: str = "loop"
    sampler: str = "plain"
    compile: str = "off"


PLAIN = Choices()


@dataclass(frozen=True, slots=True)
class Option:
    """One decision: what it is about, what each value does, and the value for a device and dtype."""

    about: str
    values: Mapping[str, str]
    default: Callable[[torch.device, torch.dtype], str]


def _on_cpu(fast: str, plain: str) -> Callable[[torch.device, torch.dtype], str]:
    return lambda device, dtype: fast if device.type == "cpu" else plain


def _linear(device: torch.device, dtype: torch.dtype) -> str:
    return "packed" if device.type == "cpu" and dtype == torch.float32 and can_pack() else "plain"


def _experts(device: torch.device, dtype: torch.dtype) -> str:
    if dtype == torch.bfloat16:
        return "grouped" if device.type == "cuda" else "loop"
    return "tailored" if device.type == "cpu" else "loop"


OPTIONS: dict[str, Option] = {
    "linear": Option(
        "products with weights, experts apart (engine/linear.py)",
        {
            "plain": "torch.nn.functional.linear",
            "packed": "oneDNN over weights that are laid out for it once, a second copy in memory; gelu, tanh and gate "
            "times up are done on the way; CPU, float32",
        },
        _linear,
    ),
    "projections": Option(
        "projections that read the same input: q, k and v; gate and up",
        {
            "separate": "one product each",
            "merged": "one product, and one norm and one rotation over all heads; a second copy in memory",
        },
        _on_cpu("merged", "separate"),
    ),
    "norms": Option(
        "root-mean-square norms (engine/attention.py)",
        {
            "separate": "the formula, operation by operation, each norm on its own",
            "shared": "four operations a norm; the dense branch, the experts and the router share one of their input",
        },
        _on_cpu("shared", "separate"),
    ),
    "experts": Option(
        "the products of the mixture of experts (engine/moe.py)",
        {
            "loop": "one expert after another; reads the row counts on the host",
            "tailored": "for a CPU and float32, by the number of rows: a vector with each expert of one token, all "
            "experts in one product where rows reach nearly every one and they are few, otherwise the loop",
            "grouped": "torch.nn.functional.grouped_mm: one launch each way, nothing is read on the host",
        },
        _experts,
    ),
    "sampler": Option(
        "how a denoising step draws (engine/sampling.py)",
        {
            "plain": "the formulas one by one, with an exponential race over the whole vocabulary",
            "fast": "one pass for maximum, sum, entropy and draw, by inversion: the same distribution, other draws",
            "reference": "the torch calls of transformers in their order, so that equal generators give equal tokens",
        },
        lambda device, dtype: "fast",
    ),
    "compile": Option(
        "torch.compile of denoising steps",
        {
            "off": "operation by operation",
            "on": "the network of a self-conditioned step as one graph, with all experts in one product; needs a "
            "C++ compiler on a CPU, and takes from half a minute for the first steps of a shape",
        },
        lambda device, dtype: "off",
    ),
}
assert list(OPTIONS) == [f.name for f in fields(Choices)]


def resolve(device: torch.device, dtype: torch.dtype, wanted: Mapping[str, str] | None = None) -> Choices:
    """The choices for a device and a dtype, where `wanted` names no other.

    Raises:
        ValueError: an unknown option or value, or one that cannot run here.
    """
    wanted = wanted or {}
    for name, value in wanted.items():
        if name not in OPTIONS:
            raise ValueError(f"option is {name!r}, expected {' or '.join(repr(n) for n in OPTIONS)}")
        known = OPTIONS[name].values
        if value not in known and name != "sampler":  # engine.sampling.SAMPLERS is open to samplers from outside
            raise ValueError(f"{name} is {value!r}, expected {' or '.join(repr(v) for v in known)}")
    if wanted.get("linear") == "packed" and _linear(device, dtype) != "packed":
        raise ValueError(
            f"linear is 'packed', which needs a CPU, float32 and a torch with oneDNN; here: {device}, {dtype}"
        )
    if wanted.get("compile") == "on" and device.type == "cpu" and not _has_cpp_compiler():
        raise ValueError("compile is 'on', which needs a C++ compiler on a CPU: install g++, or name one in CXX")
    if wanted.get("compile") == "on" and wanted.get("experts", _experts(device, dtype)) == "loop":
        raise ValueError("compile is 'on', but experts='loop' reads the device in every layer, which breaks the graph")
    chosen = {name: wanted.get(name, option.default(device, dtype)) for name, option in OPTIONS.items()}
    return Choices(**chosen)


def _has_cpp_compiler() -> bool:
    return bool(os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++"))


def can_pack() -> bool:
    """Whether this torch has the oneDNN operators that torch.compile itself uses for frozen weights."""
    return torch.backends.mkldnn.is_available() and all(
        hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight")
    )
