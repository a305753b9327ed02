"""What a cell must cost on a device: operations x roofs -> floor and bound, and the memory it needs.

floor: a perfect engine that runs the operations one after another, sum of max(bytes/bandwidth, FLOPs/rate).
bound: what nothing can beat, max(sum of bytes/bandwidth, sum of FLOPs/rate).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine import config as engine_config
from engine import cost
from engine.config import ModelConfig, read_config
from harness.records.types import REPLAY, Cell
from harness.spec import draws, memory
from harness.spec.config import DTYPE_BYTES, ConfigError, DeviceConfig, ModelSource, check_choice

Shape = ModelConfig  # for analysis, which knows no engine
PHASES = ("prefill", "denoise", "commit", "decode")


@dataclass(kw_only=True, slots=True)
class Phase:
    """One pass kind of a request: count of passes, and totals over all of them."""

    count: float = 0  # whole, but where it is an expectation
    operations: dict[str, cost.Cost] = field(default_factory=dict)
    floor_s: float | None = None
    operation_floor_s: dict[str, float] = field(default_factory=dict)  # empty where the device has no roofs

    def times(self, count: float) -> Phase:
        """So many of it."""
        return Phase(
            count=self.count * count,
            operations={name: one.times(count) for name, one in self.operations.items()},
            floor_s=None if self.floor_s is None else self.floor_s * count,
            operation_floor_s={name: seconds * count for name, seconds in self.operation_floor_s.items()},
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What one request of a cell must cost. Seconds are None where the device has no roofs; `missing` says which."""

    floor_s: float | None
    bound_s: float | None
    memory_bytes: int
    missing: dict[str, str]
    num_steps: float  # of a canvas: the cap, or with stopping=replay the expected longest of the batch's rows
    one_step: dict[str, Phase]  # as if a canvas took one step: thousands of cells share it

    @property
    def phases(self) -> dict[str, Phase]:
        return _with_steps(self.one_step, self.num_steps)

    @property
    def passes(self) -> dict[str, float]:
        counts = {kind: phase.count for kind, phase in self.one_step.items()}
        return {**counts, "denoise": counts["denoise"] * self.num_steps}


def shape_of(source: ModelSource) -> ModelConfig:
    """The model's shape, read without its weights and without torch.

    Raises:
        ConfigError: unknown preset, or a directory whose config.json is absent or of another architecture.
    """
    check_choice("model.window", source.window, engine_config.WINDOW_FORMS)
    if source.directory is None:
        check_choice("model.preset", source.preset, (*engine_config.SHIPPED, *engine_config.PRESETS))
        return engine_config.PRESETS[source.preset]
    try:
        return read_config(source.directory)
    except (ValueError, OSError) as error:
        raise ConfigError(f"model.path: {error}") from None


def widths_of(cell: Cell) -> cost.Widths:
    return cost.Widths(
        weight=DTYPE_BYTES[cell.weight_dtype],
        activation=DTYPE_BYTES[cell.activation_dtype],
        kv=DTYPE_BYTES[cell.kv_dtype],
        head=DTYPE_BYTES[cell.head_dtype],
    )


def shape_from_json(data: Mapping[str, Any]) -> ModelConfig:
    """The shape that plan.json holds.

    Raises:
        ValueError, TypeError: it is none.
    """
    generation: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in dict(data["generation"]).items()
    }
    shape = {**data, "layer_types": tuple(data["layer_types"])}
    return ModelConfig(**{**shape, "generation": engine_config.GenerationDefaults(**generation)})


@dataclass(frozen=True, slots=True)
class Pass:
    """One model call."""

    kind: str
    tokens: int
    context: int
    samples: bool = False


def passes_of(prompt_tokens: int, output_tokens: int, block_length: int | None) -> Iterator[Pass]:
    """The model calls of one request when no EOS ends it early and every canvas takes one step.

    A canvas is committed only when another one follows. An autoregressive prefill gives the first token.
    """
    if block_length is None:
        yield Pass("prefill", prompt_tokens, 0, samples=True)
        for i in range(output_tokens - 1):
            yield Pass("decode", 1, prompt_tokens + i)
        return
    yield Pass("prefill", prompt_tokens, 0)
    num_canvases = -(-output_tokens // block_length)
    for canvas in range(num_canvases):
        context = prompt_tokens + canvas * block_length
        yield Pass("denoise", block_length, context)
        if canvas < num_canvases - 1:
            yield Pass("commit", block_length, context)


@dataclass(frozen=True, slots=True)
class Roofs:
    """What floors need of a device: None where it is not known."""

    bandwidth: float | None
    rates: tuple[float | None, ...]  # one for each of cost.OPERATIONS

    @property
    def are_known(self) -> bool:
        return self.bandwidth is not None and None not in self.rates

    def seconds(self, operation: str, total: cost.Cost) -> tuple[float, float]:
        """Of moving the bytes, and of computing."""
        rate = self.rates[cost.OPERATIONS.index(operation)]
        assert self.bandwidth is not None and rate is not None
        return total.bytes / self.bandwidth, total.flops / rate

    def floor_s(self, operation: str, bytes_N: NDArray[np.float64], flops_N: NDArray[np.float64]) -> float:
        """Of N passes one after another, each as long as the slower of moving and computing takes."""
        rate = self.rates[cost.OPERATIONS.index(operation)]
        assert self.bandwidth is not None and rate is not None
        return float(np.maximum(bytes_N / self.bandwidth, flops_N / rate).sum())


def predict(cell: Cell, shape: ModelConfig, device: DeviceConfig) -> Prediction:
    """Floors, bound and memory of one whole request of the cell's batch on the device.

    Raises:
        ConfigError: what the cell draws its experts or steps from cannot be read.
    """
    roofs = roofs_of(cell, device)
    why_not = missing_roofs(cell, device)
    one_step = one_step_of(cell, shape, device)
    num_steps = steps_of(cell)
    phases = _with_steps(one_step, num_steps)
    return Prediction(
        floor_s=None if why_not else sum(phase.floor_s or 0.0 for phase in phases.values()),
        bound_s=None if why_not else max(moving_and_computing_s(phases.values(), roofs)),
        memory_bytes=memory.predicted_bytes(cell, shape, widths_of(cell)),
        missing=dict.fromkeys(("floor_s", "bound_s", "predicted_s"), why_not) if why_not else {},
        num_steps=num_steps,
        one_step=one_step,
    )


def roofs_of(cell: Cell, device: DeviceConfig) -> Roofs:
    """The device's roofs for each operation in the cell's dtypes."""
    rates = tuple(_rate(device, dtype) for dtype in compute_dtypes(cell))
    return Roofs(device.bandwidth_bytes_s.value, rates)


def unknown_dtypes(cell: Cell) -> str:
    """Which dtypes of a cell that somebody else wrote have no size here; "" where all have one."""
    unknown = sorted({cell.weight_dtype, cell.activation_dtype, cell.kv_dtype, cell.head_dtype} - DTYPE_BYTES.keys())
    return f"how many bytes {' and '.join(unknown)} takes is not known" if unknown else ""


def missing_roofs(cell: Cell, device: DeviceConfig) -> str:
    """Why the cell has no floor on this device; "" where it has one."""
    if unknown := unknown_dtypes(cell):
        return unknown
    lacks = ["bandwidth"] if device.bandwidth_bytes_s.value is None else []
    lacks += [f"{dtype} rate" for dtype in sorted(set(compute_dtypes(cell))) if _rate(device, dtype) is None]
    return f"device {device.name} has no roof: {', '.join(lacks)}" if lacks else ""


def one_step_of(
    cell: Cell, shape: ModelConfig, device: DeviceConfig, experts_hit: Mapping[str, float] | None = None
) -> dict[str, Phase]:
    """The cell's phases as if every canvas took one step.

    experts_hit: pass kind -> distinct experts per layer where they were measured; of other kinds the expectation.
    """
    lengths = (cell.prompt_tokens, cell.output_tokens, cell.block_length)
    measured = tuple(sorted((experts_hit or {}).items()))
    inclusion = draws.inclusion_of(cell, shape)
    return one_step(shape, widths_of(cell), roofs_of(cell, device), cell.batch_size, *lengths, inclusion, measured)


def steps_of(cell: Cell) -> float:
    """Denoise passes a canvas: the cap, or with drawn steps the expected longest of the batch's rows."""
    if cell.stopping == REPLAY and cell.num_steps is not None:
        return draws.steps_of(cell).longest(cell.batch_size, cell.num_steps)
    return cell.num_steps or 1


@lru_cache(maxsize=1024)  # cells that differ in steps, stopping, eos or prompts alone make the same passes
def one_step(
    shape: ModelConfig,
    widths: cost.Widths,
    roofs: Roofs,
    batch_size: int,
    prompt_tokens: int,
    output_tokens: int,
    block_length: int | None,
    inclusion: cost.Inclusion | None = None,
    measured: tuple[tuple[str, float], ...] = (),
) -> dict[str, Phase]:
    """Phases of a request as if every canvas took one step; callers do not change them, because they are kept."""
    lengths = (prompt_tokens, output_tokens, block_length)
    phases = {}
    for kind, (count, operations) in _operations(shape, widths, batch_size, *lengths, inclusion, measured).items():
        phase = Phase(count=count, operations={name: total for name, (total, _, _) in operations.items()})
        if roofs.are_known:
            phase.operation_floor_s = {
                name: roofs.floor_s(name, bytes_N, flops_N) for name, (_, bytes_N, flops_N) in operations.items()
            }
            phase.floor_s = sum(phase.operation_floor_s.values())
        phases[kind] = phase
    return phases


_Operation = tuple[cost.Cost, NDArray[np.float64], NDArray[np.float64]]  # total; bytes and FLOPs of each pass


@lru_cache(maxsize=256)  # devices differ in their roofs alone
def _operations(
    shape: ModelConfig,
    widths: cost.Widths,
    batch_size: int,
    prompt_tokens: int,
    output_tokens: int,
    block_length: int | None,
    inclusion: cost.Inclusion | None,
    measured: tuple[tuple[str, float], ...],
) -> dict[str, tuple[int, dict[str, _Operation]]]:
    """Pass kind -> how many passes, and what their operations cost, as if every canvas took one step."""
    expected = lru_cache(partial(cost.distinct_experts, shape, inclusion=inclusion))
    hits = dict(measured)
    found: dict[str, list[dict[str, cost.Cost]]] = {kind: [] for kind in PHASES}
    for step in passes_of(prompt_tokens, output_tokens, block_length):
        found[step.kind].append(
            cost.pass_cost(
                shape,
                step.kind,
                batch_size=batch_size,
                tokens=step.tokens,
                context=step.context,
                widths=widths,
                experts_hit=hits.get(step.kind) or expected(batch_size * step.tokens),
                samples=step.samples,
            )
        )
    return {
        kind: (len(passes), {name: _of_passes(passes, name) for name in passes[0]} if passes else {})
        for kind, passes in found.items()
    }


def _of_passes(passes: Sequence[Mapping[str, cost.Cost]], name: str) -> _Operation:
    each = [one[name] for one in passes]
    total = cost.Cost(bytes=sum(one.bytes for one in each), flops=sum(one.flops for one in each))
    each = each[:1] if each.count(each[0]) == len(each) else each  # attention alone knows its context
    bytes_N, flops_N = np.array([one.bytes for one in each], float), np.array([one.flops for one in each], float)
    return total, np.broadcast_to(bytes_N, len(passes)), np.broadcast_to(flops_N, len(passes))


def _with_steps(one_step: dict[str, Phase], num_steps: float) -> dict[str, Phase]:
    return {**one_step, "denoise": one_step["denoise"].times(num_steps)}


def compute_dtypes(cell: Cell) -> tuple[str, ...]:
    """The dtype that sets the rate of each of cost.OPERATIONS: the wider of its two inputs'."""
    return _compute_dtypes(cell.weight_dtype, cell.activation_dtype, cell.kv_dtype, cell.head_dtype)


@lru_cache(maxsize=256)  # thousands of cells have the same few dtypes
def _compute_dtypes(weight: str, activation: str, kv: str, head: str) -> tuple[str, ...]:
    others = {"attention_core": kv, "lm_head": head, "soft_embedding": head, "sampler": head}
    inputs = [(others.get(operation, weight), activation) for operation in cost.OPERATIONS]
    return tuple(max(both, key=lambda dtype: DTYPE_BYTES[dtype]) for both in inputs)


def _rate(device: DeviceConfig, dtype: str) -> float | None:
    figure = device.flops_s.get(dtype)
    return None if figure is None else figure.value


def moving_and_computing_s(phases: Iterable[Phase], roofs: Roofs) -> tuple[float, float]:
    """Seconds of moving all bytes, and of all arithmetic; the larger one is the bound."""
    seconds = [roofs.seconds(name, total) for phase in phases for name, total in phase.operations.items()]
    return sum(moving for moving, _ in seconds), sum(computing for _, computing in seconds)
