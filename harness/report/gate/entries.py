"""The lines that every output of a verdict shows, in one order and in one wording."""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness.analysis.verdict import (
    BASELINE,
    JOB,
    STORED,
    WORST_FIRST,
    CellVerdict,
    GroupVerdict,
    RuleVerdict,
    Side,
    State,
    Verdict,
    exit_code_of,
)
from harness.records.texts import said
from harness.report.wording import counted, listed

UNCHANGED = (State.OK, State.REPORTED)  # what every output folds
UNDECIDED = (State.INCONCLUSIVE, State.BROKEN_BOTH)  # neither good nor bad where they are not red
# What to do about a state, of those that ask for something.
_NEXT = {
    State.OUTPUT_CHANGED: "decide whether the answers should differ, before any time is looked at",
    State.BROKEN: "fix what fails on head; its times are not looked at",
    State.MISSING: "measure the missing cells, or take them out of the suite file in the same change",
    State.REGRESSED: "find the cause; if it is wanted, approve it with a reason: python -m harness baseline approve",
    State.BROKEN_BOTH: "these fail on both sides, so nothing guards them",
    State.INCOMPARABLE: "measure base again on this machine with this software",
    State.NO_BASELINE: "approve a first baseline: python -m harness baseline approve",
    State.INCONCLUSIVE: "nobody can tell: use a quieter machine or more pairs",
    State.IMPROVED: "approve the gain, so that it cannot be lost again unseen: python -m harness baseline approve",
}
_MOST_NOISE = math.log(100)  # beyond it a number tells a reader no more
_MODES = {JOB: "both sides in one job", STORED: "two stored runs", BASELINE: "against approved values"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A rule on a cell, or, with rule None, a cell whose state no rule of it has, for example a missing one."""

    cell: CellVerdict
    rule: RuleVerdict | None
    state: State
    reason: str
    is_red: bool  # whether it keeps the exit code from being 0

    @property
    def name(self) -> str:
        return "cell" if self.rule is None else said(self.rule.rule, 40)

    @property
    def label(self) -> str:
        """Cells of a suite may share a label, which leaves out dtypes."""
        return f"{said(self.cell.label, 80)} [{said(self.cell.cell_id[:8])}]"

    @property
    def noise(self) -> float | None:
        """Half the 95 % interval of log(head / base); 0 for what repeats exactly."""
        rule = self.rule
        if rule is None or not rule.low or not rule.high or not 0 < rule.low <= rule.high:
            return None
        return (math.log(rule.high) - math.log(rule.low)) / 2

    @property
    def change_over_noise(self) -> float:
        """How far the change stands out; infinite for an exact counter that changed, 0 where nothing is known."""
        if self.rule is None or not self.rule.ratio or self.rule.ratio < 0 or self.noise is None:
            return 0.0
        change = abs(math.log(self.rule.ratio))
        if self.noise == 0:
            return math.inf if change else 0.0
        return change / self.noise

    @property
    def base(self) -> str:
        return amount(None if self.rule is None else self.rule.base, self.rule)

    @property
    def head(self) -> str:
        return amount(None if self.rule is None else self.rule.head, self.rule)

    @property
    def change(self) -> str:
        return "-" if self.rule is None or self.rule.ratio is None else signed(self.rule.ratio - 1)

    @property
    def spread(self) -> str:
        """The noise as a reader wants it: how far the change may be off."""
        if self.noise is None:
            return "-"
        if self.noise > _MOST_NOISE:
            return f"over {100 * math.expm1(_MOST_NOISE):.0f} %"
        return f"±{100 * math.expm1(self.noise):.2g} %" if self.noise else "exact"


def entries(verdict: Verdict) -> list[Entry]:
    """One of each rule and cell, the worst state first, and within a state what stands out most from its noise."""
    return _sorted([entry for cell in verdict.cells for entry in _of_cell(cell, verdict)])


def by_cell(verdict: Verdict) -> list[Entry]:
    """One of each cell, in the same order: the rule that gave it its state."""
    return _sorted([_sorted(_of_cell(cell, verdict))[0] for cell in verdict.cells])


def _of_cell(cell: CellVerdict, verdict: Verdict) -> list[Entry]:
    said = [
        Entry(cell=cell, rule=r, state=r.state, reason=r.reason, is_red=_is_red(r.state, verdict)) for r in cell.rules
    ]
    if cell.state in {entry.state for entry in said}:
        return said
    own = Entry(cell=cell, rule=None, state=cell.state, reason=cell.reason, is_red=_is_red(cell.state, verdict))
    return [own, *said]


def _sorted(found: list[Entry]) -> list[Entry]:
    return sorted(found, key=lambda entry: (WORST_FIRST.index(entry.state), -entry.change_over_noise))


def _is_red(state: State, verdict: Verdict) -> bool:
    """Whether the state alone would give an exit code; of cells that fail on both sides, all of them together."""
    states = [state]
    if state is State.BROKEN_BOTH:
        states = [cell.state if cell.state is state else State.OK for cell in verdict.cells]
    return exit_code_of(states, verdict.inconclusive, verdict.broken_both_budget) != 0


def amount(value: float | None, rule: RuleVerdict | None) -> str:
    """A value with its unit. Whole numbers, such as counters, keep every digit."""
    if value is None or rule is None:
        return "-"
    unit = said(rule.unit, 20)
    if unit == "s" and abs(value) < 1:
        return f"{1e3 * value:.4g} ms"
    number = f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.4g}"
    return f"{number} {unit}".rstrip()


def signed(share: float) -> str:
    return f"{100 * share:+.1f} %"


def headline(verdict: Verdict) -> str:
    return said(verdict.headline, 400)


def compared(verdict: Verdict) -> str:
    """What was compared with what, and how."""
    pairs = "" if verdict.pairs_per_cell is None else f", {verdict.pairs_per_cell:.1f} pairs a cell"
    mode = _MODES[verdict.mode]
    return f"{said(verdict.suite, 60)}: {_side(verdict.base)} -> {_side(verdict.head)}, {mode}{pairs}"


def _side(side: Side) -> str:
    notes = [*([said(side.commit[:7])] if side.commit else []), *(["uncommitted changes"] if side.dirty else [])]
    return said(side.revision, 60) + (f" ({', '.join(notes)})" if notes else "")


def counts(verdict: Verdict) -> str:
    """1 MISSING, 2 REGRESSED, 195 OK."""
    return ", ".join(f"{number:,} {state}" for state, number in verdict.counts.items())


def next_steps(verdict: Verdict) -> list[str]:
    """What to do, for each state that asks for something, the worst first."""
    return [f"{state}: {_NEXT[state]}" for state in WORST_FIRST if state in _NEXT and verdict.counts.get(state)]


def shifts(verdict: Verdict) -> list[str]:
    """Every group that moved as a whole, which no cell alone shows."""
    return [_shift(group) for group in verdict.groups if group.shift != "none"]


def _shift(group: GroupVerdict) -> str:
    axes = listed([f"{said(key, 40)} {said(str(value), 40)}" for key, value in group.axes.items()]) or "all cells"
    interval = f"{signed(group.low - 1)} to {signed(group.high - 1)}"
    over = f"{counted(group.num_cells, 'cell')}, {counted(group.num_pairs, 'pair')}"
    shift = f"{signed(group.ratio - 1)} ({interval}; {over})"
    return f"{axes}: {said(group.rule, 40)} {shift}: {said(group.shift, 20)} as a whole"


def _unapplied(verdict: Verdict) -> list[str]:
    """Rules of the suite that no compared cell has a value for, so that nothing guards what they are about."""
    rules = verdict.settings.get("rules")
    applied = {rule.rule for cell in verdict.cells for rule in cell.rules}
    if not applied or not isinstance(rules, dict):
        return []
    idle = [name for name, rule in rules.items() if name not in applied and _is_enabled(rule)]
    return [f"rules without a value in any cell: {', '.join(said(name, 40) for name in idle)}"] if idle else []


def _is_enabled(rule: object) -> bool:
    return isinstance(rule, dict) and rule.get("enabled") is True


def notes(verdict: Verdict) -> list[str]:
    """In what the two sides' machines and software differ, and what a reader must know besides."""
    differences = [
        f"{one.layer} {said(one.key, 60)}: {said(one.base, 60)} -> {said(one.head, 60)}, {one.effect}"
        for one in verdict.differences
    ]
    differences = [said(text, 240) for text in differences]
    return [*_unapplied(verdict), *differences, *(f"warning: {said(text)}" for text in verdict.warnings)]
