"""In which facts of identity and stack environments differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.records.types import Environment, Record

_LAYERS = ("identity", "stack")  # what an environment_id is a hash of
# What a reader looks for first where environments differ; other facts follow in their own order.
_FIRST = (
    *("identity.gpu.name", "identity.gpu.power_limit_w", "identity.cpu", "stack.driver", "stack.packages.torch"),
    *("stack.cuda", "stack.python", "stack.project_commit", "stack.project_dirty"),
)
_MOST_FACTS = 6


def flat(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """Leaves of nested objects as (dotted path, text)."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(f"{path}.{key}" if path else str(key), inner)
    else:
        yield path, "unknown" if value is None else value if isinstance(value, str) else json.dumps(value)


def facts_of(environments: Sequence[Environment]) -> dict[str, str]:
    """Path in identity and stack -> its value, or all of its values where the environments differ."""
    found: dict[str, dict[str, None]] = {}
    for environment in environments:
        for layer in _LAYERS:
            for path, value in flat(layer, getattr(environment, layer)):
                found.setdefault(path, {})[value] = None
    return {path: "/".join(values) for path, values in found.items()}


def differing(facts: Sequence[Mapping[str, str]]) -> dict[str, tuple[str, ...]]:
    """Path -> the value that each has, for all paths in which they differ; what everybody looks for comes first."""
    paths = dict.fromkeys([*_FIRST, *(path for one in facts for path in one)])
    values = {path: tuple(one.get(path, "unknown") for one in facts) for path in paths}
    return {path: each for path, each in values.items() if len(set(each)) > 1}


def differences(facts: Sequence[Mapping[str, str]]) -> str:
    """In which facts of which layer they differ, with the values of each."""
    found = differing(facts)
    if not found:
        return ""
    shown = list(found.items())[:_MOST_FACTS]
    told = [
        f"{layer}: "
        + ", ".join(
            f"{path.removeprefix(layer + '.')} {' | '.join(dict.fromkeys(values))}"
            for path, values in shown
            if path.startswith(f"{layer}.")
        )
        for layer in _LAYERS
        if any(path.startswith(f"{layer}.") for path, _ in shown)
    ]
    more = f" and {len(found) - _MOST_FACTS} more" if len(found) > _MOST_FACTS else ""
    return "; ".join(told) + more


def mixed_environments(final: Mapping[tuple[str, int], Record], known: Mapping[str, Environment]) -> list[str]:
    """The warning of a run whose records come from several environments, and how many cells that touches.

    final: (cell_id, launch) -> record. known: environment id -> environment, as far as its file is there.
    """
    where: dict[str, set[str]] = {}
    for (cell_id, _), record in final.items():
        where.setdefault(cell_id, set()).add(record.environment_id)
    used = sorted({record.environment_id for record in final.values()})
    if len(used) < 2:
        return []
    told = differences([facts_of([known[name]]) for name in used if name in known])
    both = sum(1 for names in where.values() if len(names) > 1)
    return [
        f"the run mixes {len(used)} environments, {', '.join(used)}; speed-ups are taken inside one process all the "
        "same"
        + (f". They differ in {told}" if told else "")
        + (f". Cells with launches in several of them, whose median is over all: {both}" if both else "")
    ]
