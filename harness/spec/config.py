"""Every key that a suite may have, with its type and default. Plain dataclasses; Hydra composes the YAML over them.

They stay unfrozen because Hydra cannot compose over nested frozen ones. Rules that types cannot say: check.py.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.config import SHIPPED
from harness.spec.gate_rules import GateConfig

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float8_e4m3": 1}
MAX_BLOCK_LENGTH = 1024
LEAST_ENERGY_WINDOW_S = 10.0  # the counter moves about every 0.1 s: shorter windows are off by more than 1 %

# What each named choice may be today. Every check, help text and error message reads this table.
CHOICES: dict[str, tuple[str, ...]] = {
    "decoding": ("block_diffusion", "autoregressive"),
    "stopping": ("fixed", "adaptive", "replay"),
    "eos": ("ignore", "respect"),
    "routing": ("model", "uniform", "zipf", "replay"),
    "launcher": ("inline",),
    "isolation": ("launch", "backend", "process"),
    "dtype": tuple(DTYPE_BYTES),
}


class ConfigError(ValueError):
    """The user's mistake, in one to five lines: what, where, what was expected, the nearest valid spelling."""


@dataclass
class Figure:
    """One number about a device with where it was read; `recalled` marks one that nobody re-read for this file."""

    value: float | None = None
    source: str = ""
    recalled: bool = False
    note: str = ""


@dataclass
class DeviceConfig:
    """One GPU type (suites/device/*.yaml). Rates are dense, without sparsity."""

    name: str = ""  # the file's name
    display_name: str = ""
    kind: str = "cuda"  # cuda | rocm | cpu
    form_factor: str = ""
    nvml_names: list[str] = field(default_factory=list)  # product names by which NVML reports it
    memory_bytes: Figure = field(default_factory=Figure)
    bandwidth_bytes_s: Figure = field(default_factory=Figure)
    flops_s: dict[str, Figure] = field(default_factory=dict)  # by dtype
    sms: Figure = field(default_factory=Figure)
    l2_bytes: Figure = field(default_factory=Figure)
    tdp_w: Figure = field(default_factory=Figure)
    price_usd_per_hour: Figure = field(default_factory=Figure)
    notes: str = ""


@dataclass
class ModelSource:
    """Which weights (suites/model/*.yaml): a shipped model's, a preset's seeded random ones, or a directory's."""

    name: str = ""  # the file's name
    preset: str = ""  # a name of engine.config.PRESETS (random) or SHIPPED (trained)
    path: str | None = None  # a directory in Hugging Face layout; then the preset is not used
    trained: bool | None = None  # None: a directory and a shipped model are trained, a preset is not
    window: str = "sdpa"

    @property
    def directory(self) -> Path | None:
        """Where the weights are read from; None: they are made."""
        return SHIPPED.get(self.preset) if self.path is None else Path(self.path)

    @property
    def is_trained(self) -> bool:
        return self.directory is not None if self.trained is None else self.trained


@dataclass
class Protocol:
    """How a cell is measured (suites/protocol/*.yaml)."""

    name: str = ""  # the file's name
    warmup_rounds: int = 1  # at least so many; the first one is the cold request
    max_warmup_rounds: int | None = None  # at most so many; null: exactly warmup_rounds, whatever the times say
    max_warmup_s: float = 60.0  # of a cell's warm-up requests: then no further one begins
    warmup_window: int = 3  # warm: the median of the newest so many requests differs from that of as many before them
    warmup_tolerance: float = 0.05  # by at most this share of it; the cold request is left out
    rounds: int = 5  # at least so many
    max_rounds: int | None = None  # at most so many; null: exactly rounds, whatever the times say
    max_rounds_s: float = 600.0  # of a group's timed requests: then no further round begins
    half_width: float = 0.03  # enough: the interval of the median time is narrower than the median +- this share of it
    launches: int = 1
    max_discards: int = 3  # rounds of a cell and launch that may be thrown away for a physical cause, and repeated
    energy_window_s: float = LEAST_ENERGY_WINDOW_S  # of repeated requests, for the cells that `energy` names
    request_timeout_s: float = 600.0  # a request that takes longer ends its process
    load_timeout_s: float = 1800.0  # so does a load
    counters: bool = True  # one more, untimed round that counts experts and entropies
    operations: bool = False  # and one that counts what it asks of torch, which no clock disturbs: for gates
    roofs: bool = True  # this machine's roofs are probed first, two seconds a run

    @property
    def most_rounds(self) -> int:
        return self.rounds if self.max_rounds is None else self.max_rounds

    @property
    def is_fixed(self) -> bool:
        """Whether every cell takes the same number of requests: no time decides."""
        return self.max_warmup_rounds is None and self.max_rounds is None


@dataclass
class Axes:
    """The grid. Every combination is a cell; the autoregressive twin of each is added by itself."""

    decoding: list[str] = field(default_factory=lambda: ["block_diffusion"])
    batch_size: list[int] = field(default_factory=lambda: [1])
    block_length: list[int] = field(default_factory=lambda: [256])
    num_steps: list[int] = field(default_factory=lambda: [16])
    stopping: list[str] = field(default_factory=lambda: ["fixed"])
    prompt_set: list[str] = field(default_factory=lambda: ["random"])
    prompt_tokens: list[int] = field(default_factory=lambda: [1024])
    output_tokens: list[int] = field(default_factory=lambda: [256])
    weight_dtype: list[str] = field(default_factory=lambda: ["bfloat16"])
    activation_dtype: list[str] = field(default_factory=lambda: ["bfloat16"])
    kv_dtype: list[str] = field(default_factory=lambda: ["bfloat16"])
    head_dtype: list[str] = field(default_factory=lambda: ["bfloat16"])
    options: list[dict[str, Any]] = field(default_factory=lambda: [{}])  # laid over the suite's; {} is the default path


@dataclass
class SuiteConfig:
    """One composed suite: everything that `plan` and `run` need to know, and nothing that they find out themselves."""

    name: str = ""  # the suite file's name
    description: str = ""
    device: DeviceConfig = field(default_factory=DeviceConfig)
    model: ModelSource = field(default_factory=ModelSource)
    protocol: Protocol = field(default_factory=Protocol)
    axes: Axes = field(default_factory=Axes)
    exclude: list[dict[str, Any]] = field(default_factory=list)  # {axis: [values], ..., reason: text}
    energy: list[dict[str, Any]] = field(default_factory=list)  # {axis: [values], ...} of cells to take it of; {}: all
    backend: str = "reference"
    peer: str = ""  # another backend, on which every cell is measured as well, to compare with
    eos: str = "ignore"
    routing: str = "model"
    options: dict[str, Any] = field(default_factory=dict)  # the backend's own
    peer_options: dict[str, Any] = field(default_factory=dict)  # the peer's own
    gate: GateConfig = field(default_factory=GateConfig)
    seed: int = 0
    repeat_prompts: bool = False
    launcher: str = "inline"
    isolation: str = "launch"  # a process for each launch, each backend of one (so models need not fit together), cell
    cells: list[str] = field(default_factory=list)  # ids of those to measure, in this order; []: all
    shard: str = "1/1"  # i/n: measure the i-th of n shares of the groups, for n machines
    fresh: bool = False
    retry_failed: bool = False
    results_dir: str = "results"
    reports_dir: str | None = "reports"  # null: measure, and make no page
    config_dir: str | None = None  # set by --config-dir


def nearest(word: str, options: Iterable[str]) -> str:
    """'; nearest: X' where a valid spelling is near, else ''."""
    close = difflib.get_close_matches(word, list(options), n=1, cutoff=0.6)
    return f"; nearest valid: {close[0]}" if close else ""


def check_choice(where: str, value: str, options: Sequence[str]) -> None:
    """Raises ConfigError unless value is one of options."""
    if value == "speculative" and where == "axes.decoding":
        raise ConfigError(
            "axes.decoding: speculative decoding is not there, neither with multi-token prediction nor with a draft "
            f"model, and no acceptance rate can stand in for it; expected one of {', '.join(options)}"
        )
    if value not in options:
        raise ConfigError(f"{where}: {value!r} is not one of {', '.join(options)}{nearest(value, options)}")
