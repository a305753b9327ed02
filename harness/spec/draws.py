"""What cells draw instead of computing it: steps of canvases (stopping=replay) and experts of tokens (routing).

Untrained weights never stop by themselves and route degenerately. Drawn from a named distribution, both are realistic
and repeat with their seed; rows that hold them are flagged simulated. Steps and popularities are data files with their
sources: suites/steps/*.yaml and suites/experts/*.yaml, or a path to a file of the same form.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import yaml

from engine import cost
from engine.config import ModelConfig
from harness.records.types import REPLAY, Cell
from harness.spec.config import ConfigError, nearest
from harness.spec.data import SUITES_DIR

# Which option names what is drawn from, and its folder. Options stand in every cell, so that a cell says them itself.
STEPS_OPTION, POPULARITY_OPTION, EXPONENT_OPTION = "replay_steps", "expert_popularity", "zipf_exponent"
UNIFORM = "uniform"
OPTIONS = (STEPS_OPTION, POPULARITY_OPTION, EXPONENT_OPTION)
_FOLDERS = {STEPS_OPTION: "steps", POPULARITY_OPTION: "experts"}
PUBLISHED_STEPS = "diffusiongemma_evals"
_DEFAULTS = {STEPS_OPTION: PUBLISHED_STEPS, EXPONENT_OPTION: 1.0}
_MOST_EXPONENT = 4.0
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class StepHistogram:
    """How many steps canvases take: shares[n - 1] is the share of canvases with n steps."""

    shares: tuple[float, ...]

    def draw(self, batch_size: int, canvases: int, cap: int, seed: int) -> list[list[int]]:
        """Steps of each row and canvas, at most cap. A larger batch has the rows of a smaller one, too."""
        steps = range(1, len(self.shares) + 1)
        rows = (random.Random(f"steps {seed} {row}") for row in range(batch_size))
        return [[min(cap, n) for n in dice.choices(steps, self.shares, k=canvases)] for dice in rows]

    def still_active(self, cap: int) -> list[float]:
        """For each step that a canvas may take, counted from 1, the probability that a row takes it."""
        return [sum(self.shares[n - 1 :]) for n in range(1, min(cap, len(self.shares)) + 1)]

    def mean(self, cap: int) -> float:
        """Expected steps of a row."""
        return sum(self.still_active(cap))

    def longest(self, batch_size: int, cap: int) -> float:
        """Expected steps of the longest of so many rows: what a static batch runs."""
        return sum(1 - (1 - min(p, 1.0)) ** batch_size for p in self.still_active(cap))

    def straggler_share(self, batch_size: int, cap: int) -> float:
        """Of a static batch's steps, those executed for rows that have stopped; compaction would save them."""
        return 1 - self.mean(cap) / self.longest(batch_size, cap)


def defaults(stopping: list[str], routing: str) -> dict[str, Any]:
    """Options that a suite need not name."""
    drawn = {STEPS_OPTION: REPLAY in stopping, EXPONENT_OPTION: routing == "zipf"}
    return {name: _DEFAULTS[name] for name, is_drawn in drawn.items() if is_drawn}


def steps_of(cell: Cell) -> StepHistogram:
    """The histogram that the cell's steps are drawn from.

    Raises:
        ConfigError: there is no such file, or it is no histogram.
    """
    return steps_named(cell.options.get(STEPS_OPTION))


def expert_weights(cell: Cell, shape: ModelConfig) -> tuple[tuple[float, ...], ...] | None:
    """Weights of each layer's experts (one layer: all alike) that a token draws its own by; None: the router decides.

    Raises:
        ConfigError: an exponent out of range, or a popularity that does not fit the model.
    """
    if cell.routing == "model":
        return None
    if cell.routing == REPLAY:
        layers = _from_file(cell.options.get(POPULARITY_OPTION), POPULARITY_OPTION, _popularity)
        return _replayed(layers, shape, str(cell.options.get(POPULARITY_OPTION)))
    exponent = cell.options.get(EXPONENT_OPTION, _DEFAULTS[EXPONENT_OPTION]) if cell.routing == "zipf" else 0.0
    if isinstance(exponent, bool) or not isinstance(exponent, (int, float)) or not 0 <= exponent <= _MOST_EXPONENT:
        raise ConfigError(f"options.{EXPONENT_OPTION}: {exponent!r} is no number from 0 to {_MOST_EXPONENT:g}")
    return (cost.zipf_weights(shape.num_experts, float(exponent)),)


def inclusion_of(cell: Cell, shape: ModelConfig) -> cost.Inclusion | None:
    """How likely a token is to hit each expert; None: as under uniform routing, which a model's own is taken for."""
    weights = None if cell.routing in ("model", UNIFORM) else expert_weights(cell, shape)
    return None if weights is None else cost.inclusion(weights, shape.top_k_experts)


def zipf_inclusion(shape: ModelConfig, exponent: float) -> cost.Inclusion | None:
    """How likely a token is to hit each expert when the r-th one's weight is r^-exponent; None: all alike."""
    return cost.inclusion((cost.zipf_weights(shape.num_experts, exponent),), shape.top_k_experts) if exponent else None


def steps_named(name: Any) -> StepHistogram:
    """A histogram by its name in suites/steps, or by its file's path.

    Raises:
        ConfigError: there is no such file, or it is no histogram.
    """
    return _from_file(name, STEPS_OPTION, _histogram)


def content_hashes(options: Mapping[str, Any]) -> dict[str, str]:
    """Option -> hash of the file that it names: what a run's identity takes of it."""
    named = {option: _path(options[option], option) for option in _FOLDERS if option in options}
    return {option: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for option, path in named.items()}


@lru_cache(maxsize=8)
def _replayed(layers: tuple[tuple[float, ...], ...], shape: ModelConfig, name: str) -> tuple[tuple[float, ...], ...]:
    where = f"options.{POPULARITY_OPTION}: {name}"
    if len(layers) not in (1, shape.num_layers) or {len(layer) for layer in layers} != {shape.num_experts}:
        have = f"{len(layers)} layers of {', '.join(str(n) for n in sorted({len(layer) for layer in layers}))} experts"
        raise ConfigError(f"{where} has {have}, the model has {shape.num_layers} of {shape.num_experts}")
    try:
        return tuple(cost.replayed_weights(layer, shape.top_k_experts) for layer in layers)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def _from_file(name: Any, option: str, read: Callable[[Any], _T]) -> _T:
    path = _path(name, option)
    found: _T = _read(path, path.stat().st_mtime_ns, read)
    return found


@lru_cache(maxsize=32)
def _read(path: Path, changed_ns: int, read: Callable[[Any], Any]) -> Any:
    try:
        return read(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {str(error).splitlines()[0]}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from None


def _path(name: Any, option: str) -> Path:
    """The file of a name, or the path that is given."""
    folder = SUITES_DIR / _FOLDERS[option]
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    path = Path(str(name)) if str(name).endswith(".yaml") else folder / f"{name}.yaml"
    if name is None or not path.is_file():
        said = "is not set" if name is None else f"{str(name)[:80]!r} is no file"
        near = nearest(str(name), names)
        raise ConfigError(f"options.{option}: {said}; expected a YAML file's path or one of {', '.join(names)}{near}")
    return path


def _histogram(document: Any) -> StepHistogram:
    """Bins of steps, each share spread evenly over its bin."""
    expected = "expected bins: [{from: 4, to: 10, share: 0.1}, ...] with whole steps from 1 and shares that sum to 1"
    shares: dict[int, float] = {}
    try:
        for one in document["bins"]:
            steps = range(int(one["from"]), int(one["to"]) + 1)
            if not steps or steps[0] < 1 or steps[-1] > 10_000 or not float(one["share"]) >= 0:
                raise ValueError(expected)
            for n in steps:
                shares[n] = shares.get(n, 0.0) + float(one["share"]) / len(steps)
    except (KeyError, TypeError, ValueError):
        raise ValueError(expected) from None
    total = sum(shares.values())
    if abs(total - 1) > 1e-6:
        raise ValueError(f"its shares sum to {total:g}; {expected}")
    return StepHistogram(tuple(shares.get(n, 0.0) / total for n in range(1, max(shares) + 1)))


def _popularity(document: Any) -> tuple[tuple[float, ...], ...]:
    """How often each expert of each layer was chosen."""
    try:
        layers = tuple(tuple(float(count) for count in layer) for layer in document["layers"])
    except (KeyError, TypeError, ValueError):
        layers = ()
    if not layers or not all(layers):
        raise ValueError("expected layers: [[3, 0, 5, ...], ...], how often each expert of each layer was chosen")
    return layers
