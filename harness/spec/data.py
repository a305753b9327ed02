"""Our own data files: which suites there are, and the prompts. YAML is read by safe_load alone."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from harness.spec.config import ConfigError, DeviceConfig, Figure, check_choice

SUITES_DIR = Path(__file__).resolve().parents[2] / "suites"  # beside harness/ in a checkout and in site-packages alike
GROUPS = ("suite", "device", "model", "protocol")
_SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same rules, ten times as fast where it was built
RANDOM_IDS = "random"  # the prompt set without a file: labelled random token ids, for fixed steps only


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One line of a prompt file. With an answer or a pattern, never both, what a model says to it can be graded."""

    id: str
    text: str
    category: str
    answer: str | None = None  # the exact text expected
    pattern: str | None = None  # a regular expression that the whole answer must match

    @property
    def has_checker(self) -> bool:
        return self.answer is not None or self.pattern is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptSet:
    """The prompts of one set in file order; `content_hash` identifies them in run_id."""

    name: str
    prompts: tuple[Prompt, ...] = field(compare=False)  # content_hash says the same at once
    content_hash: str
    has_checkers: bool = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "has_checkers", any(prompt.has_checker for prompt in self.prompts))

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(prompt.text for prompt in self.prompts)


def search_path(config_dir: str | None) -> list[Path]:
    """Where suites and prompts are looked for: the user's own folder first, then ours."""
    return [*([Path(config_dir)] if config_dir else []), SUITES_DIR]


def options_of(group: str, config_dir: str | None = None) -> list[str]:
    """Names that a config group offers, sorted."""
    return sorted({p.stem for root in search_path(config_dir) for p in (root / group).glob("*.yaml")})


def prompt_sets(config_dir: str | None = None) -> list[str]:
    """Names of all prompt sets, the random one included."""
    return sorted(
        {p.stem for root in search_path(config_dir) for p in (root / "prompts").glob("*.jsonl")} | {RANDOM_IDS}
    )


def load_prompts(name: str, config_dir: str | None = None) -> PromptSet:
    """Read one prompt set.

    Raises:
        ConfigError: no such file, or a line that is no prompt; the message names the line.
    """
    if name == RANDOM_IDS:
        return PromptSet(name=name, prompts=(), content_hash="random-ids-1")
    path = next((p for root in search_path(config_dir) if (p := root / "prompts" / f"{name}.jsonl").is_file()), None)
    if path is None:
        raise ConfigError(f"prompt set {name!r}: no such file; there are {', '.join(prompt_sets(config_dir))}")
    try:
        content = path.read_bytes()
        lines = content.decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    prompts = tuple(_prompt(f"{path}:{number}", line, name) for number, line in enumerate(lines, 1) if line.strip())
    if not prompts:
        raise ConfigError(f"{path}: holds no prompt")
    return PromptSet(name=name, prompts=prompts, content_hash=hashlib.sha256(content).hexdigest()[:16])


def _prompt(where: str, line: str, set_name: str) -> Prompt:
    try:
        given = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: is not JSON: {error}") from None
    if not isinstance(given, dict) or not _is_text(given.get("text")):
        raise ConfigError(f'{where}: expected {{"id": "...", "text": "..."}} with a text that is not empty')
    for key, value in given.items():
        check_choice(where, key, [one.name for one in fields(Prompt)])
        if not _is_text(value):
            raise ConfigError(f"{where}: {key} is {str(value)[:40]!r}, expected a text that is not empty")
    if {"answer", "pattern"} <= given.keys():
        raise ConfigError(f"{where}: has an answer and a pattern, expected one of them at most")
    try:
        re.compile(given.get("pattern", ""))
    except (re.error, RecursionError, OverflowError) as error:
        raise ConfigError(f"{where}: pattern is no regular expression: {error}") from None
    return Prompt(**{"id": where.rsplit("/", 1)[-1], "category": set_name, **given})


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def safe_yaml(path: Path) -> Any:
    """What a YAML file holds; plain values alone."""
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_SAFE_LOADER)


def nvml_names(config_dir: str | None = None) -> list[tuple[str, list[str]]]:
    """(name, NVML product names) of every device file that can be read."""
    return [(name, [str(n) for n in given.get("nvml_names") or []]) for name, given in _device_files(config_dir)]


@lru_cache(maxsize=4)
def devices(config_dir: str | None = None) -> dict[str, DeviceConfig]:
    """Name -> every device file that can be read, in the order of names. Figures that are none are left out."""
    return {name: device_of(name, given) for name, given in _device_files(config_dir)}


def device_of(name: str, given: Mapping[str, Any]) -> DeviceConfig:
    """A device as its file, or a plan, holds it: figures with their sources, or plain numbers."""
    rates = given.get("flops_s")
    return DeviceConfig(
        name=name,
        display_name=str(given.get("display_name") or name),
        kind=str(given.get("kind") or "cuda"),
        flops_s={str(dtype): _figure(rate) for dtype, rate in rates.items()} if isinstance(rates, dict) else {},
        memory_bytes=_figure(given.get("memory_bytes")),
        bandwidth_bytes_s=_figure(given.get("bandwidth_bytes_s")),
        price_usd_per_hour=_figure(given.get("price_usd_per_hour")),
    )


def _figure(given: Any) -> Figure:
    stated = given if isinstance(given, dict) else {"value": given}
    value = stated.get("value")
    return Figure(
        value=float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else None,
        source=str(stated.get("source") or ""),
        recalled=bool(stated.get("recalled")),
        note=str(stated.get("note") or ""),
    )


def _device_files(config_dir: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in options_of("device", config_dir):
        path = next(p for root in search_path(config_dir) if (p := root / "device" / f"{name}.yaml").is_file())
        try:
            device = safe_yaml(path)
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            continue
        if isinstance(device, dict):
            yield name, device
