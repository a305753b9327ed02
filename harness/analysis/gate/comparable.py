"""Whether two sides may be compared: what the machine is, what runs on it, and how it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from harness.analysis.gate.measured import environments_of
from harness.analysis.gate.samples import Samples
from harness.analysis.run_data import Run
from harness.analysis.verdict import Difference

Facts = dict[str, str]
REFUSED, DECLARED, NOTED = "refused", "declared", "noted"
IDENTITY, STACK, CIRCUMSTANCE = "identity", "stack", "circumstance"
# The change that is judged, and nothing about the machine.
_UNDER_TEST = ("project_commit", "project_dirty")
# Readings that never repeat; what they do to times is what pairs of launches are for.
_READINGS = (
    *("load_1min", "available_memory_bytes", "free_memory_bytes", "temperature_c", "sm_clock_mhz"),
    *("memory_clock_mhz", "foreign_processes", "capabilities"),
)
ABSENT = "absent"
# What one version of a suite has and the other has not concerns cells that only one of them has.
_LAUNCHES = "protocol.launches"
_OF_THE_SUITE = ("prompts.", "protocol.", "drawn_from.")


def differences(samples: Samples, declared: Iterable[str]) -> list[Difference]:
    """In what the environments and the question of the two sides differ, and what follows; refusals first.

    declared: keys of the stack whose difference is the question, such as packages.torch; packages declares them all.
    """
    declared = list(declared)
    base, head = (_facts(samples, side) for side in (0, 1))
    found = []
    for layer, key in sorted(base.keys() | head.keys()):
        before, after = (side.get((layer, key), {ABSENT}) for side in (base, head))
        is_unshared = ABSENT in before | after and key.startswith(_OF_THE_SUITE)
        if before != after and not is_unshared:
            found.append(_difference(layer, key, before, after, _effect(layer, key, declared)))
    order = (REFUSED, DECLARED, NOTED)
    return sorted(found, key=lambda one: (order.index(one.effect), one.layer, one.key))


def of_approval(stack: Facts, question: Facts, head: Run, declared: Sequence[str]) -> list[Difference]:
    """In what the stack and the question of one approval are not head's; how many launches there were is no matter."""
    stacks = [dict(flat(one.stack)) for one in environments_of(head)]
    found = []
    for layer, base, sides in ((STACK, stack, stacks), (IDENTITY, question, [question_of(head)])):
        for key in sorted({key for one in (base, *sides) for key in one if key not in (*_UNDER_TEST, _LAUNCHES)}):
            before, after = {base.get(key, ABSENT)}, {one.get(key, ABSENT) for one in sides}
            is_unshared = ABSENT in before | after and key.startswith(_OF_THE_SUITE)
            if before != after and not is_unshared:
                found.append(_difference(layer, key, before, after, _effect(layer, key, list(declared))))
    return found


def _difference(layer: str, key: str, before: set[str], after: set[str], effect: str) -> Difference:
    return Difference(
        layer=layer, key=key, base=" or ".join(sorted(before)), head=" or ".join(sorted(after)), effect=effect
    )


def _effect(layer: str, key: str, declared: list[str]) -> str:
    if layer == CIRCUMSTANCE:
        return NOTED
    is_declared = layer == STACK and any(key == name or key.startswith(f"{name}.") for name in declared)
    return DECLARED if is_declared else REFUSED


def _facts(samples: Samples, side: int) -> dict[tuple[str, str], set[str]]:
    """(layer, key) -> every value that a launch of the side has for it, as text."""
    facts: dict[tuple[str, str], set[str]] = {}
    runs = {id(run): run for one in samples.of_side(side) for run, _ in one.attempts}
    for run in runs.values():
        for layer, key, value in _facts_of(run):
            facts.setdefault((layer, key), set()).add(value)
    return facts


def _facts_of(run: Run) -> Iterator[tuple[str, str, str]]:
    for environment in environments_of(run):
        for layer in (IDENTITY, STACK, CIRCUMSTANCE):
            for key, value in flat(getattr(environment, layer)):
                if key not in _UNDER_TEST and not any(part in _READINGS for part in key.split(".")):
                    yield layer, key, value
    for key, value in question_of(run).items():
        yield IDENTITY, key, value


def question_of(run: Run) -> Facts:
    """What was asked, beside the cells: of which weights, with which prompts, seed and protocol."""
    provenance = run.plan.get("provenance") or {}
    facts = {"weights": str(provenance.get("weights_hash")), "seed": str(run.plan.get("seed"))}
    for part in ("prompts", "protocol", "drawn_from"):
        facts |= {f"{part}.{key}": value for key, value in flat(run.plan.get(part) or {})}
    return facts


def flat(value: dict[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for key, one in value.items():
        if isinstance(one, dict):
            yield from flat(one, f"{path}{key}.")
        else:
            yield f"{path}{key}", str(one)
