"""What a cell must cost on a device: operations x roofs -> floor and bound, and the memory it needs.

floor: a perfect engine that runs the operations one after another, sum of max(bytes/bandwidth, FLOPs/rate).
bound: what nothing can beat, max(sum of bytes/bandwidth, sum of FLOPs/rate).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from engine import config as engine_config
from engine import cost
from engine.config import ModelConfig, read_config
from harness.records.types import AUTOREGRESSIVE, Cell
from harness.spec.config import DTYPE_BYTES, ConfigError, DeviceConfig, ModelSource, check_choice

PHASES = ("prefill", "denoise", "commit", "decode")
# Live [rows, vocabulary] planes of the reference sampler: softcapped logits, logits over temperature, probabilities and
# multinomial's copy in float32; and the self-conditioning input and its softmax in the activation dtype.
SAMPLER_FLOAT32_PLANES, SAMPLER_ACTIVATION_PLANES = 4, 2


@dataclass(kw_only=True, slots=True)
class Phase:
    """One pass kind of a request: count of passes, and totals over all of them."""

    count: int = 0
    operations: dict[str, cost.Cost] = field(default_factory=dict)
    floor_s: float | None = None
    operation_floor_s: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What one request of a cell must cost. Seconds are None where the device has no roofs; `missing` says which."""

    phases: dict[str, Phase]
    floor_s: float | None
    bound_s: float | None
    memory_bytes: int
    missing: dict[str, str]

    @property
    def passes(self) -> dict[str, int]:
        return {kind: phase.count for kind, phase in self.phases.items()}


def shape_of(source: ModelSource) -> ModelConfig:
    """The model's shape, read without its weights and without torch.

    Raises:
        ConfigError: unknown preset, or a directory whose config.json is absent or of another architecture.
    """
    check_choice("model.window", source.window, engine_config.WINDOW_FORMS)
    if source.path is None:
        check_choice("model.preset", source.preset, tuple(engine_config.PRESETS))
        return engine_config.PRESETS[source.preset]
    try:
        return read_config(Path(source.path))
    except (ValueError, OSError) as error:
        raise ConfigError(f"model.path: {error}") from None


def widths_of(cell: Cell) -> cost.Widths:
    return cost.Widths(
        weight=DTYPE_BYTES[cell.weight_dtype],
        activation=DTYPE_BYTES[cell.activation_dtype],
        kv=DTYPE_BYTES[cell.kv_dtype],
        head=DTYPE_BYTES[cell.head_dtype],
    )


@dataclass(frozen=True, slots=True)
class Pass:
    """`count` equal model calls of one kind."""

    kind: str
    count: int
    tokens: int
    context: int
    samples: bool = False


def passes_of(cell: Cell) -> Iterator[Pass]:
    """The model calls of one request when no EOS ends it early and every canvas takes num_steps.

    A canvas is committed only when another one follows. An autoregressive prefill gives the first token.
    """
    prompt, output = cell.prompt_tokens, cell.output_tokens
    if cell.decoding == AUTOREGRESSIVE:
        yield Pass("prefill", 1, prompt, 0, samples=True)
        for i in range(output - 1):
            yield Pass("decode", 1, 1, prompt + i)
        return
    assert cell.block_length is not None and cell.num_steps is not None
    yield Pass("prefill", 1, prompt, 0)
    num_canvases = -(-output // cell.block_length)
    for canvas in range(num_canvases):
        context = prompt + canvas * cell.block_length
        yield Pass("denoise", cell.num_steps, cell.block_length, context)
        if canvas < num_canvases - 1:
            yield Pass("commit", 1, cell.block_length, context)


def predict(cell: Cell, shape: ModelConfig, device: DeviceConfig) -> Prediction:
    """Floors, bound and memory of one whole request of the cell's batch on the device."""
    bandwidth = device.bandwidth_bytes_s.value
    rates = {op: _rate(device, _compute_dtype(cell, op)) for op in cost.OPERATIONS}
    missing = {}
    if bandwidth is None or None in rates.values():
        dtypes = sorted({_compute_dtype(cell, op) for op, rate in rates.items() if rate is None})
        lacks = [*(["bandwidth"] if bandwidth is None else []), *(f"{d} rate" for d in dtypes)]
        missing = {
            name: f"device {device.name} has no roof: {', '.join(lacks)}"
            for name in ("floor_s", "bound_s", "predicted_s")
        }
    phases = {kind: Phase() for kind in PHASES}
    widths = widths_of(cell)
    for step in passes_of(cell):
        phase = phases[step.kind]
        phase.count += step.count
        for name, one in _costs(shape, widths, cell.batch_size, step.kind, step.tokens, step.context, step.samples):
            total = one.times(step.count)
            phase.operations[name] = phase.operations[name] + total if name in phase.operations else total
            if not missing:
                seconds = _floor(total, bandwidth, rates[name])
                phase.operation_floor_s[name] = (phase.operation_floor_s.get(name) or 0.0) + seconds
    if not missing:
        for phase in phases.values():
            phase.floor_s = sum(s or 0.0 for s in phase.operation_floor_s.values())
    return Prediction(
        phases=phases,
        floor_s=None if missing else sum(p.floor_s or 0.0 for p in phases.values()),
        bound_s=None if missing else _bound(phases, bandwidth, rates),
        memory_bytes=memory_bytes(cell, shape),
        missing=missing,
    )


@lru_cache(maxsize=65_536)  # cells of one batch and block length differ in how often they make the same passes
def _costs(
    shape: ModelConfig, widths: cost.Widths, batch_size: int, kind: str, tokens: int, context: int, samples: bool
) -> tuple[tuple[str, cost.Cost], ...]:
    passed = cost.pass_cost(
        shape, kind, batch_size=batch_size, tokens=tokens, context=context, widths=widths, samples=samples
    )
    return tuple(passed.items())


def memory_bytes(cell: Cell, shape: ModelConfig) -> int:
    """Predicted peak: weights, keys and values, and the largest transient of any pass."""
    widths = widths_of(cell)
    positions = cell.prompt_tokens + -(-cell.output_tokens // (cell.block_length or 1)) * (cell.block_length or 1)
    block = cell.block_length or 1
    logit_rows = cell.batch_size * block
    planes = SAMPLER_FLOAT32_PLANES * 4 + SAMPLER_ACTIVATION_PLANES * widths.activation
    sampler = logit_rows * shape.vocab_size * (planes if cell.block_length else 2 * 4)
    hidden_rows = cell.batch_size * max(cell.prompt_tokens, block)
    per_expert_row = 2 * shape.hidden_size + 3 * shape.moe_intermediate_size
    activations = hidden_rows * (8 * shape.hidden_size + shape.top_k_experts * per_expert_row) * widths.activation
    cache = cost.kv_bytes(shape, cell.batch_size, positions, widths)
    return cost.weight_bytes(shape, widths) + cache + max(sampler, activations)


def _compute_dtype(cell: Cell, operation: str) -> str:
    """The dtype that sets an operation's arithmetic rate: the wider of its two inputs'."""
    other = cell.weight_dtype
    if operation in ("lm_head", "soft_embedding", "sampler"):
        other = cell.head_dtype
    elif operation == "attention_core":
        other = cell.kv_dtype
    return max((other, cell.activation_dtype), key=lambda dtype: DTYPE_BYTES[dtype])


def _rate(device: DeviceConfig, dtype: str) -> float | None:
    figure = device.flops_s.get(dtype)
    return None if figure is None else figure.value


def _floor(total: cost.Cost, bandwidth: float | None, rate: float | None) -> float:
    assert bandwidth is not None and rate is not None
    return max(total.bytes / bandwidth, total.flops / rate)


def _bound(phases: dict[str, Phase], bandwidth: float | None, rates: dict[str, float | None]) -> float:
    assert bandwidth is not None
    seconds_moving = seconds_computing = 0.0
    for phase in phases.values():
        for name, total in phase.operations.items():
            seconds_moving += total.bytes / bandwidth
            seconds_computing += total.flops / (rates[name] or 1.0)
    return max(seconds_moving, seconds_computing)
