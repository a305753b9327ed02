"""What routing and step counts do to the speed-up: predicted at the floors, with what the run measured beside it."""

from __future__ import annotations

from matplotlib.axes import Axes

from harness.analysis.assumptions import Assumptions, assumptions_of
from harness.analysis.metrics.registry import Missing
from harness.analysis.rows import CellRow
from harness.report import svg
from harness.report.figures.base import Figure, NotDrawn, drawing_with_caption, log2_axis, log_axis, thinned
from harness.report.slices import Slice
from harness.report.wording import counted, percent, ratio, setting

QUESTION = "What does each assumption do to the speed-up?"
_MOST_BATCHES = 8
_MARKERS = ("o", "^", "s")
_LINES = ("-", "--", ":")


def assumptions(part: Slice, name: str) -> Figure:
    """Around the slice's fastest block-diffusion cell, or its first one: routing, then steps, one at a time."""
    row = _chosen(part)
    batches = thinned(sorted({one.cell.batch_size for one in part.diffusion}), _MOST_BATCHES)
    try:
        found = assumptions_of(part.run, row.cell, batches)
    except Missing as why:
        raise NotDrawn(str(why)) from None
    measured = _measured(part, row)
    bands = f"lines: PREDICTED at the floors by {found.roof} roofs; crosses: measured, of the same blocks and steps"
    with svg.style():
        drawing, foot = drawing_with_caption(part, 4.3, bands)
        panels = [drawing.add_axes((0.085 + 0.48 * i, foot + 0.27, 0.40, 0.66 - foot)) for i in range(2)]
        _panel(panels[0], dict(found.routings), measured, f"routing, at {_steps(found)}")
        lines = {
            _steps(found): found.fixed,
            f"{found.histogram}, static batch": found.replayed,
            f"{found.histogram}, compacted": found.compacted,
        }
        _panel(panels[1], lines, measured, "steps, with uniform routing")
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


def _measured(part: Slice, row: CellRow) -> list[tuple[int, float]]:
    """The measured speed-ups of the setting, by batch; of several prompt sets the chosen one's."""
    keys = ("block_length", "num_steps", "stopping", "prompt_set")
    alike = [one for one in part.diffusion if all(getattr(one.cell, k) == getattr(row.cell, k) for k in keys)]
    points = [(one.cell.batch_size, speedup) for one in alike if (speedup := one.value("speedup_vs_ar")) is not None]
    return sorted(points)


def _panel(
    axes: Axes, lines: dict[str, list[tuple[int, float]]], measured: list[tuple[int, float]], title: str
) -> None:
    for (name, points), marker, line in zip(lines.items(), _MARKERS, _LINES, strict=True):
        axes.plot(*zip(*points, strict=True), line, marker=marker, color=svg.DIFFUSION, markersize=5, label=name)
    if measured:
        axes.plot(*zip(*measured, strict=True), "x", color=svg.INK, markersize=7, label="measured")
    axes.axhline(1, color=svg.AUTOREGRESSIVE, linestyle="--", linewidth=1)
    log2_axis(axes, sorted({batch for points in lines.values() for batch, _ in points}), "batch size")
    log_axis(axes, "speed-up over autoregressive")
    axes.set_title(title, fontsize=10, loc="left", pad=5)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(-0.02, -0.17), borderaxespad=0)


def _steps(found: Assumptions) -> str:
    return counted(found.cell.num_steps or 0, "step")


def _answer(found: Assumptions) -> str:
    batch = found.fixed[-1][0]
    at = {name: points[-1][1] for name, points in found.routings.items()}
    low, high = min(at, key=lambda name: at[name]), max(at, key=lambda name: at[name])
    static, compacted = found.replayed[-1][1], found.compacted[-1][1]
    waiting, saved = (percent(max(0.0, points[-1][1])) for points in (found.straggler_share, found.saved_share))
    return (
        f"Predicted at the floors, with {setting(found.cell)} at batch {batch}: {low} routing gives {ratio(at[low])}, "
        f"{high} routing {ratio(at[high])}. With steps drawn from {found.histogram} (at most {found.cap}) it is "
        f"{ratio(static)}: a static batch spends {waiting} of its steps on rows that are done. With compaction it "
        f"spends none on them, which saves {saved} of the time and gives {ratio(compacted)}."
    )
