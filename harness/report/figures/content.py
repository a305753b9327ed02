"""Steps per canvas by kind of prompt: the content decides how many steps adaptive stopping takes."""

from __future__ import annotations

from matplotlib.axes import Axes

from harness.analysis.canvases import FEWEST_FOR_TENTHS, Category, by_category, quantile
from harness.analysis.rows import CellRow
from harness.records.texts import short
from harness.report import svg
from harness.report.figures.base import Figure, NotDrawn, drawing_with_caption, measured
from harness.report.slices import Slice
from harness.report.wording import counted, percent, setting

QUESTION = "Which prompts need many steps?"
_BANDS = "bars: from the 10th to the 90th percentile of canvases; line: half of them have stopped; dot: mean"
_ROW_IN, _MOST_ROWS = 0.32, 24


def content(part: Slice, name: str) -> Figure:
    """A bar a category, at the largest cap, over all batches: a row's steps do not depend on its neighbours."""
    rows = adaptive_rows(part)
    every = sorted(
        (one for one in by_category(part.run, rows) if one.taken), key=lambda one: (one.mean_steps or 0, one.name)
    )
    if not every:
        raise NotDrawn("the backend counted no steps")
    shown = every[-_MOST_ROWS:]
    with svg.style():
        drawing, foot = drawing_with_caption(part, 1.15 + _ROW_IN * len(shown), _BANDS)
        height_in = drawing.get_size_inches()[1]
        axes = drawing.add_axes((0.23, foot + 0.5 / height_in, 0.5, 1 - foot - 0.75 / height_in))
        _draw(axes, shown)
        answer = _answer(part, rows[0], every)
        picture = svg.to_svg(drawing, name=name, title=QUESTION, description=answer)
    return Figure(answer=answer, next_step=_next_step(every), rows_filter=_rows_filter(rows[0]), picture=picture)


def adaptive_rows(part: Slice) -> list[CellRow]:
    """Those with the largest cap and, if it was measured, the trained block length.

    Raises:
        NotDrawn: there is none.
    """
    rows = [row for row in measured(part.diffusion) if row.cell.stopping == "adaptive"]
    if not rows:
        raise NotDrawn("adaptive stopping was not measured, and fixed steps are the same for every prompt")
    best = max(rows, key=lambda row: (not part.is_untrained(row.cell.block_length), row.cell.num_steps or 0))
    wanted = (best.cell.block_length, best.cell.num_steps)
    return [row for row in rows if (row.cell.block_length, row.cell.num_steps) == wanted]


def _rows_filter(row: CellRow) -> str:
    return f"stopping=adaptive block_length={row.cell.block_length} num_steps={row.cell.num_steps}"


def _draw(axes: Axes, shown: list[Category]) -> None:
    cap = shown[0].cap or 0
    for y, one in enumerate(shown):
        low, middle, high = (quantile(one.taken, share) for share in (0.1, 0.5, 0.9))
        if low is not None and high is not None and middle is not None:
            axes.barh(y, high - low + 0.5, left=low - 0.25, height=0.5, color=svg.DIFFUSION, alpha=0.35)
        if middle is not None:
            axes.vlines(middle, y - 0.3, y + 0.3, color=svg.DIFFUSION, linewidth=3)
        axes.plot([one.mean_steps or 0], [y], "o", color=svg.INK, markersize=4)
        note = f"max {max(one.taken)}; {percent(one.cap_share or 0)} at the cap"
        axes.text(1.02, y, note, transform=axes.get_yaxis_transform(), fontsize=8.5, va="center")
    axes.axvline(cap, color=svg.INK, linestyle=":", linewidth=1.2)
    axes.set_yticks(range(len(shown)), [short(one.name, 28) for one in shown], fontsize=9)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.set_xlim(0, cap * 1.03 + 0.5)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"steps that a canvas took, of at most {cap}")


def _answer(part: Slice, row: CellRow, every: list[Category]) -> str:
    canvases = sum(one.taken.total() for one in every)
    capped = sum(one.taken[one.cap or 0] for one in every)
    steps = sum(steps * count for one in every for steps, count in one.taken.items())
    where = f"With {setting(row.cell)}"
    least, most = every[0], every[-1]
    told = f"{where}, a canvas takes {most.mean_steps:.3g} steps on average for {short(most.name)}"
    if len(every) > 1:
        told += f" and {least.mean_steps:.3g} for {short(least.name)}"
    share = (row.cell.num_steps or 0) * capped / steps
    told += f"; {percent(capped / canvases)} of {counted(canvases, 'canvas')} run to the cap and take {percent(share)}"
    few = [one.name for one in every if one.taken.total() < FEWEST_FOR_TENTHS]
    less = f" Fewer than {FEWEST_FOR_TENTHS} canvases, so without a bar: {', '.join(map(short, few))}." if few else ""
    return f"{told} of all steps.{less}"


def _next_step(every: list[Category]) -> str:
    if any(one.cap_share for one in every):
        return "look at what the canvases at the cap answered: a lower cap saves their steps if it costs no quality."
    return "measure the prompts that you serve: a speed-up holds for their content alone."
