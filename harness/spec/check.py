"""Every rule of a suite that types cannot say: values out of range, combinations that would not be honest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from harness.records.types import Cell
from harness.spec import gate_rules
from harness.spec.config import (
    CHOICES,
    LEAST_ENERGY_WINDOW_S,
    MAX_BLOCK_LENGTH,
    Axes,
    ConfigError,
    Protocol,
    SuiteConfig,
    check_choice,
)

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
