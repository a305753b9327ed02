"""Speed-up over batch and block length on several devices, or of several runs: a panel each, at one number of steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.analysis.rows import CellRow
from harness.report import svg
from harness.report.figures.base import Figure, NotDrawn, fastest_first
from harness.report.figures.heat_map import (
    KEY_IN,
    QUESTION,
    Grid,
    at,
    draw_key,
    draw_panel,
    first_reason,
    next_step,
    scale_of,
    sides,
    signs,
    steps_label,
)
from harness.report.figures.panels import chosen, name_of, panels
from harness.report.slices import Slice, joined
from harness.report.wording import listed

_PANEL_IN, _HEAD_IN = 2.1, 0.04
_MOST_SQUARES = 160  # of all panels: each is two elements of the page


def heat_map_together(parts: Sequence[Slice], name: str) -> Figure:
    """All panels at one number of steps, so that they can be compared; a slice's own figure has the others.

    Raises:
        NotDrawn: no cell of any slice has a speed-up.
    """
    every = [row for part in parts for row in part.diffusion]
    if not any(_compared(part.diffusion) for part in parts):
        why = "no cell has a speed-up: " + first_reason(every)
        raise NotDrawn(why if every else "no block-diffusion cell was planned")
    num_steps = _steps(parts)
    narrowed = [_at_steps(part, num_steps) for part in parts]
    known = [part for part in narrowed if _compared(part.diffusion)]
    shown, note = chosen(known)
    whole = joined(shown)
    grid = Grid.of(whole, most_a_side=min(12, round((_MOST_SQUARES / len(shown)) ** 0.5)))
    with svg.style():
        labels = [steps_label(part, num_steps) for part in shown]
        drawing, foot, places = panels(shown, height_in=_PANEL_IN, head_in=_HEAD_IN, foot_in=KEY_IN, subtitles=labels)
        scale = scale_of(_compared(whole.diffusion))
        for place in places:
            draw_panel(place.axes, place.part, grid, num_steps, scale, is_first=place.is_first)
        draw_key(drawing, foot, drawing.get_size_inches()[1], scale, signs(whole.diffusion))
        answer = _answer(known, narrowed, num_steps) + note + grid.note
        picture = svg.to_svg(drawing, name=name, title=QUESTION, description=answer)
    return Figure(
        answer=answer,
        next_step=next_step([row for part in narrowed for row in part.diffusion]),
        rows_filter=f"decoding=block_diffusion num_steps={num_steps}",
        picture=picture,
    )


def _compared(rows: Sequence[CellRow]) -> list[CellRow]:
    return [row for row in rows if "speedup_vs_ar" in row.metrics]


def _steps(parts: Sequence[Slice]) -> int:
    """With which most slices were compared; of several such numbers, that of a fastest setting, or the smallest."""
    steps = [{row.cell.num_steps or 0 for row in _compared(part.diffusion)} for part in parts]
    fastest = {row.cell.num_steps for part in parts for row in fastest_first(part.diffusion)[:1]}
    return min(set.union(*steps), key=lambda one: (-sum(one in some for some in steps), one not in fastest, one))


def _at_steps(part: Slice, num_steps: int) -> Slice:
    return replace(
        part,
        rows=tuple(row for row in part.rows if row.cell.num_steps == num_steps),
        skipped=tuple(skipped for skipped in part.skipped if skipped.cell.num_steps == num_steps),
    )


def _answer(known: Sequence[Slice], every: Sequence[Slice], num_steps: int) -> str:
    """Both directions on each device, and the two ends over all of them."""
    found: dict[str, list[str]] = {}
    for part in every:
        rows = _compared(part.diffusion)
        found.setdefault(sides(rows) if rows else "no cell can be compared", []).append(name_of(part))
    told = [f"on {listed(names)}, {result}" for result, names in found.items()]
    ends = sorted(
        (
            (row.metrics["speedup_vs_ar"].value, at(row), name_of(part))
            for part in known
            for row in _compared(part.diffusion)
        ),
        key=lambda end: end[0],
    )
    (_, worst, on_worst), (_, best, on_best) = ends[0], ends[-1]
    bounds = f" Best for it: {best}, on {on_best}; worst: {worst}, on {on_worst}."
    return f"With {steps_label(every[0], num_steps)}: {'; '.join(told)}.{bounds}"
