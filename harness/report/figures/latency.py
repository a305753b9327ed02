"""How long a user waits for the first block and for each further one, against the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes

from harness.analysis.latency import between_blocks_s, first_block_s, percentile, supported
from harness.analysis.run_data import Run
from harness.report import svg
from harness.report.figures.base import Figure, drawing_with_caption, log2_axis, log_axis
from harness.report.figures.sides import Side, batches_of, lacking, sides
from harness.report.slices import Slice
from harness.report.wording import setting

QUESTION = "What does a user feel?"
_BANDS = (
    "lines: percentiles 50 (thick), 90 and 99 (thin), each only where a sample lies beyond it; dots: every sample, "
    "where there are fewer than 20"
)
_FEW = 20  # samples: all of them are shown
_WIDTHS = {0.5: 2.2, 0.9: 1.4, 0.99: 0.7}

Times = dict[int, list[float]]  # batch -> sorted seconds


def latency(part: Slice, name: str) -> Figure:
    """Two panels, because the first block holds the prefill: until it is there, and from one block to the next."""
    lines = sides(part)
    with svg.style():
        drawing, foot = drawing_with_caption(part, 3.7, _BANDS)
        panels: list[tuple[str, Callable[[Run, str], list[float]]]] = [
            ("until the first block (autoregressive: the first token)", first_block_s),
            ("from one block to the next (from token to token)", between_blocks_s),
        ]
        for i, (title, read) in enumerate(panels):
            axes = drawing.add_axes((0.085 + 0.49 * i, foot + 0.14, 0.40, 0.75 - foot))
            _panel(axes, [(side, _times(part, side, read)) for side in lines], title)
        answer = _answer(part, lines)
        picture = svg.to_svg(drawing, name=name, title=QUESTION, description=answer)
    return Figure(answer=answer, next_step=_next_step(part, lines), rows_filter=lines[0].rows_filter, picture=picture)


def _times(part: Slice, side: Side, read: Callable[[Run, str], list[float]]) -> Times:
    times = {row.cell.batch_size: read(part.run, row.cell_id) for row in side.rows}
    return {batch_size: found for batch_size, found in times.items() if found}


def _panel(axes: Axes, drawn: Sequence[tuple[Side, Times]], title: str) -> None:
    axes.set_title(title, fontsize=10, loc="left", pad=5)
    known = [(side, times) for side, times in drawn if times]
    for side, times in known:
        _draw(axes, side, times)
    if not known:
        axes.text(0.5, 0.5, "every request had one block", transform=axes.transAxes, ha="center", color=svg.MUTED)
        axes.axis("off")
        return
    log2_axis(axes, batches_of([side for side, _ in drawn]), "batch size")
    log_axis(axes, "milliseconds")
    axes.legend(frameon=False, fontsize=8.5, loc="best")


def _draw(axes: Axes, side: Side, times: Times) -> None:
    for share, width in _WIDTHS.items():
        at = [(size, 1e3 * percentile(ms, share)) for size, ms in times.items() if share in supported(len(ms))]
        if at:
            label = side.name if share == 0.5 else None
            marker = side.marker if share == 0.5 else ""
            axes.plot(
                *zip(*at, strict=True), side.line, color=side.colour, linewidth=width, marker=marker, markersize=5,
                label=label,
            )  # fmt: skip
    dots = [(size, 1e3 * one) for size, samples in times.items() if len(samples) < _FEW for one in samples]
    svg.cloud(axes, dots, side.colour, is_round=not side.is_autoregressive, size=4)


def _answer(part: Slice, lines: Sequence[Side]) -> str:
    batches = batches_of(lines)
    settings = [f", with {setting(side.rows[0].cell)}" for side in lines if not side.is_autoregressive]
    told = []
    for batch_size in dict.fromkeys((batches[0], batches[-1])):
        each = [text for side in lines if (text := _told(part, side, batch_size))]
        told.append(f"At batch {batch_size} {'; '.join(each)}.")
    return f"Medians{''.join(settings)}. {' '.join(told)}{lacking(lines, 'no finished cell here')}"


def _told(part: Slice, side: Side, batch_size: int) -> str:
    row = next((row for row in side.rows if row.cell.batch_size == batch_size), None)
    if row is None:
        return ""
    first, between = first_block_s(part.run, row.cell_id), between_blocks_s(part.run, row.cell_id)
    tokens = "token" if side.is_autoregressive else f"{row.cell.block_length} tokens"
    further = f" and as many every {_spread(between)}" if between else ", which are the whole answer"
    if side.is_autoregressive:
        further = f" and another every {_spread(between)}" if between else ", which is the whole answer"
    return f"{side.name} shows its first {tokens} after {_spread(first)}{further}"


def _spread(ordered: Sequence[float]) -> str:
    """The median, the highest percentile that the samples support, and how many samples there are."""
    highest = max(supported(len(ordered)), default=0.5)
    beyond = f", {100 * highest:.0f} % within {_ms(percentile(ordered, highest))}" if highest > 0.5 else ""
    return f"{_ms(percentile(ordered, 0.5))} (n = {len(ordered):,}{beyond})"


def _ms(seconds: float) -> str:
    milliseconds = 1e3 * seconds
    return f"{milliseconds:,.0f} ms" if milliseconds >= 100 else f"{milliseconds:.3g} ms"


def _next_step(part: Slice, lines: Sequence[Side]) -> str:
    row = lines[0].rows[0]
    count = len(first_block_s(part.run, row.cell_id))
    if 0.99 not in supported(count):
        here = "here is 1" if count == 1 else f"here are {count:,}"
        return f"a service target speaks of the 99th percentile: that takes 100 requests a cell; {here}."
    return "set the target for the first block by the longest wait that a user accepts, and choose the batch below it."
