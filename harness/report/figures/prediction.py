"""Both decoders on devices that nobody here may have: predicted curves, beside what was measured and published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from harness.analysis.analyse import Analysis
from harness.analysis.prediction import PROMPT_TOKENS, DevicePrediction, Efficiency, Predictions, crossings_expected
from harness.analysis.run_data import GIVEN_PRICE
from harness.records.types import AUTOREGRESSIVE, BLOCK_DIFFUSION
from harness.report import svg
from harness.report.figures.base import Figure, NotDrawn, Table, captioned, thousands
from harness.report.wording import (
    AUTOREGRESSIVE_NAME,
    BLOCK_DIFFUSION_NAME,
    batch,
    counted,
    device_in_short,
    listed,
    percent,
    ratio,
    tok_s,
    whose_prices,
)

QUESTION = "What would other GPUs do?"
_MOST_PANELS, _PANELS_A_ROW = 6, 3
_PANEL_IN = 2.15
# Drawn first after the page's own devices; the table has all of them.
_FIRST = ("h100", "h200", "b200", "rtx5090", "rtx_pro_6000", "dgx_spark")
_STYLES: dict[str, tuple[str, Literal["-", "--"], str]] = {
    BLOCK_DIFFUSION: (svg.DIFFUSION, "-", "o"),
    AUTOREGRESSIVE: (svg.AUTOREGRESSIVE, "--", "s"),
}
_NAMES = {BLOCK_DIFFUSION: BLOCK_DIFFUSION_NAME, AUTOREGRESSIVE: AUTOREGRESSIVE_NAME}
PUBLISHED_MARKER = "D"  # published figures are hollow diamonds, and predicted curves have no markers at all


def prediction(analysis: Analysis, name: str) -> Figure:
    """Small multiples of a few devices, and a table of every device file with roofs."""
    found = analysis.predictions
    if not found.devices:
        raise NotDrawn("no device file has roofs")
    shown = _chosen(found, analysis)
    panel_rows = -(-len(shown) // _PANELS_A_ROW)
    with svg.style():
        drawing, foot = captioned(_caption(found), panel_rows * _PANEL_IN + 0.45)
        height_in = drawing.get_size_inches()[1]
        for i, one in enumerate(shown):
            column, line = i % _PANELS_A_ROW, i // _PANELS_A_ROW
            bottom = foot + ((panel_rows - 1 - line) * _PANEL_IN + 0.42) / height_in
            axes = drawing.add_axes((0.07 + column * 0.315, bottom, 0.285, (_PANEL_IN - 0.62) / height_in))
            _panel(axes, one, found, analysis)
            _scales(axes, shown, has_labels=column == 0, is_last=i + _PANELS_A_ROW >= len(shown))
        handles = _legend(found, analysis)
        drawing.legend(handles=handles, loc="upper left", ncols=len(handles), frameon=False, fontsize=8.5)
        answer = _answer(found)
        picture = svg.to_svg(drawing, name=name, title=QUESTION, description=answer)
    return Figure(answer=answer, next_step=_next_step(found), rows_filter=None, picture=picture, table=_table(found))


def _chosen(found: Predictions, analysis: Analysis) -> list[DevicePrediction]:
    by_name = {one.device.name: one for one in found.devices}
    own = [run.device.name for run in analysis.runs.values()]
    names = [name for name in dict.fromkeys([*own, *_FIRST, *by_name]) if name in by_name]
    return [by_name[name] for name in names[:_MOST_PANELS]]


def _panel(axes: Axes, one: DevicePrediction, found: Predictions, analysis: Analysis) -> None:
    for decoding, (colour, line, marker) in _STYLES.items():
        points = one.floors[decoding]
        batches, floors = [size for size, _ in points], [floor for _, floor in points]
        axes.plot(batches, floors, line, color=colour, linewidth=1.0, alpha=0.75)
        share = found.efficiencies.get(decoding)
        if share is not None:
            low, high = ([floor * part for floor in floors] for part in (share.low, share.high))
            axes.fill_between(batches, low, high, color=colour, alpha=0.16, linewidth=0)
            axes.plot(batches, [floor * share.median for floor in floors], line, color=colour, linewidth=2.2)
        measured = _measured(one, found, analysis, decoding)
        if measured:
            axes.plot(*zip(*measured, strict=True), marker, color=colour, markersize=5)
        published = _published(one, found, analysis, decoding)
        if published:
            axes.plot(
                *zip(*published, strict=True), PUBLISHED_MARKER, color=colour, markersize=5, markerfacecolor="none",
                markeredgewidth=1.4,
            )  # fmt: skip
    expected = crossings_expected(one, found.efficiencies)
    for crossing in one.crossings() if expected is None else expected:
        axes.axvline(crossing, color=svg.INK, linestyle=":", linewidth=1.0)
    title = f"{short_name(one)}, {one.form.name}" + ("" if one.fits else " (does not fit)")
    axes.set_title(title, fontsize=9, loc="left", pad=3)


def short_name(one: DevicePrediction) -> str:
    return device_in_short(one.device.display_name)


def _measured(one: DevicePrediction, found: Predictions, analysis: Analysis, decoding: str) -> list[tuple[int, float]]:
    """Rows of the page on this device that are what the curves are about."""
    return [
        (row.cell.batch_size, row.metrics["useful_tok_s"].value)
        for row in analysis.rows
        if row.cell.device == one.device.name and row.cell.decoding == decoding and "useful_tok_s" in row.metrics
        if row.cell.backend != "fake" and row.cell.block_length in (found.block_length, None)
        if row.cell.num_steps in (found.num_steps, None) and row.cell.stopping in ("fixed", None)
        if analysis.runs[row.run_id].shape == found.shape
    ]


def _published(one: DevicePrediction, found: Predictions, analysis: Analysis, decoding: str) -> list[tuple[int, float]]:
    figures = (judged.figure for judged in analysis.published if found.is_released)
    return [
        (figure.batch_size, figure.value)
        for figure in figures
        if figure.device == one.device.name and figure.decoding == decoding and figure.batch_size is not None
    ]


def _scales(axes: Axes, shown: Sequence[DevicePrediction], *, has_labels: bool, is_last: bool) -> None:
    """The same in every panel, so that heights can be compared across them."""
    values = [floor for one in shown for points in one.floors.values() for _, floor in points]
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlim(0.8, 640)
    axes.set_ylim(min(values) / 6, max(values) * 1.5)
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


def _has_measured(found: Predictions, analysis: Analysis) -> bool:
    own = {run.device.name for run in analysis.runs.values()}
    return any(
        _measured(one, found, analysis, decoding)
        for one in found.devices
        if one.device.name in own
        for decoding in _STYLES
    )


def _legend(found: Predictions, analysis: Analysis) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=colour, linestyle=line, linewidth=2, label=f"{_NAMES[decoding]}, predicted")
        for decoding, (colour, line, _) in _STYLES.items()
    ]
    handles.append(Line2D([], [], color=svg.MUTED, linewidth=1, label="thin: floor"))
    if found.is_released:
        handles.append(Line2D([], [], color=svg.INK, linestyle="", marker=PUBLISHED_MARKER, markerfacecolor="none",
                              markersize=5, label="published"))  # fmt: skip
    if _has_measured(found, analysis):
        handles.append(Line2D([], [], color=svg.INK, linestyle="", marker="o", markersize=5, label="measured here"))
    return handles


def _caption(found: Predictions) -> str:
    parts = [
        f"PREDICTED: {found.model}, {found.num_steps} steps, {PROMPT_TOKENS} -> {found.block_length} tokens, prefill "
        "in the clock, uniform routing, weights in the fastest format that the device computes in and holds",
        "thin lines: floors by the device files' roofs",
        *(f"thick lines and bands: x {_share(one)}" for one in found.efficiencies.values()),
        "dotted: where the lead changes" + (" at these shares" if len(found.efficiencies) == 2 else " at the floors"),
        "curves end where weights, keys and values fill the memory",
    ]
    return "; ".join(parts)


def _share(one: Efficiency) -> str:
    """What an efficiency is, and from where."""
    rows = counted(one.count, "figure" if one.source == "published" else "row")
    span = f"{percent(one.low)} to {percent(one.high)}, " if one.count > 1 else ""
    return (
        f"{percent(one.median)} of the floor for {_NAMES[one.decoding]} ({span}{rows} {one.source}, "
        f"{counted(len(one.by_device), 'device')})"
    )


def _answer(found: Predictions) -> str:
    slowest, *_, fastest = sorted(found.devices, key=lambda one: one.floors[BLOCK_DIFFUSION][0][1])
    ends = [f"{tok_s(one.floors[BLOCK_DIFFUSION][0][1])} on {short_name(one)}" for one in (slowest, fastest)]
    crossed = sorted((crossings[-1], short_name(one)) for one in found.devices if (crossings := one.crossings()))
    where = "on none does the lead change before its memory is full"
    if crossed:
        (first, on_first), (last, on_last) = crossed[0], crossed[-1]
        span = f"at batch {batch(first)} on {on_first}"
        span += f" to {batch(last)} on {on_last}" if len(crossed) > 1 else ""
        rest = len(found.devices) - len(crossed)
        where = f"the lead changes {span}" + (
            f", and on {counted(rest, 'other')} not before the memory is full" if rest else ""
        )
    return (
        f"Predicted at the floors, with {found.num_steps} steps at batch 1, block diffusion gives "
        f"{' to '.join(ends)} (tok/s); {where}. {_learnt(found)}"
    )


def _learnt(found: Predictions) -> str:
    """What engines were seen to reach, and how well that foretells another device."""
    if not found.efficiencies:
        return "No row here and no published figure says what share of its floor an engine of this shape reaches."
    told = f"Engines were seen to reach {' and '.join(_share(one) for one in found.efficiencies.values())}."
    missed = [
        f"{_NAMES[one.decoding]} {percent_off(min(one.errors.values()))} to {percent_off(max(one.errors.values()))}"
        for one in found.efficiencies.values()
        if one.errors
    ]
    return told + (f" Each device predicted from the others is off by: {listed(missed)}." if missed else "")


def percent_off(share: float) -> str:
    return f"{100 * share:+.0f} %"


def _next_step(found: Predictions) -> str:
    if any(one.source == "measured" for one in found.efficiencies.values()):
        return "measure one more device: report takes several runs, and shows how well one foretells the other."
    return (
        "run suite=claims on a GPU that you have: its floor shares take the place of the published ones, which come "
        "from several engines."
    )


def _table(found: Predictions) -> Table:
    return Table(
        caption=(
            f"PREDICTED: {found.model}, {found.num_steps} steps, batch 1; pairs are diffusion | autoregressive; "
            f"{_prices(found)}"
        ),
        head=(
            *("device", "weights", "floor, tok/s", "expected, tok/s", "speed-up at the floors"),
            *("crossover batch at the floors", "crossover batch expected", "USD per million at the floors"),
        ),
        rows=tuple(_row(one, found) for one in found.devices),
        numbers=tuple(range(2, 8)),
    )


def _prices(found: Predictions) -> str:
    """Whose prices the table uses, and how a device gets one that has none."""
    hours = [(one, one.device.price_usd_per_hour) for one in found.devices]
    given = [short_name(one) for one, hour in hours if hour.source == GIVEN_PRICE]
    unknown = next((one.device.name for one, hour in hours if hour.value is None), None)
    return whose_prices(given) + (f"; another: `report RUN --usd-per-hour {unknown}=PRICE`" if unknown else "")


def _row(one: DevicePrediction, found: Predictions) -> tuple[str, ...]:
    floors = [one.floors[decoding][0][1] for decoding in _STYLES]
    shares = [found.efficiencies[decoding].median for decoding in _STYLES if decoding in found.efficiencies]
    expected = crossings_expected(one, found.efficiencies)
    prices = [one.usd_per_million(decoding) for decoding in _STYLES]
    return (
        short_name(one),
        one.form.name + ("" if one.fits else ", does not fit"),
        _pair([tok_s(floor) for floor in floors]),
        _pair([tok_s(floor * share) for floor, share in zip(floors, shares, strict=False)]),
        ratio(one.speedups[0][1]),
        _crossings(one.crossings(), one),
        "unknown" if expected is None else _crossings(expected, one),
        _pair([f"{price:.2g}" for price in prices if price is not None], "no price"),
    )


def _pair(texts: Sequence[str], otherwise: str = "unknown") -> str:
    """Of both decoders, or a word where one of them is not there."""
    return " | ".join(texts) if len(texts) == 2 else otherwise


def _crossings(places: Sequence[float], one: DevicePrediction) -> str:
    if places:
        return listed([batch(place) for place in places])
    return f"none to {one.speedups[-1][0]}"
