"""What routing and step counts do to the speed-up: predicted at the floors, with what the run measured beside it."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes

from harness.analysis.assumptions import FIXED, Assumptions, assumptions_around
from harness.analysis.crossover import line_key
from harness.analysis.crossover_range import CrossoverRange
from harness.analysis.metrics.registry import Missing
from harness.analysis.rows import CellRow
from harness.report import svg
from harness.report.figures.base import (
    Figure,
    NotDrawn,
    drawing_with_caption,
    log2_axis,
    log_axis,
    range_bar,
    thinned,
)
from harness.report.slices import Slice
from harness.report.wording import counted, crossover_range, percent, ratio, setting

QUESTION = "What does each assumption do to the speed-up?"
_MOST_BATCHES = 12
_MARKERS = ("o", "^", "s")
_LINES = ("-", "--", ":")


def assumptions(part: Slice, name: str) -> Figure:
    """Around the slice's fastest block-diffusion cell, or its first one: routing, then steps, one at a time."""
    row = _chosen(part)
    batches = thinned(sorted({one.cell.batch_size for one in part.diffusion}), _MOST_BATCHES)
    line = [one for one in part.diffusion if line_key(one.cell) == line_key(row.cell)]
    try:
        found = assumptions_around(part.run, line, batches)
    except Missing as why:
        raise NotDrawn(str(why)) from None
    measured = [(one.cell.batch_size, speedup) for one in line if (speedup := one.value("speedup_vs_ar")) is not None]
    bands = f"lines: PREDICTED at the floors by {found.roof} roofs; crosses: measured, of the same blocks and steps"
    bands += "; bars at the foot: where block diffusion loses its lead, over the panel's lines"
    with svg.style():
        drawing, foot = drawing_with_caption(part, 4.3, bands)
        panels = [drawing.add_axes((0.085 + 0.48 * i, foot + 0.27, 0.40, 0.66 - foot)) for i in range(2)]
        steps = counted(found.cell.num_steps or 0, "step")
        _panel(panels[0], found.routings, sorted(measured), f"routing, at {steps}")
        lines = {steps if label == FIXED else label: points for label, points in found.steps_lines.items()}
        _panel(panels[1], lines, sorted(measured), "steps, with uniform routing")
        answer = _answer(found)
        picture = svg.to_svg(drawing, name=name, title=QUESTION, description=answer)
    cell = row.cell
    return Figure(
        answer=answer,
        next_step="measure it: routing=zipf draws experts, axes.stopping=[replay] draws steps; rows say simulated.",
        rows_filter=f"block_length={cell.block_length}| num_steps={cell.num_steps}|",
        picture=picture,
    )


def _chosen(part: Slice) -> CellRow:
    if not part.diffusion:
        raise NotDrawn("no block-diffusion cell is planned")
    fixed = [row for row in part.diffusion if row.cell.stopping == "fixed"] or part.diffusion
    smallest = min(row.cell.batch_size for row in fixed)
    return max(
        (row for row in fixed if row.cell.batch_size == smallest), key=lambda row: row.value("useful_tok_s") or 0.0
    )


def _panel(
    axes: Axes, lines: Mapping[str, list[tuple[int, float]]], measured: list[tuple[int, float]], title: str
) -> None:
    for (name, points), marker, line in zip(lines.items(), _MARKERS, _LINES, strict=True):
        axes.plot(*zip(*points, strict=True), line, marker=marker, color=svg.DIFFUSION, markersize=5, label=name)
    if measured:
        axes.plot(*zip(*measured, strict=True), "x", color=svg.INK, markersize=7, label="measured")
    axes.axhline(1, color=svg.AUTOREGRESSIVE, linestyle="--", linewidth=1)
    sizes = sorted({batch for points in lines.values() for batch, _ in points})
    log2_axis(axes, sizes, "batch size")
    log_axis(axes, "speed-up over autoregressive")
    if len(sizes) > 1:
        low, high = axes.get_ylim()
        axes.set_ylim(low / (high / low) ** 0.08, high)
        range_bar(axes, CrossoverRange(lines=lines))
    axes.set_title(title, fontsize=10, loc="left", pad=5)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(-0.02, -0.17), borderaxespad=0)


def _answer(found: Assumptions) -> str:
    batch = found.fixed[-1][0]
    at = {name: points[-1][1] for name, points in found.routings.items()}
    low, high = min(at, key=lambda name: at[name]), max(at, key=lambda name: at[name])
    static, compacted = found.replayed[-1][1], found.compacted[-1][1]
    return (
        f"Predicted at the floors, with {setting(found.cell)} at batch {batch}: {low} routing gives {ratio(at[low])}, "
        f"{high} routing {ratio(at[high])}. With steps drawn from {found.histogram} (at most {found.cap}) it is "
        f"{ratio(static)}: {_waiting(found, ratio(compacted))}{_crossover(found)}"
    )


def _waiting(found: Assumptions, compacted: str) -> str:
    """What a static batch loses at the largest batch, and what compaction makes of it."""
    waiting, saved = (percent(points[-1][1]) for points in (found.straggler_share, found.saved_share))
    if waiting == percent(0.0):
        return "no row waits for another one, so compaction saves nothing."
    time = "no time" if saved == percent(0.0) else f"{saved} of the time"
    return (
        f"a static batch spends {waiting} of its steps on rows that are done. With compaction it spends none on them, "
        f"which saves {time} and gives {compacted}."
    )


def _crossover(found: Assumptions) -> str:
    """Over all of these assumptions."""
    if len(found.fixed) < 2:
        return ""
    told = f" Over all of these, the crossover batch is {crossover_range(found.range_at_floors)}"
    at_shares = found.range_at_shares
    if at_shares is not None and len(found.advantages) > 1:
        told += f"; where both keep the shares of their floors that were measured, {crossover_range(at_shares)}"
    return f"{told}."
