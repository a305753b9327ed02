"""Every key that a suite may have, with its type and default. Plain dataclasses; Hydra composes the YAML over them.

They stay unfrozen because Hydra cannot compose over nested frozen ones. `check` holds every rule that types cannot say.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from engine.config import SHIPPED
from harness.records.types import Cell
from harness.spec import gate_rules
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
    isolation: str = (
        "launch"  # a process for each launch, backend of a launch (so that models need not fit together), cell
    )
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


# Which axis takes which kind of value: the name of a CHOICES row, or the largest whole number that makes sense.
_AXIS_RULES: dict[str, str | int] = {
    "decoding": "decoding",
    "stopping": "stopping",
    "weight_dtype": "dtype",
    "activation_dtype": "dtype",
    "kv_dtype": "dtype",
    "head_dtype": "dtype",
    "batch_size": 65_536,
    "block_length": MAX_BLOCK_LENGTH,
    "num_steps": 10_000,
    "prompt_tokens": 10_000_000,
    "output_tokens": 10_000_000,
}


def check(config: SuiteConfig, *, prompt_sets: Sequence[str], backends: Sequence[str]) -> None:
    """Raise ConfigError for the first value that no cell can have."""
    for axis in fields(Axes):
        values = getattr(config.axes, axis.name)
        where = f"axes.{axis.name}"
        if not values:
            raise ConfigError(f"{where}: the list is empty, so the suite has no cell; expected at least one value")
        kind = dict if axis.name == "options" else int if isinstance(_AXIS_RULES.get(axis.name), int) else str
        for value in values:
            if not isinstance(value, kind):  # OmegaConf lets lists and dictionaries into a list of numbers
                raise ConfigError(f"{where}: {str(value)[:80]!r} is not one value; expected a list such as [a,b]")
        if any(value in values[:i] for i, value in enumerate(values)):
            raise ConfigError(f"{where}: {values} names a value twice")
        rule = _AXIS_RULES.get(axis.name)
        for value in values:
            if axis.name == "prompt_set":
                check_choice(where, value, prompt_sets)
            elif isinstance(rule, str):
                check_choice(where, value, CHOICES[rule])
            elif rule is not None and not 1 <= value <= rule:
                raise ConfigError(f"{where}: {value} is out of range; expected a whole number from 1 to {rule}")
    check_choice("backend", config.backend, backends)
    if config.peer:
        check_choice("peer", config.peer, backends)
        if config.peer == config.backend:
            raise ConfigError(f"peer: {config.peer!r} is the backend itself; expected another one, or nothing")
    for name in ("eos", "routing", "launcher", "isolation"):
        check_choice(name, getattr(config, name), CHOICES[name])
    _check_protocol(config.protocol)
    if not 0 <= config.seed < 2**31:
        raise ConfigError(f"seed: {config.seed} is out of range; expected a whole number from 0 to {2**31 - 1}")
    shard_of(config.shard)
    _check_rules("exclude", config.exclude, ["reason"])
    for i, excluded in enumerate(config.exclude):
        if len(excluded.keys() - {"reason"}) == 0:
            raise ConfigError(f"exclude[{i}]: names no axis, so it would exclude every cell")
    _check_rules("energy", config.energy, [])
    try:
        gate_rules.check(config.gate, [f.name for f in fields(Cell)])
    except ValueError as error:
        raise ConfigError(str(error)) from None
    _check_honesty(config)


_ABOVE_0 = (
    *("warmup_tolerance", "half_width"),
    *("max_warmup_s", "max_rounds_s", "request_timeout_s", "load_timeout_s"),
)


def _check_protocol(protocol: Protocol) -> None:
    least = {"warmup_rounds": 0, "warmup_window": 1, "rounds": 1, "launches": 1, "max_discards": 0}
    least |= {"max_warmup_rounds": protocol.warmup_rounds, "max_rounds": protocol.rounds}
    for name, lowest in least.items():
        value = getattr(protocol, name)
        if value is not None and value < lowest:
            base = name.removeprefix("max_")
            why = f", which is protocol.{base}, or null" if base != name and base in least else ""
            raise ConfigError(f"protocol.{name}: {value} is out of range; expected at least {lowest}{why}")
    if not protocol.energy_window_s >= LEAST_ENERGY_WINDOW_S:
        raise ConfigError(
            f"protocol.energy_window_s: {protocol.energy_window_s} is out of range; expected at least "
            f"{LEAST_ENERGY_WINDOW_S:g}: energy counters move in steps, which shorter windows do not resolve"
        )
    for name in _ABOVE_0:
        if not getattr(protocol, name) > 0:  # NaN is not
            raise ConfigError(f"protocol.{name}: {getattr(protocol, name)} is out of range; expected above 0")


def shard_of(text: str) -> tuple[int, int]:
    """(i, n) of "i/n".

    Raises:
        ConfigError: it is written otherwise, or i is not one of 1 to n.
    """
    numbers = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if not numbers or not 1 <= int(numbers[1]) <= int(numbers[2]):
        raise ConfigError(f"shard: {text!r} is no share; expected i/n with i from 1 to n, for example shard=2/3")
    return int(numbers[1]), int(numbers[2])


def _check_rules(where: str, rules: list[dict[str, Any]], more: list[str]) -> None:
    """Rules that name cells by their values on axes; `more`: keys that a rule may have besides."""
    for i, rule in enumerate(rules):
        for key, values in rule.items():
            check_choice(f"{where}[{i}]", key, [*(f.name for f in fields(Axes)), *more])
            if key not in more and not isinstance(values, list):
                raise ConfigError(f"{where}[{i}].{key}: {values!r} is not a list of values")


def _check_honesty(config: SuiteConfig) -> None:
    """Settings that would measure something else than their name says."""
    if "adaptive" in config.axes.stopping and not config.model.is_trained:
        raise ConfigError(
            f"axes.stopping: adaptive stopping needs trained weights, and model {config.model.name!r} has random ones, "
            "so it would only measure the cap\nuse axes.stopping=[fixed], or model.path=DIR with a trained checkpoint"
        )
    if "adaptive" in config.axes.stopping and config.routing != "model":
        raise ConfigError(
            f"routing: {config.routing} draws the experts, so adaptive stopping would judge another model's answers\n"
            "use routing=model, or axes.stopping=[fixed] or [replay]"
        )
    early = [one for one in config.axes.stopping if one != "fixed" and not _excludes_random(config, one)]
    if "random" in config.axes.prompt_set and early:
        raise ConfigError(
            "axes.prompt_set: random token ids never converge, so they go with axes.stopping=[fixed] alone\n"
            f"use one of the text prompt sets for {early[0]} stopping, or exclude the pair"
        )


def _excludes_random(config: SuiteConfig, stopping: str) -> bool:
    """Whether the suite leaves out every cell of random prompts with this stopping."""
    pair = {"prompt_set": "random", "stopping": stopping}
    return any(
        all(pair.get(key) in values for key, values in rule.items() if key != "reason") for rule in config.exclude
    )
