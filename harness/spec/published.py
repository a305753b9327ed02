"""What others published: figures with the conditions under which they were obtained, and the launch's claims.

Strict, because a figure whose conditions are misread is worse than none: unknown keys, absent ones, and values of
another kind are refused with their place in the file.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml

from harness.spec.config import ConfigError, check_choice
from harness.spec.data import safe_yaml
from harness.spec.formats import WeightFormat

PUBLISHED_SCHEMA = 1
# Beside harness/ in a checkout and in site-packages alike.
PATH = Path(__file__).resolve().parents[2] / "results" / "published.yaml"
UNKNOWN = "unknown"
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedFigure:
    """Output tokens per second that somebody printed. None and "unknown": the source does not say."""

    id: str
    decoding: Literal["block_diffusion", "autoregressive", "speculative"]
    value: float  # tok/s, of the whole batch
    printed: str  # the device, in the source's words
    source: str  # an address, or as much of one as is known
    who: Literal["vendor", "framework", "independent"]
    about: Literal["", "about", "more than", "up to"] = ""
    device: str = ""  # the device file that it is; empty: there is none
    num_devices: int = 1
    format: str = ""  # a key of `formats`
    batch_size: int | None = None
    num_steps: int | None = None  # of a canvas: exact with fixed stopping, else their mean or their cap (see the note)
    stopping: Literal["fixed", "adaptive", "unknown"] = "unknown"
    prompts: str = UNKNOWN
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    framework: str = UNKNOWN
    left_out: Literal["nothing", "prefill", "first canvas", "unknown"] = "unknown"  # of the clock
    date: str = UNKNOWN  # as precise as known
    second_hand: bool = False  # read in somebody's report of it
    note: str = ""
    remark: str = ""  # why it may stand above its floor


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How words such as "about" before a claim's number are read."""

    name: str
    tolerance: float  # the share of the number by which a row may miss it and still reach it; 0 is none
    meaning: str  # why so much


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A sentence of the launch texts, and what would show it: a measure of rows that reaches a number.

    The rows that can test it: those of the device, shape, decoding and batch that it names; "" and None: any.
    obtained_with: values of a cell's fields under which it was obtained; where none of the rows has them, rows that do
    not reach the number say nothing against it.
    """

    id: str
    claim: str
    measure: str  # a name in harness/analysis/claim_measures.py
    meaning: str  # of the measure, in words
    unit: str
    who: Literal["vendor", "framework", "independent"]
    source: str
    conditions: str  # how it was obtained
    reading: str  # a key of `readings`
    date: str = UNKNOWN
    at_least: float | None = None
    at_most: float | None = None
    decoding: Literal["", "block_diffusion", "autoregressive"] = ""
    device: str = ""
    device_hint: str = ""  # whose floors are shown where the claim names no device
    format: str = ""  # in which they are computed
    batch_size: int | None = None
    is_released_shape: bool = False
    obtained_with: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def allowed_on(self) -> str:
        """The device of its floors; "" where it has none."""
        return self.device or self.device_hint

    @property
    def number(self) -> float:
        """What the claim prints, in its unit."""
        return (self.at_least if self.at_least is not None else self.at_most) or 0.0

    def is_reached_by(self, value: float, tolerance: float = 0.0) -> bool:
        """tolerance: of its reading."""
        bar = self.bar(tolerance)
        return value >= bar if self.at_least is not None else value <= bar

    def bar(self, tolerance: float) -> float:
        """The number less the tolerance, or with it where rows are to stay below."""
        return self.number * (1 - tolerance if self.at_least is not None else 1 + tolerance)


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    formats: dict[str, WeightFormat]
    readings: dict[str, Reading]
    figures: tuple[PublishedFigure, ...]
    claims: tuple[Claim, ...]


def load_published() -> Published:
    """The file that comes with this version."""
    return read_published(PATH)


@lru_cache(maxsize=4)
def read_published(path: Path) -> Published:
    """Read a file of this form.

    Raises:
        ConfigError: it cannot be read, or an entry is not what it should be; the message names the entry.
    """
    try:
        given = safe_yaml(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        what = " ".join(str(error).split())[:200]
        raise ConfigError(f"{path}: cannot be read: {what}") from None
    wanted = ("published_schema", "formats", "figures", "readings", "claims")
    if not isinstance(given, dict):
        raise ConfigError(f"{path}: is no mapping; expected {', '.join(wanted)}")
    for key in given:
        check_choice(f"{path}", str(key), wanted)
    if given.get("published_schema") != PUBLISHED_SCHEMA:
        raise ConfigError(f"{path}: published_schema is {given.get('published_schema')!r}, expected {PUBLISHED_SCHEMA}")
    formats = _named(WeightFormat, path, "formats", given)
    readings = _named(Reading, path, "readings", given)
    figures = _list(PublishedFigure, path, "figures", given)
    claims = _list(Claim, path, "claims", given)
    for name, form in [*((one.id, one.format) for one in figures), *((one.id, one.format) for one in claims)]:
        if form:
            check_choice(f"{path}: {name}: format", form, list(formats))
    for figure in figures:
        for name in ("value", "num_devices", "batch_size", "num_steps", "prompt_tokens", "output_tokens"):
            number = getattr(figure, name)
            if number is not None and not number > 0:
                raise ConfigError(f"{path}: {figure.id}: {name} is {number}, expected above 0")
    for name, one in readings.items():
        if not 0 <= one.tolerance < 1:
            raise ConfigError(f"{path}: readings.{name}: tolerance is {one.tolerance}, expected 0 or more, and below 1")
    for claim in claims:
        check_choice(f"{path}: {claim.id}: reading", claim.reading, list(readings))
        if (claim.at_least is None) == (claim.at_most is None):
            raise ConfigError(f"{path}: {claim.id}: expected either at_least or at_most")
    return Published(formats=formats, readings=readings, figures=figures, claims=claims)


def _mapping(path: Path, name: Any, entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise ConfigError(f"{path}: {name}: is no mapping of keys")
    return entry


def _named(kind: type[_T], path: Path, key: str, given: dict[str, Any]) -> dict[str, _T]:
    entries = given.get(key)
    if not isinstance(entries, dict):
        raise ConfigError(f"{path}: {key} is no mapping of names")
    return {
        str(name): _made(kind, f"{path}: {key}.{name}", {"name": str(name), **_mapping(path, name, entry)})
        for name, entry in entries.items()
    }


def _list(kind: type[_T], path: Path, key: str, given: dict[str, Any]) -> tuple[_T, ...]:
    entries = given.get(key)
    if not isinstance(entries, list):
        raise ConfigError(f"{path}: {key} is no list")
    made: dict[str, _T] = {}
    for i, entry in enumerate(entries):
        one = _mapping(path, f"{key}[{i}]", entry)
        name = str(one.get("id", f"{key}[{i}]"))
        if name in made:
            raise ConfigError(f"{path}: {key}: the id {name!r} is there twice")
        made[name] = _made(kind, f"{path}: {name}", one)
    return tuple(made.values())


def _made(kind: type[_T], where: str, given: dict[str, Any]) -> _T:
    """An entry with all the keys that it must have, none that it may not, and values of the declared kinds."""
    declared = {one.name: one for one in fields(kind)}  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    for key in given:
        check_choice(where, str(key), list(declared))
    for name, one in declared.items():
        if name not in given and one.default is MISSING and one.default_factory is MISSING:
            raise ConfigError(f"{where}: {name} is absent")
    values = {key: str(value) if key == "date" else value for key, value in given.items()}  # YAML has a type for dates
    for key, value in values.items():
        if not _fits(value, hints[key]):
            raise ConfigError(f"{where}: {key} is {str(value)[:60]!r}, expected {_in_words(hints[key])}")
    return kind(**values)


def _fits(value: Any, hint: Any) -> bool:
    if isinstance(hint, UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is dict:
        return isinstance(value, dict) and all(isinstance(one, list) for one in value.values())
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, hint)


def _in_words(hint: Any) -> str:
    if isinstance(hint, UnionType):
        return " or ".join(_in_words(one) for one in get_args(hint) if one is not type(None))
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(repr(one) for one in get_args(hint))
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    return words.get(hint, "a mapping of lists")
