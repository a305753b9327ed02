"""What a cell must cost on a device: operations x roofs -> floor and bound, and the memory it needs.

floor: a perfect engine that runs the operations one after another, sum of max(bytes/bandwidth, FLOPs/rate).
bound: what nothing can beat, max(sum of bytes/bandwidth, sum of FLOPs/rate).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from engine import config as engine_config
from engine import cost
from engine.config import ModelConfig, read_config
from harness.records.types import Cell
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
    operation_floor_s: dict[str, float] = field(default_factory=dict)  # empty where the device has no roofs

    def times(self, count: int) -> Phase:
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
    num_steps: int
    one_step: dict[str, Phase]  # as if a canvas took one step: thousands of cells share it

    @property
    def phases(self) -> dict[str, Phase]:
        return _with_steps(self.one_step, self.num_steps)

    @property
    def passes(self) -> dict[str, int]:
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


def predict(cell: Cell, shape: ModelConfig, device: DeviceConfig) -> Prediction:
    """Floors, bound and memory of one whole request of the cell's batch on the device."""
    dtypes = [_compute_dtype(cell, operation) for operation in cost.OPERATIONS]
    roofs = Roofs(device.bandwidth_bytes_s.value, tuple(_rate(device, dtype) for dtype in dtypes))
    missing = {}
    if not roofs.are_known:
        unknown = sorted({dtype for dtype, rate in zip(dtypes, roofs.rates, strict=True) if rate is None})
        lacks = [*(["bandwidth"] if roofs.bandwidth is None else []), *(f"{d} rate" for d in unknown)]
        missing = {
            name: f"device {device.name} has no roof: {', '.join(lacks)}"
            for name in ("floor_s", "bound_s", "predicted_s")
        }
    lengths = (cell.prompt_tokens, cell.output_tokens, cell.block_length)
    one_step = _one_step(shape, widths_of(cell), roofs, cell.batch_size, *lengths)
    num_steps = cell.num_steps or 1
    phases = _with_steps(one_step, num_steps)
    return Prediction(
        floor_s=None if missing else sum(phase.floor_s or 0.0 for phase in phases.values()),
        bound_s=None if missing else _bound(phases, roofs),
        memory_bytes=memory_bytes(cell, shape),
        missing=missing,
        num_steps=num_steps,
        one_step=one_step,
    )


@lru_cache(maxsize=1024)  # cells that differ in steps, stopping, eos or prompts alone make the same passes
def _one_step(
    shape: ModelConfig,
    widths: cost.Widths,
    roofs: Roofs,
    batch_size: int,
    prompt_tokens: int,
    output_tokens: int,
    block_length: int | None,
) -> dict[str, Phase]:
    phases = {kind: Phase() for kind in PHASES}
    for step in passes_of(prompt_tokens, output_tokens, block_length):
        phase = phases[step.kind]
        phase.count += 1
        costs = cost.pass_cost(
            shape,
            step.kind,
            batch_size=batch_size,
            tokens=step.tokens,
            context=step.context,
            widths=widths,
            samples=step.samples,
        )
        for name, one in costs.items():
            phase.operations[name] = phase.operations[name] + one if name in phase.operations else one
            if roofs.are_known:
                before = phase.operation_floor_s.get(name, 0.0)
                phase.operation_floor_s[name] = before + max(roofs.seconds(name, one))
    if roofs.are_known:
        for phase in phases.values():
            phase.floor_s = sum(phase.operation_floor_s.values())
    return phases


def _with_steps(one_step: dict[str, Phase], num_steps: int) -> dict[str, Phase]:
    return {**one_step, "denoise": one_step["denoise"].times(num_steps)}


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


def _bound(phases: dict[str, Phase], roofs: Roofs) -> float:
    seconds = [roofs.seconds(name, total) for phase in phases.values() for name, total in phase.operations.items()]
    return max(sum(moving for moving, _ in seconds), sum(computing for _, computing in seconds))
