"""What is asked (Cell), what one repetition gave (Round), and what one cell gave in one launch (Record).

Standard library only: every other layer reads these. Times are seconds, sizes bytes, energies joules. A quantity that
could not be had is None and `missing` says why; it is never 0 and never NaN.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from operator import attrgetter
from typing import Any, Literal, get_args

CELL_SCHEMA = 1
RECORD_SCHEMA = 4

BLOCK_DIFFUSION = "block_diffusion"
AUTOREGRESSIVE = "autoregressive"
REPLAY = "replay"  # of stopping: steps are drawn from a histogram; of routing: experts are drawn as often as measured
REFERENCE = "reference"  # the backend that is this project's engine
PASS_KINDS = ("prefill", "denoise", "commit", "decode", "verify")

Status = Literal["ok", "oom", "timeout", "error", "unsupported"]
STATUSES: tuple[str, ...] = get_args(Status)
FAILED_STATUSES = ("error", "timeout")  # what makes a run incomplete; oom and unsupported are results
PRUNED = "pruned"  # how the reason of an oom record begins whose cell was not tried: a smaller batch did not fit
SELF_CHECK = "self-check"  # how the reason of an error begins that says which identities a round breaks
INTERRUPTED = "interrupted"  # how the reason of a record begins whose process ended before its cell was done


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def canonical_json(value: Any) -> str:
    """The one spelling of a JSON value that hashes are taken of."""
    return _CANONICAL.encode(value)


def content_hash(value: Any, length: int = 16) -> str:
    """First `length` hex digits of the SHA-256 of the value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One configuration point: everything that defines the measured question, and nothing about who answered it.

    block_length, num_steps and stopping are None for autoregressive cells, so that one of them serves many twins.
    """

    backend: str
    model: str
    decoding: str  # block_diffusion | autoregressive
    batch_size: int
    prompt_set: str
    prompt_tokens: int
    output_tokens: int
    eos: str  # ignore | respect
    block_length: int | None
    num_steps: int | None  # fixed: exactly so many; adaptive, replay: at most
    stopping: str | None  # fixed | adaptive | replay
    weight_dtype: str  # experts, dense MLP and attention
    activation_dtype: str
    kv_dtype: str
    head_dtype: str  # embedding and head, which share their weights
    routing: str  # model | uniform | zipf | replay
    device: str
    protocol: str
    options: dict[str, Any] = field(default_factory=dict)  # the backend's own

    @property
    def cell_id(self) -> str:
        return content_hash({"cell_schema": CELL_SCHEMA, **to_json(self)})

    @property
    def twin(self) -> Cell:
        """The autoregressive cell that agrees in all but decoding, block_length, num_steps and stopping."""
        return replace(self, decoding=AUTOREGRESSIVE, block_length=None, num_steps=None, stopping=None)

    @property
    def drawn(self) -> list[str]:
        """What of it is drawn instead of computed, in words; no row with any of it is a plain measurement."""
        drawn = []
        if self.routing != "model":
            experts = {
                "uniform": "uniform",
                "zipf": f"zipf with exponent {self.options.get('zipf_exponent')}",
                REPLAY: f"replayed from {self.options.get('expert_popularity')}",
            }
            drawn.append(f"experts drawn: {experts.get(self.routing, self.routing)}")
        if self.stopping == REPLAY:
            drawn.append(f"steps drawn from {self.options.get('replay_steps')}")
        return drawn

    @property
    def label(self) -> str:
        """Short text for progress lines and tables; the backend stands in it where it is not this engine."""
        if self.decoding == AUTOREGRESSIVE:
            decoding = "AR"
        else:
            decoding = f"BD L{self.block_length} {'s' if self.stopping == 'fixed' else 's<='}{self.num_steps}"
        options = "".join(
            f" {name}={value}" for name, value in self.options.items() if name not in ("window", "synthetic")
        )
        backend = "" if self.backend == REFERENCE else f" on {self.backend}"
        what = f"{self.prompt_set} {self.prompt_tokens}->{self.output_tokens}"
        return f"{decoding} b{self.batch_size} {what}{options}{backend}"


TWIN_FIELDS = ("decoding", "block_length", "num_steps", "stopping")  # in which a cell and its twin may differ


def equal_but_for(cell: Cell, *names: str) -> Hashable:
    """What is equal for cells that differ in these fields alone."""
    options = "" if "options" in names else canonical_json(cell.options)
    return _all_but(names)(cell), options


@cache
def _all_but(names: tuple[str, ...]) -> Callable[[Cell], Hashable]:
    """What takes every other field of a cell; options are no key as they are."""
    return attrgetter(*(f.name for f in fields(Cell) if f.name not in (*names, "options")))


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """One timed repetition of a cell's whole request: prefill, every canvas or token, commits, discarded work.

    block_s: seconds from the request's start until each block's tokens were on the host; a block is a canvas, or one
        token when decoding is autoregressive. step_s: seconds of each denoise step or decode pass.
    passes: executed model calls by kind. steps_per_canvas: algorithmic steps, one row of the batch after another.
    row_passes: the same calls, each counted once for every row it ran for: fewer than passes x rows where rows leave
        the batch when they are done.
    useful_tokens: per row; with eos respected up to and including the first EOS, never more than requested.
    raw_tokens: positions computed over all rows (whole canvases), those of canvases that a row had left not included.
    prompt_ids, categories: which prompt each row answered, and what kind of prompt that is.
    exact: per row, 1 if the answer is right, else 0; None where the prompt has no checker.
    token_accuracy: per row, the share of the expected answer's tokens, its end of sequence included, that stand at the
        right place; None where the prompt has no expected answer.
    """

    index: int
    seed: int
    wall_s: float
    cpu_s: float
    device_s: float | None
    ttfb_s: float
    block_s: tuple[float, ...]
    step_s: tuple[float, ...]
    passes: dict[str, int]
    row_passes: dict[str, int]
    steps_per_canvas: tuple[tuple[int, ...], ...]
    useful_tokens: tuple[int, ...]
    raw_tokens: int
    stop_reason: str
    resolved: dict[str, str]  # kernels and dtypes that really ran
    prompt_ids: tuple[str, ...] | None = None
    categories: tuple[str, ...] | None = None
    exact: tuple[int | None, ...] | None = None
    token_accuracy: tuple[float | None, ...] | None = None
    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    peak_device_bytes: int | None = None
    energy_j: float | None = None
    clocks_mhz: dict[str, int] | None = None
    throttle_reasons: tuple[str, ...] | None = None
    gpu: dict[str, float] | None = None  # temperature_c_max, power_w, ...: docs/measuring.md
    missing: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What one cell gave in one launch. Written as one line of JSON the moment the cell is done."""

    run_id: str
    cell: Cell
    cell_id: str
    launch: int
    attempt: int
    worker: str
    status: Status
    reason: str | None
    rounds: Sequence[Round]
    counters: Mapping[str, Any]  # of a separate untimed round: expert_hits, entropies
    discarded: tuple[str, ...]  # the reason of each round thrown away
    warnings: tuple[str, ...]
    environment_id: str
    started_at: str  # ISO 8601, UTC
    seed: int
    course: dict[str, Any] = field(default_factory=dict)  # how the launch went: cold_s, warmup_s, ended, overhead_s
    energy: dict[str, Any] = field(default_factory=dict)  # of repeated requests; {}: none was asked for
    record_schema: int = RECORD_SCHEMA

    @property
    def key(self) -> tuple[str, int]:
        """What is done once: a cell in a launch."""
        return (self.cell_id, self.launch)

    @property
    def is_interrupted(self) -> bool:
        """Whether this attempt ended for a reason outside the cell, so that the cell is still to be measured."""
        return self.status == "error" and (self.reason or "").startswith(INTERRUPTED)

    @property
    def is_pruned(self) -> bool:
        """Whether the cell was not tried, because a smaller batch of its line did not fit."""
        return self.status == "oom" and (self.reason or "").startswith(f"{PRUNED}: ")


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """The machine and software in three layers: what makes two results incomparable, arguable, and merely noted.

    No user names, host names, tokens or environment variables.
    """

    identity: dict[str, Any]  # GPU name, memory, power limit, MIG; the CPU's model where there is no GPU
    stack: dict[str, Any]  # driver, CUDA, packages, Python, project commit and dirty flag
    circumstance: dict[str, Any]  # clocks, temperature, ECC, load, affinity

    @property
    def environment_id(self) -> str:
        return content_hash({"identity": self.identity, "stack": self.stack})


def to_json(value: Cell | Round | Record | Environment) -> dict[str, Any]:
    """The dataclass as values that JSON can hold. It shares them: dataclasses.asdict would copy every number."""
    plain = {name: getattr(value, name) for name in _FIELD_NAMES[type(value)]}
    if isinstance(value, Record):
        plain["cell"] = to_json(value.cell)
        plain["rounds"] = [to_json(round) for round in value.rounds]
        plain["counters"] = dict(value.counters)
    return plain


_FIELD_NAMES: dict[type, tuple[str, ...]] = {
    kind: tuple(f.name for f in fields(kind)) for kind in (Cell, Round, Record, Environment)
}
