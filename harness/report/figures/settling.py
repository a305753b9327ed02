"""The step at which positions of a canvas settle: how left to right denoising really is."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes

from harness.analysis.canvases import FEWEST_FOR_TENTHS
from harness.analysis.rows import CellRow
from harness.analysis.settling import left_to_right, settled_rows
from harness.report import svg
from harness.report.figures.base import Figure, NotDrawn, drawing_with_caption, measured
from harness.report.slices import Slice
from harness.report.wording import counted, setting

QUESTION = "In which order do the positions of a canvas settle?"
_BANDS = f"band: from the 10th to the 90th percentile, where at least {FEWEST_FOR_TENTHS} canvases have the position"
_CLEAR_ORDER = 0.3  # of tau: from here on the sentence speaks of an order

Rows = list[list[int]]


def settling(part: Slice, name: str) -> Figure:
    """The setting with the most steps, adaptive if there is one, over all prompt sets."""
    cells = _chosen(part)
    rows = [row for cell in cells for record in part.run.ok_records(cell.cell_id) for row in settled_rows(record)]
    tau = left_to_right(rows)
    with svg.style():
        drawing, foot = drawing_with_caption(part, 3.5, _BANDS)
        axes = drawing.add_axes((0.085, foot + 0.135, 0.88, 0.83 - foot))
        _draw(axes, rows, tau)
        answer = _answer(cells[0], rows, tau)
        picture = svg.to_svg(drawing, name=name, title=QUESTION, description=answer)
    return Figure(answer=answer, next_step=_next_step(tau), rows_filter=_rows_filter(cells[0]), picture=picture)


def _chosen(part: Slice) -> list[CellRow]:
    """Cells of one setting whose settled steps were counted: of the batch that kept the most rows.

    Raises:
        NotDrawn: there is none.
    """
    known = [row for row in measured(part.diffusion) if row.is_settled]
    if not known:
        raise NotDrawn("the backend did not count when positions settle")
    known = [row for row in known if (row.cell.num_steps or 0) > 1]
    if not known:
        raise NotDrawn("with one step all positions settle at once")

    def rank(row: CellRow) -> tuple[bool, bool, int, int]:
        cell = row.cell
        trained = not part.is_untrained(cell.block_length)
        return trained, cell.stopping == "adaptive", cell.num_steps or 0, cell.batch_size

    best = max(known, key=rank)
    return [row for row in known if (rank(row), row.cell.block_length) == (rank(best), best.cell.block_length)]


def _rows_filter(row: CellRow) -> str:
    cell = row.cell
    return f"batch_size={cell.batch_size} block_length={cell.block_length} num_steps={cell.num_steps}"


def _draw(axes: Axes, rows: Rows, tau: float | None) -> None:
    at = _by_position(rows)
    places = list(range(1, len(at) + 1))
    means = [fmean(steps) for steps in at]
    axes.plot(places, means, "-", color=svg.DIFFUSION, linewidth=2.2)
    many = [(place, steps) for place, steps in zip(places, at, strict=True) if len(steps) >= FEWEST_FOR_TENTHS]
    if many:
        low, high = ([float(np.quantile(steps, q, method="inverted_cdf")) for _, steps in many] for q in (0.1, 0.9))
        axes.fill_between([place for place, _ in many], low, high, color=svg.DIFFUSION, alpha=0.18, linewidth=0)
        means += high
    axes.set_xlim(0.5, len(at) + 0.5)
    axes.set_ylim(0, max(means) * 1.18)  # room for tau above what is drawn
    axes.set_xlabel("position in the canvas (useful ones alone)")
    axes.set_ylabel("step at which it settled")
    text = "all settle at once" if tau is None else f"tau = {tau:.2f}"
    axes.text(0.015, 0.95, text, transform=axes.transAxes, fontsize=10, va="top")


def _by_position(rows: Rows) -> list[list[int]]:
    return [[row[i] for row in rows if i < len(row)] for i in range(max(map(len, rows)))]


def _answer(row: CellRow, rows: Rows, tau: float | None) -> str:
    where = f"With {setting(row.cell)}, over {counted(len(rows), 'canvas')} of the counting round"
    if tau is None:
        return f"{where}, all positions of a canvas settle at once, so there is no order."
    first, last = (fmean(steps) for steps in _ends(rows))
    return (
        f"{where}, positions settle {_order(tau)}: Kendall's tau between position and step is {tau:.2f} on average "
        f"(1 is strictly left to right, 0 no order); the first quarter of the useful positions settles at step "
        f"{first:.3g}, the last at step {last:.3g}."
    )


def _ends(rows: Rows) -> tuple[Sequence[int], Sequence[int]]:
    """The settled steps of every row's first and last quarter; a row of fewer than four positions has none."""
    long = [row for row in rows if len(row) >= 4] or rows
    quarters = [max(1, len(row) // 4) for row in long]
    first = [step for row, n in zip(long, quarters, strict=True) for step in row[:n]]
    return first, [step for row, n in zip(long, quarters, strict=True) for step in row[-n:]]


def _order(tau: float) -> str:
    if abs(tau) < _CLEAR_ORDER:
        return "in no clear order"
    return f"mostly from {'left to right' if tau > 0 else 'right to left'}"


def _next_step(tau: float | None) -> str:
    if tau is not None and tau >= _CLEAR_ORDER:
        return "where it goes from left to right, a shorter block length may lose little: compare block lengths."
    return "this is the order of decisions, not their quality: for that see the figures above."
