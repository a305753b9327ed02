"""Small multiples: one panel a run, three in a row, so that devices stand side by side on the same scales."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from harness.records.texts import short
from harness.report import svg
from harness.report.figures.base import captioned
from harness.report.slices import Slice, conditions, joined
from harness.report.wording import counted, device_in_short

PANELS_A_ROW, MOST_PANELS = 3, 9
_LEFT, _SPAN, _GAP = 0.075, 0.945, 0.04  # of the figure's width
_TITLE_IN, _TITLE_CHARACTERS = 0.19, 34


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    axes: Axes
    part: Slice
    is_first: bool  # of its row, so that it has the labels of the vertical axis
    is_last: bool  # of its column


def name_of(part: Slice) -> str:
    """What a sentence calls the slice: its device in short, and its run where the device is not name enough."""
    device = device_in_short(short(part.device, 60))
    return f"{device} (run {short(part.run_id)})" if part.told_apart else device


def chosen(parts: Sequence[Slice]) -> tuple[list[Slice], str]:
    """The slices that get a panel, every device before a device's next run, in their order; and what is left out."""
    seen: Counter[str] = Counter()
    ranked = []
    for place, part in enumerate(parts):
        ranked.append((seen[part.device], place))
        seen[part.device] += 1
    places = sorted(place for _, place in sorted(ranked)[:MOST_PANELS])
    note = f" Drawn are {len(places)} of {counted(len(parts), 'run')}; the table has all."
    return [parts[place] for place in places], note if len(places) < len(parts) else ""


def panels(
    parts: Sequence[Slice],
    bands: str = "",
    *,
    height_in: float,
    head_in: float,
    subtitles: Sequence[str],
    foot_in: float = 0.0,
) -> tuple[Drawing, float, Iterator[Panel]]:
    """An empty figure, the share of its height that its caption takes, and its panels with titles.

    Args:
        height_in: of a row of panels, titles and labels included.
        head_in: room above the panels, for a legend.
        subtitles: of each slice, what its panel shows.
        foot_in: room between panels and caption, for a key.
    """
    columns = max(2, min(PANELS_A_ROW, len(parts)))
    rows = -(-len(parts) // columns)
    titles = [_title(part, subtitle) for part, subtitle in zip(parts, subtitles, strict=True)]
    title_in = _TITLE_IN * max(len(lines) for lines in titles)
    row_in = height_in + title_in
    drawing, foot = captioned(conditions(joined(parts), bands), rows * row_in + head_in + foot_in)
    total_in, step = drawing.get_size_inches()[1], _SPAN / columns

    def drawn() -> Iterator[Panel]:
        for i, (part, lines) in enumerate(zip(parts, titles, strict=True)):
            column, row = i % columns, i // columns
            bottom_in = foot * total_in + foot_in + (rows - 1 - row) * row_in + 0.42
            box = (_LEFT + column * step, bottom_in / total_in, step - _GAP, (height_in - 0.5) / total_in)
            axes = drawing.add_axes(box)
            for k, line in enumerate(reversed(lines)):
                is_name = k == len(lines) - 1
                axes.annotate(
                    short(line, _TITLE_CHARACTERS + (0 if is_name else 10)),
                    (0, 1),
                    xycoords="axes fraction",
                    xytext=(0, 4 + 72 * _TITLE_IN * 0.85 * k),
                    textcoords="offset points",
                    fontsize=10 if is_name else 8,
                    color=svg.INK if is_name else svg.MUTED,
                    annotation_clip=False,
                )
            yield Panel(axes=axes, part=part, is_first=column == 0, is_last=i + columns >= len(parts))

    return drawing, foot, drawn()


def _title(part: Slice, subtitle: str) -> list[str]:
    """Device, run where the device is not name enough, and what is shown."""
    return [device_in_short(part.device), *filter(None, (part.told_apart, subtitle))]
