"""Throughput against the number of denoising steps: how many are affordable before autoregressive decoding wins."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from harness.analysis.rows import CellRow
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
from harness.report.wording import is_clear, listed

QUESTION = "How many steps can block diffusion afford?"


def steps(part: Slice, name: str) -> Figure:
    """One line per block length at the smallest batch, and the autoregressive twin as a horizontal line."""
    at_smallest = fastest_first(part.diffusion)
    if not at_smallest:
        raise NotDrawn("no finished block-diffusion cell")
    if len({row.cell.num_steps for row in at_smallest}) < 2:
        raise NotDrawn("one number of steps was measured; give axes.num_steps several")
    best = at_smallest[0]
    twin = next((row for row in measured(part.autoregressive) if row.cell_id == best.twin_id), None)
    with svg.style():
        drawing, foot = drawing_with_caption(part, 3.7, ROUNDS)
        axes = drawing.add_axes((0.085, foot + 0.13, 0.735, 0.845 - foot))
        _draw(axes, part, at_smallest, twin)
        line = sorted(
            (row for row in at_smallest if row.cell.block_length == best.cell.block_length),
            key=lambda row: row.cell.num_steps or 0,
        )
        answer = _answer(line)
        picture = svg.to_svg(drawing, name=name, title=QUESTION, description=answer)
    return Figure(
        answer=answer,
        next_step=_next_step(part, line),
        rows_filter=f"batch_size={best.cell.batch_size}",
        picture=picture,
    )


def _draw(axes: Axes, part: Slice, rows: Sequence[CellRow], twin: CellRow | None) -> None:
    ends = []
    best_block = rows[0].cell.block_length
    for block in sorted({row.cell.block_length or 0 for row in rows}):
        line = sorted((row for row in rows if row.cell.block_length == block), key=lambda row: row.cell.num_steps or 0)
        counts = [row.cell.num_steps or 0 for row in line]
        summaries = [row.metrics["useful_tok_s"] for row in line]
        is_main = block == best_block
        width, size, alpha = (2.2, 6.0, 1.0) if is_main else (1.1, 3.5, 0.55)
        values = [s.value for s in summaries]
        axes.plot(counts, values, "-o", color=svg.DIFFUSION, linewidth=width, markersize=size, alpha=alpha)
        if is_main:
            band(axes, counts, summaries, svg.DIFFUSION)
        ends.append((counts[-1], values[-1], f"block {part.block_label(block)}", svg.INK if is_main else svg.MUTED))
    every_count = [row.cell.num_steps or 0 for row in rows]
    if twin is not None:
        summary = twin.metrics["useful_tok_s"]
        axes.axhline(summary.value, linestyle="--", color=svg.AUTOREGRESSIVE, linewidth=2.2)
        axes.axhspan(summary.minimum, summary.maximum, color=svg.AUTOREGRESSIVE, alpha=0.18, linewidth=0)
        axes.plot([min(every_count)], [summary.value], "s", color=svg.AUTOREGRESSIVE, markersize=6)
        ends.append((max(every_count), summary.value, "autoregressive", svg.INK))
    bound = "" if part.stopping == "fixed" else "at most so many "
    log2_axis(axes, every_count, f"{bound}denoising steps per canvas, at batch {rows[0].cell.batch_size}")
    log_axis(axes, "useful tokens per second, whole batch")
    end_labels(axes, ends)


def _answer(line: list[CellRow]) -> str:
    """Of one block length at one batch, fewest steps first: the step counts at which each side is faster."""
    cell = line[0].cell
    where = f"At batch {cell.batch_size} with {cell.block_length}-token blocks"
    known = [row for row in line if "speedup_vs_ar" in row.metrics]
    if not known:
        return f"{where} there is no comparison: {line[0].missing.get('speedup_vs_ar', 'no speed-up')}."
    clear = {
        row.cell.num_steps: row.metrics["speedup_vs_ar"].value
        for row in known
        if is_clear(row.metrics["speedup_vs_ar"])
    }
    faster = [steps for steps, value in clear.items() if value > 1]
    slower = [steps for steps in clear if steps not in faster]
    unclear = [row.cell.num_steps for row in known if row.cell.num_steps not in clear]
    sides = (("faster", faster), ("slower", slower), ("within the noise of autoregressive decoding", unclear))
    parts = [f"{side} at {listed(counts)} steps" for side, counts in sides if counts]
    every = " (every measured number of steps)" if len(parts) == 1 else ""
    return f"{where}, block diffusion is {listed(parts)}{every}."


def _next_step(part: Slice, line: list[CellRow]) -> str:
    if not part.run.is_trained:
        return "find out with trained weights how many steps your text needs; random ones cannot say."
    if part.stopping == "adaptive":
        return "compare with the steps per canvas that the model really took, in the table."
    known = [row for row in line if "speedup_vs_ar" in row.metrics]
    wins = [row.cell.num_steps for row in known if is_clear(s := row.metrics["speedup_vs_ar"]) and s.value > 1]
    if known and not wins:
        return (
            f"fewer than {line[0].cell.num_steps} steps may turn it: add them to axes.num_steps, and see what they "
            "leave of the text's quality; here it is speed alone."
        )
    counts = f"{wins[-1]} steps" if wins else "so few steps"
    return f"check the quality of the text with {counts}; here it is speed alone."
