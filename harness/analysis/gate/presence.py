"""Which cells there are, and which of them cannot be compared: new, missing, broken, fixed, on another machine."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis.gate.samples import ABSENT, DROPPED, OK, Samples
from harness.analysis.verdict import JOB, CellVerdict, Difference, RuleVerdict, State
from harness.records.types import FAILED_STATUSES, Cell, to_json
from harness.spec.config import ConfigError


def cells_of(samples: Samples) -> dict[str, Cell]:
    """Of both sides: those of head in its plan's order, then those that only base has.

    Raises:
        ConfigError: no cell is on both sides.
    """
    base, head = samples.planned(0), samples.planned(1)
    if not base.keys() & head.keys():
        raise ConfigError(
            f"base and head have no cell in common ({len(base)} and {len(head)} cells), so nothing can be compared\n"
            "a suite's model, protocol, prompts and options are part of its cells; measure the same suite on both sides"
        )
    return {cell_id: planned.cell for cell_id, planned in {**head, **base}.items()}


def presence(samples: Samples, cell_id: str, cell: Cell) -> CellVerdict | None:
    """The verdict of a cell that cannot be compared, or None."""
    planned = [cell_id in samples.planned(side) for side in (0, 1)]
    (base, base_why), (head, head_why) = (samples.status(side, cell_id) for side in (0, 1))
    if head in FAILED_STATUSES:  # said first: no trouble of base's excuses it
        state = State.BROKEN_BOTH if base in FAILED_STATUSES else State.BROKEN
        there = "only head has it" if not planned[0] else f"base {base_why}" if base_why else "base is fine"
        return bare(cell_id, cell, state, f"head {head_why}; {there}")
    if planned[1] and head == ABSENT:
        return bare(cell_id, cell, State.MISSING, "it is in head's plan, and there is no record of it")
    if not planned[0]:
        return bare(cell_id, cell, State.NEW, "only head has it: listed, not compared")
    if not planned[1]:
        if samples.mode == JOB:
            return bare(cell_id, cell, State.REPORTED, "head's suite has it no longer: this change removes it")
        return bare(cell_id, cell, State.MISSING, "base has it, head does not")
    if {base, head} <= {OK, DROPPED} and all(samples.has_counts(side, cell_id) for side in (0, 1)):
        return None  # of a cell that was disturbed in every launch the counts are compared
    if DROPPED in (base, head):
        why = base_why if base == DROPPED else head_why
        return bare(cell_id, cell, State.INCONCLUSIVE, f"disturbed in every launch: {why}")
    if base == ABSENT:
        state = State.NEW if head == OK else State.BROKEN
        return bare(cell_id, cell, state, f"base has no record of it; head: {head_why or 'ok'}")
    if head == OK:
        return bare(cell_id, cell, State.FIXED, f"base {base_why}; head is fine")
    if base == OK:
        return bare(cell_id, cell, State.BROKEN, f"head {head_why}; base is fine")
    if base == head:
        return bare(cell_id, cell, State.REPORTED, f"{head} on both sides, which is a result")
    return bare(cell_id, cell, State.BROKEN_BOTH, f"base {base_why}; head {head_why}")


def bare(cell_id: str, cell: Cell, state: State, reason: str, rules: Sequence[RuleVerdict] = ()) -> CellVerdict:
    return CellVerdict(
        cell_id=cell_id, label=cell.label, axes=to_json(cell), state=state, reason=reason, rules=tuple(rules)
    )


def incomparable(cell_id: str, cell: Cell, refused: Sequence[Difference]) -> CellVerdict:
    keys = ", ".join(one.key for one in refused[:3]) + (" ..." if len(refused) > 3 else "")
    return bare(cell_id, cell, State.INCOMPARABLE, f"base and head differ in {keys}")
