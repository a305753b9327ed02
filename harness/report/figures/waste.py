"""What a static batch of block diffusion computes for nothing: empty places of canvases, and rows that wait."""

from __future__ import annotations

from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from harness.analysis.rows import CellRow
from harness.report import svg
from harness.report.figures.base import Figure, NotDrawn, drawing_with_caption, log2_axis, measured
from harness.report.figures.compared import ADAPTIVE_MARKER
from harness.report.slices import Slice
from harness.report.wording import listed, percent, setting

QUESTION = "What is lost to short answers and to waiting for the slowest row?"
_BANDS = "points: medians of rounds, their mean over prompt sets"
_NOTHING = 1e-9
_METRICS = {"canvas_fill": "canvas fill", "straggler_share": "work lost to stragglers"}

Points = list[tuple[int, float]]  # (batch, share)


def waste(part: Slice, name: str) -> Figure:
    """Each stopping rule at its most steps, at one block length; autoregressive rows wait for the longest, too."""
    lines = _lines(part)
    diffusion = [rows for rows in lines.values() if not rows[0].is_autoregressive]
    if not diffusion:
        raise NotDrawn("no finished block-diffusion cell")
    fill = [share for rows in diffusion for _, share in _points(rows, "canvas_fill")]
    lost = [share for rows in lines.values() for _, share in _points(rows, "straggler_share")]
    if not fill:
        raise NotDrawn("the backend counted no steps")
    if min(fill) > 1 - _NOTHING and max(lost, default=0) < _NOTHING:
        raise NotDrawn("every canvas is full and no row waits: all rows take as many steps and give as many tokens")
    with svg.style():
        drawing, foot = drawing_with_caption(part, 3.2, _BANDS)
        for i, metric in enumerate(_METRICS):
            axes = drawing.add_axes((0.085 + 0.48 * i, foot + 0.15, 0.40, 0.75 - foot))
            _panel(axes, lines, metric)
        answer = _answer(lines)
        picture = svg.to_svg(drawing, name=name, title=QUESTION, description=answer)
    block_length = diffusion[0][0].cell.block_length
    return Figure(
        answer=answer, next_step=_next_step(lost), rows_filter=f"block_length={block_length}|", picture=picture
    )


def _lines(part: Slice) -> dict[str, list[CellRow]]:
    """What a line is called -> its rows: each stopping rule, and autoregressive decoding."""
    lines: dict[str, list[CellRow]] = {}
    known = measured(part.diffusion)
    blocks = {row.cell.block_length or 0 for row in known}
    block = max(blocks, key=lambda length: (not part.is_untrained(length), length), default=0)
    for stopping in ("adaptive", "replay", "fixed"):
        rows = [row for row in known if (row.cell.stopping, row.cell.block_length) == (stopping, block)]
        most = max((row.cell.num_steps or 0 for row in rows), default=0)
        if rows:
            lines[stopping] = [row for row in rows if row.cell.num_steps == most]
    autoregressive = measured(part.autoregressive)
    return {**lines, "autoregressive": autoregressive} if autoregressive else lines


def _points(rows: list[CellRow], metric: str) -> Points:
    by_batch: dict[int, list[float]] = {}
    for row in rows:
        if (value := row.value(metric)) is not None:
            by_batch.setdefault(row.cell.batch_size, []).append(value)
    return [(batch_size, fmean(values)) for batch_size, values in sorted(by_batch.items())]


def _panel(axes: Axes, lines: dict[str, list[CellRow]], metric: str) -> None:
    styles = {
        "adaptive": ("-", ADAPTIVE_MARKER, svg.DIFFUSION),
        "replay": ("-.", "^", svg.DIFFUSION),
        "fixed": ("-", "o", svg.DIFFUSION),
        "autoregressive": ("--", "s", svg.AUTOREGRESSIVE),
    }
    batches: set[int] = set()
    for name, rows in lines.items():
        line, marker, colour = styles[name]
        points = _points(rows, metric)
        face = "none" if name == "adaptive" else colour
        if points:
            axes.plot(*zip(*points, strict=True), line, marker=marker, color=colour, markerfacecolor=face, label=name)
        batches |= {batch_size for batch_size, _ in points}
    log2_axis(axes, sorted(batches) or [1], "batch size")
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
    axes.set_title(_METRICS[metric], fontsize=10, loc="left", pad=5)
    axes.legend(frameon=False, fontsize=8.5, loc="best")


def _answer(lines: dict[str, list[CellRow]]) -> str:
    told = []
    for name, rows in lines.items():
        if name == "autoregressive":
            continue
        fill = _points(rows, "canvas_fill")
        told.append(
            f"with {setting(rows[0].cell)} ({name}) a row fills {percent(fmean(share for _, share in fill))} of the "
            f"canvases that it takes part in, on average over batches, and {_lost(rows)}"
        )
    if "autoregressive" in lines:
        told.append(f"autoregressive decoding: {_lost(lines['autoregressive'])}")
    sentence = "; ".join(told)
    return sentence[0].upper() + sentence[1:] + "."


def _lost(rows: list[CellRow]) -> str:
    points = _points(rows, "straggler_share")
    if not points:
        return "what waiting costs was not counted"
    if max(share for _, share in points) < _NOTHING:
        return "no row waits for another"
    waiting = [point for point in points if point[0] > 1] or points  # a row alone waits for nobody
    ends = waiting[:1] if len(waiting) == 1 else [waiting[0], waiting[-1]]
    costs = [f"{percent(max(0.0, share))} of the work at batch {batch_size}" for batch_size, share in ends]
    return f"waiting for the slowest row costs {listed(costs)}"


def _next_step(lost: list[float]) -> str:
    if max(lost, default=0) > 0.2:
        return (
            "batch requests of like length and content, or let rows leave the batch: a static one waits for the last."
        )
    return "a shorter block length fills better where answers are short; see what it costs in speed above."
