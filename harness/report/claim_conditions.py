"""Conditions of a claim in words: those that no row has, and those that rows which reach it have and others lack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.analysis.claim_conditions import Difference, Unmet
from harness.analysis.claims import Judgement
from harness.records.texts import short
from harness.report.wording import counted, either, listed
from harness.spec.data import devices

_MOST_DIFFERENCES, _MOST_COMBINATIONS = 3, 4
_NAMES = {"num_steps": "steps"}


def device_name(name: str) -> str:
    return devices()[name].display_name if name in devices() else name


def unmet(one: Unmet) -> str:
    """Of the conditions under which a claim was obtained, what the rows lack."""
    return f"no row has {named(one.wanted)}{' together' if one.together else ''}"


def named(wanted: Mapping[str, Sequence[Any]]) -> str:
    """steps 16 and stopping fixed."""
    return listed([_with(name, values) for name, values in wanted.items()])


def in_short(one: Judgement) -> str:
    """What a terminal says behind "reproduced only if"."""
    if one.rows.reached == one.rows.tested:
        return f"one leaves aside that {unmet(one.unmet)}"
    deciding = _deciding(one.differences)
    if deciding:
        return _combinations(deciding[0].names, deciding[0].reached)
    return f"one chooses the row: {one.rows.reached} of {one.rows.tested} reach it"


def differences(found: Sequence[Difference]) -> str:
    """What rows that reach a claim have, and the others have not."""
    deciding = _deciding(found)
    shown = [one for one in deciding if len(one.names) == 1] or deciding[:1]
    if shown:
        which = "" if len(shown) == 1 else ", and the rows here cannot say which of these it is"
        return "; ".join(map(_difference, shown[:_MOST_DIFFERENCES])) + which
    partly = [text for one in found if (text := _partly(one))]
    return "; ".join(["no one or two conditions tell them apart", *partly[:_MOST_DIFFERENCES]])


def _partly(one: Difference) -> str:
    """The values of a condition that decide, where others do not; empty where none does."""
    ours, theirs = (
        [v[0] for v in some if v not in other] for some, other in ((one.reached, one.missed), (one.missed, one.reached))
    )
    told = [f"all with {_with(one.names[0], ours)} do"] if ours else []
    return ", ".join([*told, *([f"none with {_with(one.names[0], theirs)} does"] if theirs else [])])


def _deciding(found: Sequence[Difference]) -> list[Difference]:
    """Those that tell the rows apart, and have a value on both sides that can be named."""
    return [one for one in found if one.decides and one.reached and one.missed]


def _difference(one: Difference) -> str:
    """Of one that decides."""
    reached, missed = (_combinations(one.names, some) for some in (one.reached, one.missed))
    if len(one.names) == 1:
        missed = either([_value(one.names[0], values[0]) for values in one.missed])
    return f"only with {reached}{',' if len(one.names) == 1 else ';'} the others have {missed}"


def _combinations(names: Sequence[str], combos: Sequence[tuple[Any, ...]]) -> str:
    """Values of one condition, or of a pair, those that go with the same together."""
    if len(names) == 1:
        return _with(names[0], [values[0] for values in combos])
    groups = min((_grouped(combos, place) for place in (0, 1)), key=len)
    texts = [f"{_with(names[0], ours)} and {_with(names[1], theirs)}" for ours, theirs in groups]
    more = len(texts) - _MOST_COMBINATIONS
    return ", or ".join([*texts[:_MOST_COMBINATIONS], *([counted(more, "more combination")] if more > 0 else [])])


def _grouped(combos: Sequence[tuple[Any, ...]], place: int) -> list[tuple[list[Any], list[Any]]]:
    """Values of the first and the second condition that go together: those at `place` with equal partners are one."""
    partners: dict[Any, list[Any]] = {}
    for values in combos:
        partners.setdefault(values[place], []).append(values[1 - place])
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for value, others in partners.items():
        groups.setdefault(tuple(others), []).append(value)
    return [(own, list(others)) if place == 0 else (list(others), own) for others, own in groups.items()]


def _with(name: str, values: Sequence[Any]) -> str:
    return f"{_NAMES.get(name, name.replace('_', ' '))} {either([_value(name, value) for value in values])}"


def _value(name: str, value: Any) -> str:
    if name == "device":
        return device_name(str(value))
    return short(str(value).replace("_", " ") if name == "decoding" else str(value), 120)
