"""What a figure is, and what all figures share."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from harness.analysis.analyse import Analysis
from harness.analysis.crossover_range import CrossoverRange
from harness.analysis.rows import CellRow
from harness.analysis.summary import Summary
from harness.report import svg
from harness.report.slices import Slice, conditions

ROUNDS, PROMPTS = "bands: smallest to largest round", "bars and bands: 95 % intervals over prompts"
_CAPTION_CHARACTERS, _CAPTION_LINES = 148, 5
_CAPTION_LINE_IN = 0.165
_BAR_Y = 0.035  # of a crossover's range, as a share of the height


class NotDrawn(Exception):
    """A slice holds nothing that this figure could show; the message says what it lacks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Texts under a figure. The first column names its row; `numbers` are right-aligned, and `wide` ones may wrap."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: tuple[int, ...] = ()  # columns, counted from 0
    wide: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A drawn figure: its answer and next step are computed from the rows that it shows.

    rows_filter finds its rows among those of its slice in the table of all cells; the page adds the slice. None: its
    rows are no cells of a run, and stand in its own table.
    """

    answer: str
    next_step: str
    rows_filter: str | None
    picture: Markup
    table: Table | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class FigureKind:
    """A figure that every slice gets, or with is_wide every wide slice, under the question that it answers.

    draw_together draws slices that differ in their run alone as one figure, a panel each.
    """

    name: str
    question: str
    draw: Callable[[Slice, str], Figure]  # (slice, the picture's id on the page); raises NotDrawn
    is_wide: bool = False
    draw_together: Callable[[Sequence[Slice], str], Figure] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PageFigureKind:
    """A figure that the page has once, of all its runs together."""

    name: str
    question: str
    draw: Callable[[Analysis, str], Figure]  # (analysis, the picture's id on the page); raises NotDrawn


def drawing_with_caption(part: Slice, height_in: float, bands: str = "") -> tuple[Drawing, float]:
    """An empty figure with the conditions at its foot, and the share of its height that they take.

    bands: what its bands and bars mean, where it has any.
    """
    return captioned(conditions(part, bands), height_in)


def captioned(caption: str, height_in: float) -> tuple[Drawing, float]:
    """An empty figure with a text at its foot, and the share of its height that it takes."""
    lines = textwrap.wrap(caption, _CAPTION_CHARACTERS, max_lines=_CAPTION_LINES, placeholder=" ...")
    height_in += _CAPTION_LINE_IN * len(lines)
    drawing = svg.figure(height_in)
    text = "\n".join(lines)
    drawing.text(0.012, 0.012, text, fontsize=7.5, color=svg.MUTED, ha="left", va="bottom", linespacing=1.35)
    return drawing, (_CAPTION_LINE_IN * len(lines) + 0.08) / height_in


def measured(rows: Sequence[CellRow]) -> list[CellRow]:
    return [row for row in rows if "useful_tok_s" in row.metrics]


def fastest_first(rows: Sequence[CellRow]) -> list[CellRow]:
    """Measured rows at their smallest batch, fastest first; the same rule as the headline's."""
    known = measured(rows)
    smallest = min((row.cell.batch_size for row in known), default=None)
    at_smallest = [row for row in known if row.cell.batch_size == smallest]
    return sorted(at_smallest, key=lambda row: -row.metrics["useful_tok_s"].value)


def log2_axis(axes: Axes, values: Sequence[float], label: str) -> None:
    """A horizontal axis with a tick at each measured value that has room for one."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(_apart(sorted(set(values)))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlim(min(values) / 1.25, max(values) * 1.25)
    axes.set_xlabel(label)


def _apart(values: list[float]) -> list[float]:
    """The values without those that would stand too near the one before them."""
    gap = (values[-1] / values[0]) ** (1 / 18)
    kept = values[:1]
    for value in values[1:]:
        if value >= kept[-1] * gap:
            kept.append(value)
    return kept


def thinned(values: Sequence[int], most: int) -> list[int]:
    """At most so many of the values, evenly spaced, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def log_axis(axes: Axes, label: str) -> None:
    """A vertical logarithmic axis whose ticks read 20, 50, 1k and never as powers."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high / low < 4:  # fewer than two ticks of 1, 2, 5 would fall into so short a range
        middle = (low * high) ** 0.5
        axes.set_ylim(min(low, middle / 2.1), max(high, middle * 2.1))
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: thousands(value)))
    axes.set_ylabel(label)


def band(axes: Axes, places: Sequence[int], summaries: Sequence[Summary], colour: str) -> None:
    """From each place's smallest to its largest round; a bar where there is one place."""
    low, high = [s.minimum for s in summaries], [s.maximum for s in summaries]
    if len(places) == 1:
        axes.vlines(list(places), low, high, color=colour, alpha=0.4, linewidth=5)
    else:
        axes.fill_between(places, low, high, color=colour, alpha=0.18, linewidth=0)


def thousands(value: float) -> str:
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


def range_bar(axes: Axes, span: CrossoverRange) -> None:
    """At the foot, where diffusion loses its lead under one assumption or another; arrows where that lies outside."""
    smallest, largest = span.batches
    low, high = (min(max(place, smallest), largest) for place in (span.low, span.high))
    at_foot = axes.get_xaxis_transform()
    axes.plot([low, high], [_BAR_Y, _BAR_Y], color=svg.MUTED, linewidth=3, solid_capstyle="butt", transform=at_foot)
    for end, marker, is_outside in ((low, "<", span.low < smallest), (high, ">", span.high > largest)):
        if is_outside:
            axes.plot(end, _BAR_Y, marker, color=svg.MUTED, markersize=5, transform=at_foot)


def end_labels(axes: Axes, ends: Sequence[tuple[float, float, str, str]], *, gap_share: float = 0.055) -> None:
    """Names beside the axes for the ends of lines, moved apart where they would overlap, each with a leader.

    Args:
        ends: (x, y, text, colour) of each line's last point, on a logarithmic y axis.
        gap_share: smallest distance, as a share of the axis.
    """
    to_axes = axes.transData + axes.transAxes.inverted()
    points = [to_axes.transform((x, y)) for x, y, _, _ in ends]
    heights = svg.spread([float(point[1]) for point in points], min(gap_share, 1 / len(ends)))
    for (_, _, text, colour), point, height in zip(ends, points, heights, strict=True):
        leader = ([point[0], 1.01, 1.02], [point[1], height, height])
        axes.plot(*leader, ":", color=svg.MUTED, linewidth=0.7, transform=axes.transAxes, clip_on=False)
        axes.text(1.026, height, text, transform=axes.transAxes, color=colour, fontsize=9, va="center", ha="left")
