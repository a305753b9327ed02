"""Throughput against batch: where one decoder overtakes the other."""

from __future__ import annotations

from matplotlib.axes import Axes

from harness.analysis.crossover import Crossing, Line, line_key, lines_of
from harness.analysis.rows import MISSING, CellRow
from harness.records.types import BLOCK_DIFFUSION, PRUNED
from harness.report import svg
from harness.report.figures.base import (
    ROUNDS,
    Figure,
    NotDrawn,
    band,
    drawing_with_caption,
    end_labels,
    fastest_first,
    log2_axis,
    log_axis,
    measured,
)
from harness.report.slices import Slice
from harness.report.wording import AUTOREGRESSIVE_NAME, batch, counted, lead_of, listed, setting, steps_in_short, tok_s

QUESTION = "Up to which batch does block diffusion win?"
_MARK_IN = 1.1  # the width of a crossing's label


def throughput(part: Slice, name: str) -> Figure:
    """The fastest setting at the smallest batch, the other block lengths at as many steps, and autoregressive."""
    if not measured(part.rows):
        raise NotDrawn("no finished cell")
    best, others = best_and_others(part)
    with svg.style():
        drawing, foot = drawing_with_caption(part, 3.9, ROUNDS)
        axes = drawing.add_axes((0.085, foot + 0.125, 0.735, 0.85 - foot))
        _draw(axes, part, best, others)
        answer = _answer(part, best)
        picture = svg.to_svg(drawing, name=name, title=QUESTION, description=answer)
    return Figure(answer=answer, next_step=_next_step(part, best), rows_filter=_rows_filter(best), picture=picture)


def best_and_others(part: Slice) -> tuple[Line | None, list[Line]]:
    """The line of the setting that is fastest at the smallest batch, and the other block lengths at as many steps."""
    lines = {line_key(line.cells[0].cell): line for line in lines_of(part.diffusion)}
    best = next((lines[line_key(row.cell)] for row in fastest_first(part.diffusion)), None)
    return best, [line for line in lines.values() if best and line is not best and _same_steps(line, best)]


def _same_steps(line: Line, best: Line) -> bool:
    return line.cells[0].cell.num_steps == best.cells[0].cell.num_steps


def _draw(axes: Axes, part: Slice, best: Line | None, others: list[Line]) -> None:
    ends, shown = plot_lines(axes, part, best, others)
    log2_axis(axes, [row.cell.batch_size for row in shown], "batch size (requests decoded together)")
    log_axis(axes, "useful tokens per second, whole batch")
    end_labels(axes, ends)
    for crossing in best.crossings if best else []:
        mark(axes, crossing)


def plot_lines(
    axes: Axes, part: Slice, best: Line | None, others: list[Line], *, has_small_markers: bool = True
) -> tuple[list[tuple[float, float, str, str]], list[CellRow]]:
    """Draw all lines of the slice; return what their end labels need, and the cells that were drawn.

    has_small_markers: whether the other lines have theirs, each of which is an element of the page.
    """
    ends = []
    shown: list[CellRow] = []
    for line in [*others, *([best] if best else [])]:
        rows = measured(line.cells)
        if rows:
            is_main = line is best
            ends.append(_plot(axes, part, rows, is_main=is_main, has_markers=is_main or has_small_markers))
            shown += rows
    autoregressive = measured(part.autoregressive)
    if autoregressive:
        ends.append(_plot(axes, part, autoregressive, is_main=True))
        shown += autoregressive
    return ends, shown


def _plot(
    axes: Axes, part: Slice, rows: list[CellRow], *, is_main: bool, has_markers: bool = True
) -> tuple[float, float, str, str]:
    """Draw one line with its band, and return what its end label needs."""
    batches = [row.cell.batch_size for row in rows]
    summaries = [row.metrics["useful_tok_s"] for row in rows]
    values = [s.value for s in summaries]
    first = rows[0].cell
    colour, line_style, marker, label = svg.AUTOREGRESSIVE, "--", "s", "autoregressive"
    if first.block_length is not None:
        colour, line_style, marker = svg.DIFFUSION, "-", "o"
        label = f"block {part.block_label(first.block_length)}" + (f", {steps_in_short(first)}" if is_main else "")
    marker = marker if has_markers or len(rows) == 1 else ""
    width, size, alpha = (2.2, 6.0, 1.0) if is_main else (1.1, 3.5, 0.55)
    axes.plot(batches, values, line_style, color=colour, marker=marker, linewidth=width, markersize=size, alpha=alpha)
    if is_main:
        band(axes, batches, summaries, colour)
    return batches[-1], values[-1], label, svg.INK if is_main else svg.MUTED


def mark(axes: Axes, crossing: Crossing) -> None:
    """A dotted line at a crossing; its label stands at the foot, where no line of a throughput figure runs."""
    axes.axvline(crossing.batch_size, color=svg.INK, linestyle=":", linewidth=1.2)
    text = f"equal at {batch(crossing.batch_size)}" + ("\n(interpolated)" if crossing.interpolated else "")
    position = axes.transData.transform((crossing.batch_size, 1))[0]
    width_in = axes.get_position().width * svg.WIDTH_IN
    is_left = axes.transAxes.inverted().transform((position, 0))[0] < 1 - _MARK_IN / width_in
    axes.annotate(
        text,
        (crossing.batch_size, 0.02),
        xycoords=axes.get_xaxis_transform(),
        xytext=(5 if is_left else -5, 0),
        textcoords="offset points",
        fontsize=8.5,
        ha="left" if is_left else "right",
        va="bottom",
    )


def _answer(part: Slice, best: Line | None) -> str:
    if best is None:
        row = fastest_first(part.autoregressive)[0]
        value = tok_s(row.metrics["useful_tok_s"].value)
        return (
            f"No block-diffusion cell finished here; {AUTOREGRESSIVE_NAME} gives {value} useful tok/s "
            f"at batch {row.cell.batch_size}."
        )
    with_setting = f"With {setting(best.cells[0].cell)}"
    speedups = best.speedups
    if not speedups:
        row = measured(best.cells)[0]
        value = tok_s(row.metrics["useful_tok_s"].value)
        why = row.missing.get("speedup_vs_ar", "")
        return f"{with_setting} it gives {value} useful tok/s at batch {row.cell.batch_size}; no comparison: {why}."
    at_ends = [f"at batch {size} {lead_of(summary)}" for size, summary in (speedups[0], speedups[-1])]
    full = [row.cell.batch_size for row in best.cells if row.status == "oom"]
    memory = f"; out of memory at batch {listed(full)}" if full else ""
    pruned = [row.cell.batch_size for row in best.cells if row.status == PRUNED]
    memory += f", so batch {listed(pruned)} was not tried" if pruned else ""
    if len(speedups) == 1:
        return f"{with_setting}, {at_ends[0]}; no other batch was compared{memory}."
    return f"{with_setting}, {crossings_of(best)}: {'; '.join(at_ends)}{memory}."


def crossings_of(line: Line) -> str:
    crossings, speedups = line.crossings, line.speedups
    if not crossings:
        side = "faster" if speedups[0][1].value > 1 else "slower"
        if all(summary.value == 1 for _, summary in speedups):
            return "both are equally fast at every batch where they ran"
        return f"block diffusion is {side} at every batch where both ran, so there is no crossover"
    where = listed([_where(crossing) for crossing in crossings])
    if len(crossings) > 1:
        return f"the lead changes at a batch of about {where}"
    side = "up to" if crossings[0].slower_from_here == BLOCK_DIFFUSION else "only from"
    return f"block diffusion is faster {side} a batch of about {where}"


def _where(crossing: Crossing) -> str:
    text = batch(crossing.batch_size)
    if crossing.interpolated:
        text += f" (interpolated between {crossing.between[0]} and {crossing.between[1]}"
        return text + ("" if crossing.is_clear else "; noise could move it") + ")"
    return text


def _next_step(part: Slice, best: Line | None) -> str:
    absent = sum(1 for row in part.rows if row.status == MISSING)
    if absent:
        return f"finish the run, which lacks {counted(absent, 'cell')} of this picture; the same command goes on."
    if best is None or not best.speedups:
        return "measure both decoders in one run; the plan adds each cell's autoregressive twin by itself."
    between = between_crossings(best)
    sizes = [size for size, _ in best.speedups]
    if between:
        return f"measure inside the gap to pin the crossover: add {listed(between)} to axes.batch_size."
    if best.crossings:
        return "choose by your load: below the crossover one decoder, above it the other."
    if best.speedups[-1][1].value > 1:
        return f"extend the sweep until the lead ends: add {2 * sizes[-1]} to axes.batch_size."
    return "see below whether fewer steps or another block length turns it, and how far each side is from its floor."


def between_crossings(line: Line) -> list[int]:
    """Batch sizes that would pin the line's crossings."""
    gaps = (crossing.between for crossing in line.crossings if crossing.interpolated)
    return [round((low * high) ** 0.5) for low, high in gaps if high > low + 1]


def _rows_filter(best: Line | None) -> str:
    """Rows with the best line's steps, or with none: the autoregressive ones."""
    return "decoding=autoregressive" if best is None else f"num_steps={best.cells[0].cell.num_steps}|"
