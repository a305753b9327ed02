"""A verdict as HTML: the section "May I merge?" of the report, and a page that holds nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from harness.analysis.verdict import Verdict
from harness.report.gate import entries as lines_of
from harness.report.gate.entries import UNCHANGED, Entry
from harness.report.templates import style, template

MOST_ROWS = 200
_WIDTH, _HEIGHT = 160, 16
_WIDEST = math.log(1.5)  # of the picture's scale: one cell of ten times must not flatten the others


def section(verdict: Verdict) -> dict[str, Any]:
    """What gate/section.html asks for. Every rule and cell: what changed in a table, the rest folded."""
    found = lines_of.entries(verdict)
    changed = [entry for entry in found if entry.state not in UNCHANGED]
    unchanged = [entry for entry in found if entry.state in UNCHANGED]
    scale = _scale(changed[:MOST_ROWS])
    return {
        "headline": lines_of.headline(verdict),
        "is_red": verdict.exit_code != 0,
        "compared": lines_of.compared(verdict),
        "counts": lines_of.counts(verdict),
        "next_steps": lines_of.next_steps(verdict),
        "notes": [*lines_of.shifts(verdict), *lines_of.notes(verdict)][:MOST_ROWS],
        "scale": f"±{100 * math.expm1(scale):.3g} %",
        "tables": [
            (title, [(entry, interval_picture(entry, scale)) for entry in part[:MOST_ROWS]], len(part) - MOST_ROWS)
            for title, part in (("", changed), ("unchanged, or only reported", unchanged))
            if part
        ],
    }


def page(verdict: Verdict) -> str:
    """One self-contained page: no script, no network, the same bytes every time."""
    return template("gate/page.html").render(gate=section(verdict), style=style())


def _scale(shown: Sequence[Entry]) -> float:
    """How far, in log(head / base), the picture reaches to either side."""
    ends = [
        abs(math.log(end))
        for entry in shown
        if entry.rule is not None and entry.noise is not None
        for end in (entry.rule.low, entry.rule.high)
        if end
    ]
    return min(max([*ends, 0.01]), _WIDEST)


def interval_picture(entry: Entry, scale: float) -> Markup:
    """The change with its interval around no change, which is the line in the middle; nothing where none is known."""
    rule = entry.rule
    if rule is None or entry.noise is None or not rule.ratio or rule.ratio < 0:
        return Markup("")
    low, at, high = (_place(end, scale) for end in (rule.low, rule.ratio, rule.high))
    colour = "var(--bad)" if entry.is_red else "currentColor"
    middle, y = _WIDTH / 2, _HEIGHT / 2
    return Markup(
        '<svg class="interval" viewBox="0 0 {w} {h}" role="img" aria-label="{label}">'
        '<line x1="{m}" x2="{m}" y1="0" y2="{h}" style="stroke: var(--muted)"/>'
        '<line x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}" style="stroke: {colour}; stroke-width: 3"/>'
        '<circle cx="{at:.1f}" cy="{y}" r="4" style="fill: {colour}"/></svg>'
    ).format(
        w=_WIDTH,
        h=_HEIGHT,
        label=f"{entry.change} {entry.spread}",
        m=middle,
        low=low,
        high=high,
        at=at,
        y=y,
        colour=colour,
    )


def _place(ratio: float | None, scale: float) -> float:
    share = max(-1.0, min(1.0, math.log(ratio or 1) / scale))
    return _WIDTH / 2 + share * (_WIDTH / 2 - 5)
