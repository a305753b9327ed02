"""Under which conditions rows reach a claim: what tells them from the others, and how it was obtained that none was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from harness.analysis.rows import CellRow
from harness.analysis.run_data import Run

# What may tell rows that reach a claim from rows that do not, besides how good their answers are, and their run.
FIELDS = (
    *("model", "device", "backend", "decoding", "block_length", "num_steps", "stopping", "weight_dtype", "head_dtype"),
    *("prompt_set", "prompt_tokens", "output_tokens", "eos", "routing"),
)
QUALITY, RUN = "exact match", "run"
CONDITIONS = (QUALITY, *FIELDS)
NO_LESS, LESS, NOT_GRADED = "no less than autoregressive", "less than autoregressive", "not graded"


@dataclass(frozen=True, slots=True)
class ValuedRow:
    """A row that can test a claim. value: its measure. run_name: the device's, and what tells the run from others."""

    row: CellRow
    run: Run
    run_name: str
    twin: CellRow | None
    value: float

    def meets(self, wanted: Mapping[str, Sequence[Any]], names: Iterable[str]) -> bool:
        return all(getattr(self.row.cell, name) in wanted[name] for name in names)

    @property
    def quality(self) -> str | None:
        """How right its answers are beside its twin's; None of the twin itself."""
        if self.row.is_autoregressive:
            return None
        ours, theirs = self.row.value("exact_match"), self.twin.value("exact_match") if self.twin else None
        return NOT_GRADED if ours is None or theirs is None else NO_LESS if ours >= theirs else LESS


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One condition, or two taken together, whose values differ between rows that reach a claim and the others."""

    names: tuple[str, ...]
    reached: tuple[tuple[Any, ...], ...]  # values, one of each name
    missed: tuple[tuple[Any, ...], ...]

    @property
    def decides(self) -> bool:
        """Whether it alone tells the two apart."""
        return not set(self.reached) & set(self.missed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Unmet:
    """Conditions under which a claim was obtained and no row was. together: each is met by some row, never all."""

    wanted: Mapping[str, Sequence[Any]]
    together: bool


def unmet_by(wanted: Mapping[str, Sequence[Any]], tested: Sequence[ValuedRow]) -> Unmet:
    """The conditions that no row meets; where each is met by some row, the fewest that none meets together."""
    for count in range(1, len(wanted) + 1):
        lacking = [
            names for names in combinations(wanted, count) if not any(one.meets(wanted, names) for one in tested)
        ]
        if lacking:
            named = dict.fromkeys(name for names in lacking for name in names)
            return Unmet(wanted={name: wanted[name] for name in named}, together=count > 1)
    return Unmet(wanted={}, together=False)


def differences(reached: Sequence[ValuedRow], missed: Sequence[ValuedRow]) -> list[Difference]:
    """Conditions that tell the two apart, those that do it first; none where one of the two is empty.

    The run counts only where no other condition tells them apart, and pairs only where no single one does.
    """
    if not reached or not missed:
        return []
    found = [_difference((name,), reached, missed) for name in (*CONDITIONS, RUN)]
    singles = [one for one in found if one.reached != one.missed]
    conditions = [one for one in singles if one.names != (RUN,)]
    if any(one.decides for one in conditions):
        return sorted(conditions, key=lambda one: not one.decides)
    if any(one.decides for one in singles):
        return sorted(singles, key=lambda one: not one.decides)
    return [*_pairs(reached, missed), *singles]


def _pairs(reached: Sequence[ValuedRow], missed: Sequence[ValuedRow]) -> list[Difference]:
    """Pairs that tell the two apart, the simplest first."""
    both = [*reached, *missed]
    columns = {name: {_value(name, one) for one in both} for name in (*CONDITIONS, RUN)}
    varying = [name for name, values in columns.items() if len(values) > 1 and None not in values]
    pairs = [_difference(names, reached, missed) for names in combinations(varying, 2)]
    return sorted(
        (one for one in pairs if one.decides),
        key=lambda one: (RUN in one.names, len(one.reached) + len(one.missed)),
    )


def _difference(names: tuple[str, ...], reached: Sequence[ValuedRow], missed: Sequence[ValuedRow]) -> Difference:
    return Difference(names=names, reached=_values(names, reached), missed=_values(names, missed))


def _values(names: tuple[str, ...], some: Sequence[ValuedRow]) -> tuple[tuple[Any, ...], ...]:
    combined = {tuple(_value(name, one) for name in names) for one in some}
    known = (values for values in combined if None not in values)
    return tuple(sorted(known, key=lambda values: [(str(type(value)), value) for value in values]))


def _value(name: str, one: ValuedRow) -> Any:
    """None: the row has no such condition."""
    if name == QUALITY:
        return one.quality
    return one.row.run_id if name == RUN else getattr(one.row.cell, name)
