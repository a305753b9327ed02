"""What a useful token costs: joules of the device, and dollars of its hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from harness.records.texts import short
from harness.report import svg
from harness.report.figures.base import Figure, NotDrawn, drawing_with_caption, log2_axis, log_axis
from harness.report.figures.sides import Side, batches_of, lacking, sides
from harness.report.slices import Slice
from harness.report.wording import amount, listed, price

QUESTION = "What do a token's energy and money come to?"
_ENERGY, _ABOVE_IDLE, _USD = (
    "energy_per_useful_token_j",
    "energy_above_idle_per_useful_token_j",
    "usd_per_million_useful_tokens",
)
# Metric -> title, what a sentence calls it, unit.
_TEXTS = {
    _ENERGY: ("joules per useful token, dotted: the idle device's share", "energy", "J per useful token"),
    _USD: ("USD per million useful tokens, at 100 % utilisation", "price", "USD per million useful tokens"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Panel:
    """One quantity of both decoders, or why there is none of it."""

    metric: str
    title: str
    noun: str  # what a sentence calls it
    unit: str
    sides: Sequence[Side]
    why_not: str

    def at(self, side: Side) -> list[tuple[int, float]]:
        return [(row.cell.batch_size, row.metrics[self.metric].value) for row in side.rows]


def energy(part: Slice, name: str) -> Figure:
    """Where a run has one of the two, that one is drawn, and the sentence says why the other is not."""
    panels = [_panel(part, metric, *texts) for metric, texts in _TEXTS.items()]
    known = [panel for panel in panels if panel.sides]
    if not known:
        raise NotDrawn("; ".join(f"{panel.noun}: {panel.why_not}" for panel in panels))
    priced = price(part.run.plan["device"].get("price_usd_per_hour"))
    sources = {_ENERGY: "energy: the device's over a window of repeated requests", _USD: f"price: {short(priced, 160)}"}
    bands = "; ".join(sources[panel.metric] for panel in known)
    with svg.style():
        drawing, foot = drawing_with_caption(part, 3.5, bands)
        for i, panel in enumerate(known):
            axes = drawing.add_axes((0.085 + 0.49 * i, foot + 0.15, 0.40, 0.74 - foot))
            _draw(axes, panel)
        answer = _answer(panels)
        picture = svg.to_svg(drawing, name=name, title=QUESTION, description=answer)
    return Figure(
        answer=answer,
        next_step=_next_step(part, panels),
        rows_filter=known[0].sides[0].rows_filter,
        picture=picture,
    )


def _panel(part: Slice, metric: str, title: str, noun: str, unit: str) -> _Panel:
    found = sides(part, lambda row: metric in row.metrics)
    why = next((row.missing[metric] for row in part.rows if metric in row.missing), "no finished cell")
    return _Panel(metric=metric, title=title, noun=noun, unit=unit, sides=found, why_not=why)


def _draw(axes: Axes, panel: _Panel) -> None:
    for side in panel.sides:
        axes.plot(
            *zip(*panel.at(side), strict=True), side.line, color=side.colour, marker=side.marker, label=side.name,
        )  # fmt: skip
        idle = [
            (row.cell.batch_size, row.metrics[_ENERGY].value - row.metrics[_ABOVE_IDLE].value)
            for row in side.rows
            if panel.metric == _ENERGY and _ABOVE_IDLE in row.metrics
        ]
        if idle and min(floor for _, floor in idle) > 0:
            axes.plot(*zip(*idle, strict=True), ":", color=side.colour, linewidth=1.2)
    log2_axis(axes, batches_of(panel.sides), "batch size")
    log_axis(axes, panel.unit)
    axes.set_title(panel.title, fontsize=10, loc="left", pad=5)
    axes.legend(frameon=False, fontsize=8.5, loc="best")


def _answer(panels: Sequence[_Panel]) -> str:
    told = []
    for panel in panels:
        if panel.sides:
            told.append(_of(panel))
        else:
            told.append(f"There is no {panel.noun} ({panel.why_not}).")
    return " ".join(told)


def _of(panel: _Panel) -> str:
    """Both decoders at the smallest and the largest batch of each, and what is drawn of them."""
    each = []
    for side in panel.sides:
        points = panel.at(side)
        ends = points if len(points) < 2 else [points[0], points[-1]]
        amounts = listed([f"{amount(value)} at batch {batch_size}" for batch_size, value in ends])
        each.append(f"{side.said()} takes {amounts}")
    why = lacking(panel.sides, f"no {panel.noun} here")
    return f"In {panel.unit}, {'; '.join(each)}.{why}"


def _next_step(part: Slice, panels: Sequence[_Panel]) -> str:
    energy_panel, money = panels
    if not energy_panel.sides:
        return "name cells in the suite's `energy` to have it measured; a GPU or RAPL must have a counter (`doctor`)."
    device = part.run.plan["device"]["name"]
    if not money.sides:
        return f"`report RUN --usd-per-hour {short(str(device))}=PRICE` adds a price without measuring again."
    return (
        "a device that waits half of its time costs twice as much a token; another price: "
        f"`report RUN --usd-per-hour {short(str(device))}=PRICE`."
    )
