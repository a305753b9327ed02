"""Both decoders under their device's roofs: whether memory or arithmetic holds them back, and how near they come."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from harness.analysis.floors import DATASHEET
from harness.analysis.metrics.registry import Missing
from harness.analysis.roofline import RooflinePoint, RoofLines, point_of, roofs_of
from harness.analysis.rows import CellRow
from harness.report import svg
from harness.report.figures.base import Figure, NotDrawn, drawing_with_caption, end_labels, measured, thinned, thousands
from harness.report.figures.sides import Side, sides
from harness.report.slices import Slice
from harness.report.wording import AUTOREGRESSIVE_NAME, BLOCK_DIFFUSION_NAME, listed, percent, setting

QUESTION = "Is it memory or arithmetic that limits it?"
_BANDS = (
    "whole requests; time is measured, bytes and FLOPs are by formula for the executed passes; hollow: with the "
    "expected number of distinct experts, for nobody counted them"
)
_MOST_BLOCKS = 4
_LINES = {"datasheet": "-", "measured": (0, (1, 1.5))}

Points = list[RooflinePoint]


def roofline(part: Slice, name: str) -> Figure:
    """The main setting's number of steps, over batches and block lengths, and autoregressive decoding."""
    lines = _lines(part)
    first = lines[0][0].row
    try:
        roofs = roofs_of(first, part.run)
    except Missing as why:
        raise NotDrawn(str(why)) from None
    with svg.style():
        drawing, foot = drawing_with_caption(part, 4.0, _BANDS)
        axes = drawing.add_axes((0.085, foot + 0.13, 0.67, 0.84 - foot))
        _scales(axes, lines, roofs)
        for roof in roofs:
            _roof(axes, roof)
        end_labels(axes, [_draw(axes, part, points) for points in lines])
        answer = _answer(lines, roofs[0])
        picture = svg.to_svg(drawing, name=name, title=QUESTION, description=answer)
    steps = next((points[0].row.cell.num_steps for points in lines if points[0].row.cell.num_steps), None)
    rows_filter = "decoding=autoregressive" if steps is None else f"num_steps={steps}|"
    return Figure(answer=answer, next_step=_next_step(lines), rows_filter=rows_filter, picture=picture)


def _lines(part: Slice) -> list[Points]:
    """One for each block length, the main one first, then the autoregressive one.

    Raises:
        NotDrawn: no cell has a place under its roofs.
    """
    both = sides(part)
    rows = [list(side.rows) for side in both]
    if not both[0].is_autoregressive:
        rows[:1] = _by_block(part, both[0])
    why = ""
    lines = []
    for one in rows:
        points = []
        for row in one:
            try:
                points.append(point_of(row, part.run))
            except Missing as reason:
                why = why or str(reason)
        lines += [points] if points else []
    if not lines:
        raise NotDrawn(why)
    return lines


def _by_block(part: Slice, main: Side) -> list[list[CellRow]]:
    cell = main.rows[0].cell
    alike = [row for row in measured(part.diffusion) if row.cell.num_steps == cell.num_steps]
    blocks = thinned(sorted({row.cell.block_length or 0 for row in alike}), _MOST_BLOCKS)
    blocks = list(dict.fromkeys([cell.block_length or 0, *blocks]))
    return [
        sorted((row for row in alike if row.cell.block_length == block), key=lambda row: row.cell.batch_size)
        for block in blocks
    ]


def _scales(axes: Axes, lines: Sequence[Points], roofs: Sequence[RoofLines]) -> None:
    """Logarithmic, with the points and every ridge inside."""
    every = [point for points in lines for point in points]
    ridges = [rate / roof.bandwidth_bytes_s for roof in roofs for rate in roof.flop_s.values()]
    xs = [point.flop_per_byte for point in every] + ridges
    ys = [point.flop_s for point in every] + [rate for roof in roofs for rate in roof.flop_s.values()]
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(min(xs) / 2, max(xs) * 3)
    axes.set_ylim(min(ys) / 2e12, max(ys) * 2 / 1e12)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(base=10))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: thousands(value)))
    axes.set_xlabel("FLOPs for each byte that memory must move")
    axes.set_ylabel("TFLOP/s of the request")


def _roof(axes: Axes, roof: RoofLines) -> None:
    left, right = axes.get_xlim()
    for dtype, rate in roof.flop_s.items():
        ridge = rate / roof.bandwidth_bytes_s
        xs = [left, max(left, ridge), right]
        ys = [min(rate, roof.bandwidth_bytes_s * x) / 1e12 for x in xs]
        axes.plot(xs, ys, linestyle=_LINES[roof.roof], color=svg.MUTED, linewidth=1.4)
        text = f"{roof.roof}: {dtype} {rate / 1e12:.3g} TFLOP/s, {roof.bandwidth_bytes_s / 1e9:,.4g} GB/s"
        axes.annotate(
            text, (right, rate / 1e12), xytext=(-2, 3), textcoords="offset points", fontsize=8, ha="right",
            color=svg.MUTED,
        )  # fmt: skip


def _draw(axes: Axes, part: Slice, points: Points) -> tuple[float, float, str, str]:
    """A line over batches, and what its end label needs."""
    cell = points[0].row.cell
    colour, style, marker = svg.DIFFUSION, "-", "o"
    label = f"block {part.block_label(cell.block_length or 0)}"
    if cell.block_length is None:
        colour, style, marker, label = svg.AUTOREGRESSIVE, "--", "s", "autoregressive"
    xs, ys = [point.flop_per_byte for point in points], [point.flop_s / 1e12 for point in points]
    axes.plot(xs, ys, style, color=colour, linewidth=1.0, alpha=0.6)
    for is_counted in (True, False):
        shown = [(x, y) for x, y, point in zip(xs, ys, points, strict=True) if point.experts_are_counted == is_counted]
        if shown:
            face = colour if is_counted else "none"
            axes.plot(*zip(*shown, strict=True), marker, color=colour, markerfacecolor=face, markersize=5.5)
    last = points[-1].row.cell.batch_size
    text = f"{label}, batch {last}" if len(points) == 1 else f"{label}, batch {points[0].row.cell.batch_size} to {last}"
    return xs[-1], ys[-1], text, svg.INK


def _answer(lines: Sequence[Points], roof: RoofLines) -> str:
    """The main setting and its baseline, at the smallest and the largest batch."""
    shown = [lines[0], *(points for points in lines[1:] if points[0].row.cell.block_length is None)]
    whose = "the data sheet's" if roof.roof == DATASHEET else "the measured"
    ridges = dict.fromkeys(_flops(point.ridge_flop_per_byte) for points in shown for point in points)
    batches = sorted({point.row.cell.batch_size for points in shown for point in points})
    told = []
    for batch_size in dict.fromkeys((batches[0], batches[-1])):
        at = [point for points in shown for point in points if point.row.cell.batch_size == batch_size]
        told.append(f"At batch {batch_size} {'; '.join(map(_told, at))}.")
    past = any(point.share > 1 for points in shown for point in points)
    doubt = " More than the time taken: the roof is not this machine's, or weights stay in a cache." if past else ""
    return f"By {whose} roofs the ridge is at {listed(list(ridges))} FLOPs a byte. {' '.join(told)}{doubt}"


def _told(point: RooflinePoint) -> str:
    cell = point.row.cell
    who = AUTOREGRESSIVE_NAME if cell.block_length is None else f"{BLOCK_DIFFUSION_NAME} with {setting(cell)}"
    limit = "arithmetic" if point.is_compute_bound else "memory"
    return (
        f"{who} computes {_flops(point.flop_per_byte)} of them: {limit} limits it, and at the roof takes "
        f"{percent(point.share)} of the time"
    )


def _flops(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _next_step(lines: Sequence[Points]) -> str:
    main = lines[0][0]
    if main.share < 0.5:
        return "it is far below its roof: see where a step's time goes before anything else."
    if main.is_compute_bound:
        return "right of the ridge only less or faster arithmetic helps: fewer steps, narrower dtypes, better kernels."
    return "left of the ridge fewer bytes help: narrower weights, or a larger batch, which is nearly free there."
