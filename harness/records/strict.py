"""Our own JSON files back into dataclasses, by their type hints: whatever does not fit is refused with one message.

Standard library only. A verdict, a job and a baseline may come from anywhere: from a pull request, or half written.
"""

from __future__ import annotations

import json
import math
import types
import typing
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from harness.records.parse import is_shallow
from harness.records.store import NewerSchemaError, StoreError

_T = TypeVar("_T")
MOST_BYTES = 64 * 2**20  # of a file: a verdict of 2,000 cells has a tenth of it


class Unfit(ValueError):
    """A JSON value that is not what a dataclass asks for; the message names where."""


@dataclass(frozen=True, slots=True)
class Fits:
    """Beside a type in Annotated: what else a value of it has to be."""

    expected: str
    is_met_by: Callable[[Any], bool]


def within(least: float, most: float) -> Fits:
    """A number from least to most, both included."""
    return Fits(f"a number from {least:g} to {most:g}", lambda value: least <= value <= most)


def one_of(*names: str) -> Fits:
    return Fits(f"one of {', '.join(names)}", lambda value: value in names)


ABOVE_0 = Fits("a number above 0", lambda value: value > 0)
AT_LEAST_0 = Fits("a number of at least 0", lambda value: value >= 0)
TEXT = Fits("a text", lambda value: bool(value.strip()))


def read_file(path: Path, kind: type[_T], *, schema_key: str, schema: int, if_older: str = "") -> _T:
    """The dataclass that a JSON file holds.

    schema_key, schema: the key that has the file's schema version, and the newest one that this version reads.
    if_older: what to say of a file of an earlier version that does not fit, and so lacks something.

    Raises:
        NewerSchemaError: a newer canvasbench wrote it.
        StoreError: absent, too large, damaged, or with a field that is absent, unknown or of the wrong kind.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise StoreError(f"{path}: is larger than {MOST_BYTES >> 20} MiB, so it is none of ours")
        document = json.loads(
            path.read_text(encoding="utf-8"),
            parse_constant=_finite,
            parse_float=_finite,
            object_pairs_hook=_without_doubles,
        )
    except FileNotFoundError:
        raise StoreError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path}: cannot be read: {error}") from None
    found = document.get(schema_key) if isinstance(document, dict) else None
    if type(found) is not int or found < 1:
        raise StoreError(f"{path}: has no {schema_key}, so it is none of ours")
    if found > schema:
        raise NewerSchemaError(
            f"{path}: {schema_key} {found} is newer than this version's {schema}; upgrade canvasbench"
        )
    try:
        return build(kind, document)
    except (Unfit, RecursionError) as error:
        if if_older and found < schema:
            raise StoreError(
                f"{path}: {schema_key} {found} is older than this version's {schema}, {if_older}"
            ) from None
        raise StoreError(f"{path}: is damaged: {error}") from None


def build(kind: type[_T], value: Any, where: str = "") -> _T:
    """The dataclass of a JSON object.

    Raises:
        Unfit: a field is absent, unknown or of the wrong kind, or `__post_init__` found it wanting.
    """
    built: _T = _value(kind, value, where)
    return built


def plain(value: Any) -> Any:
    """The dataclass as values that JSON can hold."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return str(value) if isinstance(value, StrEnum) else value


def quoted(text: object, length: int = 60) -> str:
    """A file's text as a message may show it: on one line, what is not printable as its escape."""
    return repr(str(text)[:length])[1:-1]


def _finite(number: str) -> float:
    """NaN, Infinity, and 1e999, which a float cannot hold, are no numbers anywhere in our files."""
    if not math.isfinite(value := float(number)):
        raise ValueError(f"{number[:40]} is no finite number")
    return value


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of a key that stands there twice a reader of the text takes the first and Python the last."""
    found = dict(pairs)
    if len(found) != len(pairs):
        (key, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"{quoted(key)} stands there twice")
    return found


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        _expect(is_shallow(value), where, "fewer levels", "nested too deep")
        return value
    if origin is Annotated:
        built = _value(arguments[0], value, where)
        for one in hint.__metadata__:
            _expect(one.is_met_by(built), where, one.expected, value)
        return built
    if origin is types.UnionType or origin is typing.Union:  # X | None
        return None if value is None else _value(next(a for a in arguments if a is not type(None)), value, where)
    if origin in (tuple, list):
        _expect(isinstance(value, list), where, "a list", value)
        return origin(_value(arguments[0], one, f"{where}[{i}]") for i, one in enumerate(value))
    if origin is dict:
        _expect(isinstance(value, dict), where, "an object", value)
        return {key: _value(arguments[1], one, f"{where}.{quoted(key, 40)}") for key, one in value.items()}
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        _expect(isinstance(value, str) and value in list(hint), where, f"one of {', '.join(hint)}", value)
        return hint(value)
    if is_dataclass(hint):
        return _object(typing.cast(type, hint), value, where)
    if hint is float:
        _expect(type(value) in (int, float) and _is_finite(value), where, "a finite number", value)
        return float(value)
    _expect(type(value) is hint, where, f"{hint.__name__}", value)
    return value


def _object(kind: type, value: Any, where: str) -> Any:
    _expect(isinstance(value, dict), where, "an object", value)
    hints = _hints(kind)
    path = f"{where}." if where else ""
    for name in sorted(hints.keys() ^ value.keys()):
        what = "absent" if name in hints else "unknown"
        raise Unfit(f"{path}{quoted(name)} is {what}")
    try:
        return kind(**{name: _value(hint, value[name], f"{path}{name}") for name, hint in hints.items()})
    except Unfit:
        raise
    except ValueError as error:  # of __post_init__
        raise Unfit(f"{where}: {error}" if where else str(error)) from None


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


def _expect(fits: bool, where: str, expected: str, value: Any) -> None:
    if not fits:
        raise Unfit(f"{where or 'it'} is {str(value)[:40]!r}, expected {expected}")
