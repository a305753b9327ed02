"""A verdict on a terminal: the verdict and what to do, then the worst cells, as plain text."""

from __future__ import annotations

from textwrap import wrap

from harness.analysis.verdict import Verdict
from harness.records.texts import said, short
from harness.report.gate import entries as lines_of
from harness.report.gate.entries import UNCHANGED, Entry
from harness.report.wording import counted

MOST_CELLS = 20
MOST_NOTES = 5
_MOST_REASON = 600  # characters: of a file that anybody may have written
_HEADER = ("state", "cell", "rule", "base", "head", "change", "noise")


def terminal_text(verdict: Verdict) -> str:
    """The headline, at most 20 cells with their reasons, what moved as a whole, and what to do next."""
    changed = [entry for entry in lines_of.by_cell(verdict) if entry.state not in UNCHANGED]
    lines = [lines_of.headline(verdict), lines_of.compared(verdict), lines_of.counts(verdict)]
    if changed:
        lines += ["", *_table(changed[:MOST_CELLS])]
    if len(changed) > MOST_CELLS:
        lines.append(f"{counted(len(changed) - MOST_CELLS, 'more cell')} in verdict.json")
    more = [*lines_of.shifts(verdict), *lines_of.notes(verdict)]
    if more:
        lines += ["", *more[:MOST_NOTES]]
    if len(more) > MOST_NOTES:
        lines.append(f"{counted(len(more) - MOST_NOTES, 'more note')} in verdict.json")
    steps = lines_of.next_steps(verdict)
    if steps:
        lines += ["", *(f"next, {step}" for step in steps)]
    return "\n".join(lines) + "\n"


def _table(shown: list[Entry]) -> list[str]:
    rows = [_HEADER, *(_row(entry) for entry in shown)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADER))]
    texts = [
        "  ".join(
            t.ljust(w) if i < 3 else t.rjust(w) for i, (t, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    whys = (_wrapped(said(entry.reason, _MOST_REASON)) for entry in shown)
    return [texts[0], *(line for text, why in zip(texts[1:], whys, strict=True) for line in (text, *why))]


def _wrapped(reason: str) -> list[str]:
    """Whole: what ends it, such as the least slowdown that would have shown, is what a reader must know."""
    return wrap(reason, 114, initial_indent="    ", subsequent_indent="    ")


def _row(entry: Entry) -> tuple[str, ...]:
    label = short(said(entry.cell.label), 48)
    values = (entry.base, entry.head, entry.change, entry.spread)
    return (str(entry.state), label, short(entry.name, 24), *values)
