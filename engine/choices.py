"""Which implementation each part of the engine uses: every option, its values, and what is taken where nobody chooses.

This is the one place that decides. `resolve` turns a device, a dtype and the user's wishes into `Choices`, which the
parts read and `harness` writes into every record. Each option has a plain value, which is the readable form and the
oracle of the others: they must give its numbers, up to the rounding of float32 where they add in another order.

A new implementation (a Triton kernel, say) is a value here and an entry in its part's table of implementations.

Nothing made for CUDA has run on a GPU yet. So there the defaults are torch's own operations, and Triton kernels and
graphs are for who names them, as suite=engine_ablation_cuda does; float8 weights alone have no other way that is worth
its memory.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from importlib.util import find_spec

import torch


@dataclass(frozen=True, slots=True)
class Choices:
    """One value of each of `OPTIONS`. The defaults are the plain ones, with which weights may also be trained."""

    linear: str = "plain"
    projections: str = "separate"
    norms: str = "separate"
    experts: str = "loop"
    attention: str = "sdpa"
    head: str = "whole"
    sampler: str = "plain"
    graphs: str = "off"
    compile: str = "off"
    compaction: str = "off"


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


_TRITON = ("kernel", "gathered")
_COMPILABLE = {"experts": "grouped", "attention": "sdpa", "sampler": "fast"}


def _experts(device: torch.device, dtype: torch.dtype) -> str:
    if device.type == "cpu":
        return "loop" if dtype == torch.bfloat16 else "tailored"
    return "grouped" if dtype == torch.bfloat16 else "loop"


def _by_kernel(device: torch.device, otherwise: str) -> str:
    return "kernel" if device.type == "cuda" and can_launch(device) else otherwise


OPTIONS: dict[str, Option] = {
    "linear": Option(
        "products with weights, experts apart (engine/linear.py)",
        {
            "plain": "torch.nn.functional.linear",
            "packed": "oneDNN over weights that are laid out for it once, a second copy in memory; gelu, tanh and gate "
            "times up are done on the way; one row stays with MKL, in two halves; CPU, float32",
            "kernel": "plain, but float8 weights by a Triton kernel that widens them in registers",
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
            "shared": "four operations a norm; the dense branch, the experts and the router share one of their input; "
            "in float32 the router saves four more",
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
            "gathered": "as grouped, but for up to 4 rows a Triton kernel that reads the chosen experts, unsorted",
            "kernel": "Triton kernels: grouped over sorted rows, gathered for up to 4 of them",
        },
        _experts,
    ),
    "attention": Option(
        "attention and the buffers of keys and values (engine/attention.py, engine/static_cache.py)",
        {
            "sdpa": "torch's scaled_dot_product_attention over views of buffers that grow; windows are cut on the host",
            "kernel": "a Triton kernel over static buffers, which reads their used part on the device",
        },
        lambda device, dtype: "sdpa",
    ),
    "head": Option(
        "logits of a denoising step (engine/kernel_step.py); with the sampler 'kernel' alone",
        {
            "whole": "of all rows at once",
            "chunked": "of as many rows at once as make 2^28 float32 numbers, 1 GiB, each sampled before the next",
        },
        lambda device, dtype: "whole",
    ),
    "sampler": Option(
        "how a denoising step draws (engine/sampling.py)",
        {
            "plain": "the formulas one by one, with an exponential race over the whole vocabulary",
            "fast": "one pass for maximum, sum, entropy and draw, by inversion: the same distribution, other draws",
            "kernel": "Triton: likeliest token, entropy, draw and probabilities in two reads; again other draws",
            "reference": "the torch calls of transformers in their order, so that equal generators give equal tokens",
        },
        lambda device, dtype: "fast",
    ),
    "graphs": Option(
        "denoising and decode steps as CUDA graphs (engine/steps.py)",
        {
            "off": "operation by operation",
            "static": "the function that a graph would hold, over the same static tensors, but without a graph",
            "on": "captured once for a batch, a length and a sampler's settings, then replayed; CUDA. One set is kept: "
            "a request of another kind captures anew",
        },
        lambda device, dtype: "off",
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
    "compaction": Option(
        "rows with nothing left to do: behind their end of sequence, or stopped in a canvas that others still denoise",
        {
            "off": "they ride along, as in a static batch",
            "on": "they leave the batch, the stopped ones until the next canvas; keys and values of the others are "
            "copied each time. Every row draws as before, so that tokens are the same up to rounding. One difference: "
            "a static batch goes on for a row that has ended and will not stop, and draws more than this does then",
        },
        lambda device, dtype: "off",
    ),
}
assert list(OPTIONS) == [f.name for f in fields(Choices)]


def resolve(
    device: torch.device, dtype: torch.dtype, wanted: Mapping[str, str] | None = None, *, is_float8: bool = False
) -> Choices:
    """The choices for a device and a dtype, where `wanted` names no other. is_float8: weights (engine/float8.py).

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
    chosen = {name: option.default(device, dtype) for name, option in OPTIONS.items()}
    if wanted.get("compile") == "on":  # which makes kernels of torch's operations, and leaves Triton's alone
        chosen = {name: _COMPILABLE.get(name, value) if value in _TRITON else value for name, value in chosen.items()}
    if is_float8:
        chosen |= {"linear": _by_kernel(device, "plain"), "experts": _by_kernel(device, "loop")}
    chosen |= wanted
    if "graphs" not in wanted and _cannot_capture(chosen):
        chosen["graphs"] = "off"
    _check_possible(chosen, device, dtype)
    for name in ("linear", "experts") if is_float8 else ():
        if chosen[name] not in ("plain", "loop", "kernel"):
            raise ValueError(
                f"{name} is {chosen[name]!r}, which has no float8 form; expected 'kernel' or the plain one"
            )
    return Choices(**chosen)


def _check_possible(chosen: Mapping[str, str], device: torch.device, dtype: torch.dtype) -> None:
    here = f"here: {device}, {dtype}"
    if chosen["linear"] == "packed" and _linear(device, dtype) != "packed":
        raise ValueError(f"linear is 'packed', which needs a CPU, float32 and a torch with oneDNN; {here}")
    for name, value in chosen.items():
        if value in _TRITON and not can_launch(device):
            raise ValueError(
                f"{name} is {value!r}, which needs a CUDA GPU and Triton, or for tests Triton's interpreter "
                f"(TRITON_INTERPRET=1) on a CPU; {here}"
            )
    if chosen["graphs"] != "off" and (reason := _cannot_capture(chosen)):
        raise ValueError(f"graphs is {chosen['graphs']!r}, but {reason}")
    if chosen["graphs"] == "on" and device.type != "cuda":
        raise ValueError(f"graphs is 'on', which needs a CUDA GPU; {here}")
    if chosen["compaction"] == "on" and (reason := _cannot_compact(chosen)):
        raise ValueError(f"compaction is 'on', but {reason}")
    if chosen["compile"] == "on" and device.type == "cpu" and not _has_cpp_compiler():
        raise ValueError("compile is 'on', which needs a C++ compiler on a CPU: install g++, or name one in CXX")
    if chosen["compile"] == "on" and any(value in _TRITON for value in chosen.values()):
        raise ValueError("compile is 'on', which does not go with Triton kernels; name none for other options")
    if chosen["compile"] == "on" and chosen["experts"] == "loop":
        raise ValueError("compile is 'on', but experts='loop' reads the device in every layer, which breaks the graph")
    traced = device.type != "cpu" or dtype == torch.bfloat16
    if chosen["compile"] == "on" and chosen["experts"] == "grouped" and not traced:
        raise ValueError(f"compile is 'on', but torch traces experts='grouped' on a CPU in bfloat16 alone; {here}")


def _cannot_capture(chosen: Mapping[str, str]) -> str:
    """Why a step with these parts cannot be a graph; "" where it can."""
    if chosen["experts"] in ("loop", "tailored"):
        return f"experts={chosen['experts']!r} reads the device in every layer; take 'kernel', 'gathered' or 'grouped'"
    if chosen["attention"] != "kernel":
        return f"attention={chosen['attention']!r} has the keys' number in its shapes; take 'kernel'"
    if chosen["sampler"] != "kernel":
        return f"sampler={chosen['sampler']!r} draws from a generator on the way; take 'kernel'"
    return "compile='on' has graphs of its own; take 'off'" if chosen["compile"] == "on" else ""


def _cannot_compact(chosen: Mapping[str, str]) -> str:
    """Why rows cannot leave a batch with these parts; "" where they can."""
    if chosen["attention"] == "kernel":
        return "attention='kernel' has buffers for the whole batch; take 'sdpa'"
    if chosen["sampler"] == "kernel":
        return "sampler='kernel' draws by a row's place among those that run; take 'fast'"
    return "compile='on' would compile every number of rows anew; take 'off'" if chosen["compile"] == "on" else ""


def can_launch(device: torch.device) -> bool:
    """Whether Triton kernels run here: on a GPU, or in the interpreter."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    return find_spec("triton") is not None and (device.type == "cuda") != interpreted


def _has_cpp_compiler() -> bool:
    return bool(os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++"))


def can_pack() -> bool:
    """Whether this torch has the oneDNN operators that torch.compile itself uses for frozen weights."""
    return torch.backends.mkldnn.is_available() and all(
        hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight")
    )
