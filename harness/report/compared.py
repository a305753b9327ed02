"""What `compare` and `baseline` print: tables of plain text."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from harness.analysis.acceptance import words_of
from harness.analysis.baseline import Baseline
from harness.analysis.baseline import Change as Approved
from harness.analysis.compare import Change, Comparison
from harness.analysis.summary import ENOUGH_LAUNCHES
from harness.records.texts import said, short
from harness.report.wording import counted

MOST_NOTES = 5


def compare_text(comparison: Comparison) -> str:
    """A row for each cell and metric; those whose interval leaves 1 out have a mark."""
    a, b = (short(name, 24) for name in comparison.names)
    lines = _notes(comparison)
    header = ("cell", "metric", a, b, "b / a", "95 % interval", "")
    lines += _aligned([header, *map(_row, comparison.changes)])
    changed = sum(change.leaves_out_1 for change in comparison.changes)
    lines.append(f"{counted(changed, 'change')} of {len(comparison.changes)} with an interval that leaves 1 out (*)")
    lines.append("this is no verdict: python -m harness gate judges")
    return "\n".join(lines) + "\n"


def _notes(comparison: Comparison) -> list[str]:
    differing = [one for one in comparison.differences if one.layer != "circumstance"]
    notes = [
        f"{one.layer} differs: {said(one.key, 60)} is {said(one.base, 40)} in a, {said(one.head, 40)} in b"
        for one in differing[:MOST_NOTES]
    ]
    if len(differing) > MOST_NOTES:
        notes.append(f"and {counted(len(differing) - MOST_NOTES, 'more difference')}")
    for name, labels in (("a", comparison.only_a), ("b", comparison.only_b)):
        if labels:
            notes.append(f"only in {name}: {counted(len(labels), 'cell')}, the first {said(labels[0], 60)}")
    return notes


def _row(change: Change) -> tuple[str, ...]:
    interval = "" if change.low is None or change.high is None else f"{change.low:.3f} to {change.high:.3f}"
    basis = f"{interval} {change.basis}" if interval else change.basis
    ratio = "" if change.ratio is None else f"{change.ratio:.3f}"
    values = (f"{change.a:.6g}", f"{change.b:.6g} {change.unit}")
    return (short(change.label, 48), change.metric, *values, ratio, basis, "*" if change.leaves_out_1 else "")


def approved_text(path: str, changes: Sequence[Approved]) -> str:
    """Old -> new of each value."""
    rows = [("cell", "rule", "old", "new", "worse by", "")]
    rows += [
        (
            short(one.label, 48),
            one.rule,
            "-" if one.old is None else f"{one.old:.6g}",
            f"{one.new:.6g} {one.unit}",
            "" if one.worsening is None else words_of(one.worsening),
            "" if one.is_compared else f"{counted(one.num_launches, 'launch')}: not compared",
        )
        for one in changes
    ]
    few = [_too_few(count)] if (count := sum(not one.is_compared for one in changes)) else []
    told = f"{said(path, 400)}: {counted(len(changes), 'value')}; commit it, and review the diff"
    return "\n".join([*_aligned(rows), *few, told]) + "\n"


def baseline_text(path: str, baseline: Baseline, today: date) -> str:
    """What is approved there, what is accepted today, and how much of it is not compared yet."""
    lines = [f"{said(path, 400)}: {counted(len(baseline.values), 'value')} of {counted(baseline.num_cells, 'cell')}"]
    for approval in baseline.approvals:
        until = "" if approval.until is None else f", accepted until {said(approval.until)}"
        lines.append(f"  {approval.approved_on}  {said(approval.run_id, 60)}: {said(approval.reason)}{until}")
    for (cell_id, rule), allowed in sorted(baseline.accepted(today).items()):
        label = said(baseline.by_key[cell_id, rule].value.label, 80)
        until = f"worse by {allowed.up_to:.1%} until {said(allowed.until)}"
        lines.append(f"  accepted: {said(rule, 40)} of {label}, {until}")
    if few := baseline.too_few_launches:
        lines.append(f"  {_too_few(len(few))}")
    return "\n".join(lines) + "\n"


def _too_few(count: int) -> str:
    return (
        f"{counted(count, 'time')} from fewer than {ENOUGH_LAUNCHES} launches: listed, not compared until a run of "
        f"protocol.launches={ENOUGH_LAUNCHES} is approved"
    )


def _aligned(texts: Sequence[tuple[str, ...]]) -> list[str]:
    rows = [tuple(said(text, 80) for text in row) for row in texts]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
