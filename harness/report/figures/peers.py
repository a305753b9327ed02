"""A step of this engine beside the same step of the suite's peer, on the same weights and prompts."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from harness.analysis.rows import CellRow
from harness.report import svg
from harness.report.figures.base import Figure, NotDrawn, drawing_with_caption, measured, thinned, thousands
from harness.report.peers import against_peer
from harness.report.slices import Slice
from harness.report.wording import ratio

QUESTION = "Is this engine faster than its peer?"
_BANDS = "lines: smallest to largest round; times are medians, ratios medians of round by round with their interval"
_ROW_IN, _MOST_BATCHES = 0.42, 8


def peers(part: Slice, name: str) -> Figure:
    """A line a cell from our time to the peer's: on a logarithmic axis equal distances are equal ratios."""
    pairs = _pairs(part)
    shown = set(thinned(sorted({ours.cell.batch_size for ours, _ in pairs}), _MOST_BATCHES))
    drawn = [pair for pair in pairs if pair[0].cell.batch_size in shown]
    with svg.style():
        drawing, foot = drawing_with_caption(part, 1.5 + _ROW_IN * len(drawn), _BANDS)
        height_in = drawing.get_size_inches()[1]
        axes = drawing.add_axes((0.28, foot + 0.5 / height_in, 0.5, 1 - foot - 1.0 / height_in))
        _draw(axes, part, drawn)
        answer = against_peer([ours for ours, _ in pairs], part.run.peer)
        picture = svg.to_svg(drawing, name=name, title=QUESTION, description=answer)
    return Figure(answer=answer, next_step=_next_step(pairs), rows_filter="", picture=picture)


def _pairs(part: Slice) -> list[tuple[CellRow, CellRow]]:
    """Of each batch autoregressive decoding and the fastest block diffusion, each with the same cell on the peer.

    Raises:
        NotDrawn: there is no such pair.
    """
    if not part.run.peer:
        raise NotDrawn("the suite has no peer; peer=transformers measures every cell on transformers as well")
    if part.cell.backend == part.run.peer:
        raise NotDrawn("these are the peer's own cells")
    known = [
        (row, part.peers[row.peer_id])
        for row in measured(part.rows)
        if row.peer_id in part.peers and "step_s" in row.metrics and "step_s" in part.peers[row.peer_id].metrics
    ]
    if not known:
        reasons = [f"{row.status}: {row.reason}" for row in part.peers.values() if row.reason]
        raise NotDrawn("no cell gave step times on both" + (f" ({reasons[0]})" if reasons else ""))
    best = {}
    for pair in sorted(known, key=lambda pair: pair[0].metrics["useful_tok_s"].value):
        best[pair[0].is_autoregressive, pair[0].cell.batch_size] = pair
    return [best[key] for key in sorted(best)]


def _draw(axes: Axes, part: Slice, pairs: Sequence[tuple[CellRow, CellRow]]) -> None:
    for y, (ours, theirs) in enumerate(pairs):
        colour = svg.AUTOREGRESSIVE if ours.is_autoregressive else svg.DIFFUSION
        own, other = (1e3 * row.metrics["step_s"].value for row in (ours, theirs))
        axes.plot([own, other], [y, y], ":", color=svg.MUTED, linewidth=1.2)
        for row, ink in ((ours, colour), (theirs, svg.INK)):
            step = row.metrics["step_s"]
            axes.hlines(y, 1e3 * step.minimum, 1e3 * step.maximum, color=ink, alpha=0.4, linewidth=4)
        axes.plot([own], [y], "o", color=colour, markersize=8)
        axes.plot([other], [y], "s", color=svg.INK, markersize=7, markerfacecolor="none", markeredgewidth=1.6)
        axes.text(1.02, y, _ratio(ours), transform=axes.get_yaxis_transform(), fontsize=8.5, va="center")
    axes.set_yticks(range(len(pairs)), [_label(part, ours) for ours, _ in pairs], fontsize=9)
    axes.set_ylim(len(pairs) - 0.5, -0.6)
    axes.grid(visible=False, axis="y")
    _time_axis(axes)
    legend = f"filled dot: {part.cell.backend}; hollow square: {part.run.peer}; at the right how many times as fast"
    axes.set_title(legend, fontsize=9, loc="left", pad=8)


def _time_axis(axes: Axes) -> None:
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    if high / low < 4:  # fewer than two ticks of 1, 2, 5 would fall into so short a range
        middle = (low * high) ** 0.5
        axes.set_xlim(min(low, middle / 2.1), max(high, middle * 2.1))
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: thousands(value)))
    axes.set_xlabel("ms a denoise step, or a decoded token of each row")


def _ratio(ours: CellRow) -> str:
    known = ours.metrics.get("peer_step_speedup")
    if known is None:
        return "no ratio: not of one process"
    return ratio(known.value) + ("" if known.n_rounds == 1 else f" ({ratio(known.low)} to {ratio(known.high)})")


def _label(part: Slice, row: CellRow) -> str:
    cell = row.cell
    if row.is_autoregressive:
        return f"batch {cell.batch_size}, a decoded token"
    return f"batch {cell.batch_size}, a step of {part.block_label(cell.block_length or 0)} tokens"


def _next_step(pairs: Sequence[tuple[CellRow, CellRow]]) -> str:
    ratios = [ours.metrics["peer_step_speedup"].value for ours, _ in pairs if "peer_step_speedup" in ours.metrics]
    if not ratios:
        return "measure both in one process where they fit together: a ratio takes rounds of one."
    if min(ratios) < 1:
        return "look at what the peer does better there: a speed-up over a weak baseline says little."
    return "measure the other peers that you would run instead, on the same weights."
