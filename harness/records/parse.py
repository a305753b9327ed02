"""Records, rounds and cells out of JSON that somebody else may have written. Standard library only."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from harness.records.types import STATUSES, Cell, Record, Round

_MOST_DEPTH = 32  # of objects and lists in each other, where a file may hold what it wants
_LIST_COUNTERS = ("output_ids", "output_hashes")
# A duration is 0, or in between: what no clock gives would make a ratio that no float holds.
_LEAST_S, _MOST_S = 1e-12, 1e12
_MOST_INT, _MOST_COUNTED = 2**63 - 1, 1e30  # of what is counted; FLOPs are more than an int64 holds
_ROUND_LISTS = tuple(f.name for f in fields(Round) if str(f.type).startswith("tuple["))
_ROUND_TABLES = tuple(f.name for f in fields(Round) if str(f.type).startswith("tuple[tuple["))


def record_from_json(data: dict[str, Any]) -> Record:
    """The record that a line held.

    Raises:
        ValueError: a field is absent, unknown or of an impossible kind; the message names it.
    """
    cell = cell_from_json(data.get("cell"))
    if not isinstance(data.get("rounds"), list):
        raise ValueError("record: rounds is not a list")
    # Of a cell whose events ran backwards the record is an error, and the evidence.
    rounds = tuple(round_from_json(r, may_run_backwards=data.get("status") != "ok") for r in data["rounds"])
    plain = _interned(_tuples(data, "discarded", "warnings"))
    record: Record = _build(Record, {**plain, "cell": cell, "rounds": rounds})
    if record.cell_id != cell.cell_id:
        raise ValueError(f"record: cell_id {record.cell_id} does not belong to its cell, whose id is {cell.cell_id}")
    if record.status not in STATUSES:
        raise ValueError(f"record: status is {record.status!r}, expected one of {', '.join(STATUSES)}")
    _check_counters(record.counters)
    return record


def _check_counters(counters: Mapping[str, Any]) -> None:
    for name, value in counters.items():
        if name in _LIST_COUNTERS and not isinstance(value, list):
            raise ValueError(f"record: counters.{name} is {str(value)[:40]!r}, expected a list")
        if type(value) in (int, float) and not (_are_numbers((value,)) and 0 <= value <= _MOST_COUNTED):
            raise ValueError(f"record: counters.{name[:40]!r} is no finite number that can be counted")


def cell_from_json(data: Any) -> Cell:
    """Raises ValueError as record_from_json does."""
    cell: Cell = _build(Cell, _interned(data))
    return cell


def round_from_json(data: Any, *, may_run_backwards: bool = True) -> Round:
    """Raises ValueError as record_from_json does."""
    plain = _tuples(data, *_ROUND_LISTS)
    for name in _ROUND_TABLES:
        if isinstance(rows := plain.get(name), tuple) and set(map(type, rows)) == {list}:
            plain[name] = tuple(map(tuple, rows))
    round: Round = _build(Round, plain)
    for name in ("wall_s", "cpu_s", "device_s", "ttfb_s"):
        value = getattr(round, name)
        if value is not None and not (_LEAST_S <= value <= _MOST_S or value == 0):
            raise ValueError(f"round: {name} is {value}, which no clock gives")
    for name in ("block_s", "step_s"):
        values = getattr(round, name)
        if values and not (-_MOST_S if may_run_backwards else 0) <= min(values) <= max(values) <= _MOST_S:
            raise ValueError(f"round: {name} has {min(values)} to {max(values)}, which no clock gives")
    return round


def is_shallow(value: Any, levels: int = _MOST_DEPTH) -> bool:
    """Whether objects and lists lie in each other only so deep that nothing which walks them runs out of stack."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(is_shallow(one, levels - 1) for one in inside)


def _interned(data: Any) -> Any:
    """The object with one copy of each text in it: thousands of cells and records say the same."""
    if not isinstance(data, dict):
        return data
    return {name: sys.intern(value) if type(value) is str else value for name, value in data.items()}


def _tuples(data: Any, *names: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ValueError("record: expected a JSON object")
    plain = dict(data)
    for name in names:
        values = data.get(name)
        if isinstance(values, list):
            plain[name] = tuple(values)
    return plain


def _build(kind: type, data: Any) -> Any:
    if not isinstance(data, dict):
        raise ValueError(f"{kind.__name__.lower()}: expected a JSON object, got {type(data).__name__}")
    checks = _FIELD_CHECKS[kind]
    unknown = data.keys() - checks.keys()
    if unknown:
        raise ValueError(f"{kind.__name__.lower()}: unknown field {min(unknown, key=str)!r}")
    for name, value in data.items():
        expected, fits = checks[name]
        if not fits(value):
            raise ValueError(f"{kind.__name__.lower()}: {name} is {str(value)[:40]!r}, expected {expected}")
    try:
        return kind(**data)
    except TypeError as error:
        raise ValueError(f"{kind.__name__.lower()}: {error}") from None


def _are_numbers(values: tuple[Any, ...]) -> bool:
    types = set(map(type, values))
    try:
        if types == {float} and math.isfinite(sum(values)):  # then each is, and a sum is quick
            return True
        return types <= {int, float} and all(map(math.isfinite, values))
    except OverflowError:  # an integer beyond every float
        return False


def _are_counts(values: tuple[Any, ...]) -> bool:
    return set(map(type, values)) <= {int} and (not values or (min(values) >= 0 and max(values) <= _MOST_INT))


def _is_number(value: Any) -> bool:
    return _are_numbers((value,))


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MOST_INT


def _check_of(annotation: str) -> Callable[[Any], bool]:
    """Tells whether a value that JSON held has the type that a field declares."""
    if annotation.endswith(" | None"):
        fits = _check_of(annotation.removesuffix(" | None"))
        return lambda value: value is None or fits(value)
    if annotation == "tuple[float, ...]":  # these two hold thousands: no call for each
        return lambda value: isinstance(value, tuple) and _are_numbers(value)
    if annotation == "tuple[int, ...]":
        return lambda value: isinstance(value, tuple) and _are_counts(value)
    if annotation.startswith("tuple["):
        fits = _check_of(annotation.removeprefix("tuple[").removesuffix(", ...]"))
        return lambda value: isinstance(value, tuple) and all(map(fits, value))
    if annotation.startswith(("dict[", "Mapping[")):
        fits = _check_of(annotation.partition("[str, ")[2].removesuffix("]"))
        return lambda value: isinstance(value, dict) and all(map(fits, value.values()))
    if annotation == "float":
        return _is_number
    if annotation == "int":
        return _is_count
    kind: type = {"str": str, "Status": str}.get(annotation, object)
    return lambda value: isinstance(value, kind)


# Field -> its annotation and its check.
_FIELD_CHECKS: dict[type, dict[str, tuple[str, Callable[[Any], bool]]]] = {
    kind: {f.name: (re.sub(r"\bint\b", "int of at least 0", str(f.type)), _check_of(str(f.type))) for f in fields(kind)}
    for kind in (Cell, Round, Record)
}
