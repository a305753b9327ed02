"""Both decoders on devices that nobody here may have: predicted curves, beside what was measured and published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from harness.analysis.analyse import Analysis
from harness.analysis.efficiency import MEASURED
from harness.analysis.prediction import DevicePrediction, Predictions
from harness.records.types import AUTOREGRESSIVE, BLOCK_DIFFUSION
from harness.report import svg
from harness.report.figures.base import Figure, NotDrawn, captioned, range_bar, thousands
from harness.report.figures.prediction_words import answer, caption, short_name, table

QUESTION = "What would other GPUs do?"
_MOST_PANELS, _PANELS_A_ROW = 6, 3
_PANEL_IN, _LEGEND_IN = 2.15, 0.65
# Drawn first after the page's own devices; the table has all of them.
_FIRST = ("h100", "h200", "b200", "rtx5090", "rtx_pro_6000", "dgx_spark")
_STYLES: dict[str, tuple[str, Literal["-", "--"], str]] = {
    BLOCK_DIFFUSION: (svg.DIFFUSION, "-", "o"),
    AUTOREGRESSIVE: (svg.AUTOREGRESSIVE, "--", "s"),
}
_PUBLISHED_MARKER = "D"  # predicted curves have no markers at all
_SIZE_ALIKE, _SIZE_OTHER = 5.5, 4.0


def prediction(analysis: Analysis, name: str) -> Figure:
    """Small multiples of a few devices, and a table of every device file with roofs."""
    found = analysis.predictions
    if not found.devices:
        raise NotDrawn("no device file has roofs")
    shown = _chosen(found, analysis)
    panel_rows = -(-len(shown) // _PANELS_A_ROW)
    speeds = _speeds(found, shown)
    with svg.style():
        drawing, foot = captioned(caption(found), panel_rows * _PANEL_IN + _LEGEND_IN)
        height_in = drawing.get_size_inches()[1]
        for i, one in enumerate(shown):
            column, line = i % _PANELS_A_ROW, i // _PANELS_A_ROW
            bottom = foot + ((panel_rows - 1 - line) * _PANEL_IN + 0.42) / height_in
            axes = drawing.add_axes((0.07 + column * 0.315, bottom, 0.285, (_PANEL_IN - 0.62) / height_in))
            _scales(axes, speeds, has_labels=column == 0, is_last=i + _PANELS_A_ROW >= len(shown))
            _panel(axes, one, found)
        drawing.legend(handles=_legend(found, shown), loc="upper left", ncols=4, frameon=False, fontsize=8.5)
        said = answer(found)
        picture = svg.to_svg(drawing, name=name, title=QUESTION, description=said)
    return Figure(answer=said, next_step=_next_step(found), rows_filter=None, picture=picture, table=table(found))


def _chosen(found: Predictions, analysis: Analysis) -> list[DevicePrediction]:
    by_name = {one.device.name: one for one in found.devices}
    own = [run.device.name for run in analysis.runs.values()]
    names = [name for name in dict.fromkeys([*own, *_FIRST, *by_name]) if name in by_name]
    return [by_name[name] for name in names[:_MOST_PANELS]]


def _panel(axes: Axes, one: DevicePrediction, found: Predictions) -> None:
    stroke: dict[str, Any] = {"marker": "|", "markevery": [-1], "markersize": 9, "markeredgewidth": 1.4}
    end = stroke if one.ends_at_memory else {}
    for decoding, (colour, line, _) in _STYLES.items():
        batches, floors = zip(*one.floors[decoding], strict=True)
        axes.plot(batches, floors, line, color=colour, linewidth=1.0, alpha=0.75, **end)
        share = found.efficiencies.get(decoding)
        if share is not None:
            low, high = ([floor * part for floor in floors] for part in (share.low, share.high))
            axes.fill_between(batches, low, high, color=colour, alpha=0.16, linewidth=0)
            axes.plot(batches, [floor * share.median for floor in floors], line, color=colour, linewidth=2.2, **end)
    for point in found.points.get(one.device.name, ()):
        marker = _marker(point.source, _STYLES[point.decoding][2], is_alike=not point.differs)
        axes.plot(point.batch_size, point.tok_s, color=_STYLES[point.decoding][0], **marker)
    for crossing in one.crossings(found.advantage or 1.0):
        axes.axvline(crossing, color=svg.INK, linestyle=":", linewidth=1.0)
    range_bar(axes, one.crossover_range(found.advantage or 1.0))
    title = f"{short_name(one)}, {one.form.name}" + ("" if one.fits else " (does not fit)")
    axes.set_title(title, fontsize=9, loc="left", pad=3)


def _marker(source: str, marker: str, *, is_alike: bool) -> dict[str, Any]:
    """Filled where a point is comparable with its curve, small and hollow where it is not."""
    shape = {"marker": marker if source == MEASURED else _PUBLISHED_MARKER, "linestyle": ""}
    return {**shape, "markersize": _SIZE_ALIKE} if is_alike else {
        **shape, "markersize": _SIZE_OTHER, "markerfacecolor": "none", "markeredgewidth": 1.2
    }  # fmt: skip


def _speeds(found: Predictions, shown: Sequence[DevicePrediction]) -> list[float]:
    """What the panels show, but for the shares' bands."""
    floors = [floor for one in shown for points in one.floors.values() for _, floor in points]
    return [min(floors) / 4, *floors, *(p.tok_s for one in shown for p in found.points.get(one.device.name, ()))]


def _scales(axes: Axes, speeds: Sequence[float], *, has_labels: bool, is_last: bool) -> None:
    """The same in every panel, so that heights can be compared across them."""
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlim(0.8, 640)
    axes.set_ylim(min(speeds) / 1.8, max(speeds) * 1.5)
    axes.xaxis.set_major_locator(FixedLocator([1, 16, 256]))
    axes.yaxis.set_major_locator(LogLocator(base=10))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: thousands(value)))
    axes.tick_params(labelsize=8.5, labelleft=has_labels, labelbottom=is_last)
    if has_labels:
        axes.set_ylabel("tok/s, whole batch", fontsize=8.5)
    if is_last:
        axes.set_xlabel("batch size", fontsize=8.5)


def _legend(found: Predictions, shown: Sequence[DevicePrediction]) -> list[Line2D]:
    handles = [
        Line2D([], [], color=colour, linestyle=line, linewidth=2, label=f"{decoding.replace('_', ' ')}, predicted")
        for decoding, (colour, line, _) in _STYLES.items()
    ]
    handles.append(Line2D([], [], color=svg.MUTED, linewidth=1, label="thin: floor"))
    handles.append(Line2D([], [], color=svg.MUTED, linewidth=3, label="crossover's range"))
    drawn = [point for one in shown for point in found.points.get(one.device.name, ())]
    for source, is_alike in sorted({(point.source, not point.differs) for point in drawn}):
        label = source + ("" if is_alike else ", otherwise (table)")
        handles.append(Line2D([], [], color=svg.INK, label=label, **_marker(source, "o", is_alike=is_alike)))
    return handles


def _next_step(found: Predictions) -> str:
    if any(one.source == MEASURED for one in found.efficiencies.values()):
        return "measure one more device: report takes several runs, and shows how well one foretells the other."
    return (
        "run suite=claims on a GPU that you have: its floor shares take the place of the published ones, which come "
        "from several engines."
    )
