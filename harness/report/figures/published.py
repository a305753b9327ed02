"""Published figures as shares of the floor of what they say they ran: above 100 % something is not as it was read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from harness.analysis.analyse import Analysis
from harness.analysis.published import ASSUMED_STEPS, Judged
from harness.records.types import AUTOREGRESSIVE, BLOCK_DIFFUSION
from harness.report import svg
from harness.report.figures.base import Figure, NotDrawn, Table, captioned
from harness.report.wording import counted, device_in_short, listed, percent, tok_s
from harness.spec.data import devices
from harness.spec.published import UNKNOWN, PublishedFigure

QUESTION = "Does any published figure beat what the hardware allows?"
_ROW_IN = 0.27
SPECULATIVE = "speculative"
_STYLES = {
    BLOCK_DIFFUSION: (svg.DIFFUSION, "D", "block diffusion"),
    AUTOREGRESSIVE: (svg.AUTOREGRESSIVE, "D", "autoregressive"),
    SPECULATIVE: (svg.INK, "x", "with a drafter, against the floor of one token a pass"),
}
_CAPTION = (
    "PUBLISHED figures / PREDICTED floors by the device files' roofs, each for the batch, format, steps and lengths "
    "that the source states; what it does not state is taken in its favour (prefill out of the clock, no context), and "
    f"steps as {ASSUMED_STEPS}. Large: at batch 1 with stated steps."
)


def published(analysis: Analysis, name: str) -> Figure:
    """A row a device; the table says what each figure was, and why it may stand above its floor."""
    every = analysis.published
    shown = [one for one in every if one.share is not None]
    if not shown:
        raise NotDrawn("no published figure has a floor")
    names = [device for device, _ in Counter(one.figure.device for one in shown).most_common()]
    with svg.style():
        drawing, foot = captioned(_CAPTION, len(names) * _ROW_IN + 1.1)
        axes = drawing.add_axes((0.235, foot + 0.13, 0.735, 0.80 - foot))
        _draw(axes, shown, names)
        drawing.legend(handles=_legend(), loc="upper left", ncols=3, frameon=False, fontsize=8.5)
        answer = _answer(every, shown)
        picture = svg.to_svg(drawing, name=name, title=QUESTION, description=answer)
    return Figure(
        answer=answer,
        next_step="trust a figure as far as its conditions go; results/published.yaml has all, with their sources.",
        rows_filter=None,
        picture=picture,
        table=_table(shown),
    )


def _draw(axes: Axes, shown: Sequence[Judged], names: Sequence[str]) -> None:
    for decoding, (colour, marker, _) in _STYLES.items():
        for is_known in (False, True):
            of_kind = [one for one in shown if one.figure.decoding == decoding and _is_plain(one) == is_known]
            xs = [one.share or 0.0 for one in of_kind]
            ys = [names.index(one.figure.device) + _offset(decoding) for one in of_kind]
            axes.plot(xs, ys, marker, color=colour, markersize=7 if is_known else 4, markerfacecolor="none",
                      markeredgewidth=1.6 if is_known else 1.0)  # fmt: skip
    axes.axvline(1, color=svg.INK, linewidth=1.4)
    axes.axvspan(1, 4, color=svg.MUTED, alpha=0.12, linewidth=0)
    axes.set_xscale("log")
    axes.set_xlim(0.12, 2.4)
    axes.xaxis.set_major_locator(FixedLocator([0.125, 0.25, 0.5, 1, 2]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: percent(share)))
    axes.set_xlabel("published / floor; in the grey part only with a remark")
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.yaxis.set_major_locator(FixedLocator(range(len(names))))
    axes.set_yticklabels([device_name(name) for name in names], fontsize=8.5)


def _is_plain(one: Judged) -> bool:
    return one.says_how and one.figure.batch_size == 1


def _offset(decoding: str) -> float:
    """So that decoders of a device do not hide each other."""
    return {BLOCK_DIFFUSION: -0.2, AUTOREGRESSIVE: 0.0, SPECULATIVE: 0.2}[decoding]


def device_name(name: str) -> str:
    return device_in_short(devices()[name].display_name)


def _legend() -> list[Line2D]:
    return [
        Line2D([], [], color=colour, linestyle="", marker=marker, markerfacecolor="none", label=label)
        for colour, marker, label in _STYLES.values()
    ]


def _answer(every: Sequence[Judged], shown: Sequence[Judged]) -> str:
    above = [one for one in shown if one.exceeds]
    silent = [one for one in above if not one.figure.remark]
    told = f"{len(above)} of {counted(len(shown), 'published figure')} with a floor stand above it"
    told += ", each with its reason" if above and not silent else ""
    told += f"; {len(silent)} of them WITHOUT A REMARK" if silent else ""
    plain = [one for one in shown if _is_plain(one)]
    parts = []
    for decoding in (BLOCK_DIFFUSION, AUTOREGRESSIVE):
        shares = [one.share or 0.0 for one in plain if one.figure.decoding == decoding]
        if shares:
            parts.append(f"{_STYLES[decoding][2]} {percent(min(shares))} to {percent(max(shares))}")
    rest = len(every) - len(shown)
    more = f" {rest} more have no floor: {_reasons(every)}." if rest else ""
    return (
        f"{told}. At batch 1 and with stated steps, engines reach of their floors: {listed(parts) or 'unknown'}.{more}"
    )


def _reasons(every: Sequence[Judged]) -> str:
    counts = Counter(one.why_not for one in every if one.why_not)
    return "; ".join(f"{count} x {reason}" for reason, count in counts.most_common())


def _table(shown: Sequence[Judged]) -> Table:
    return Table(
        caption="PUBLISHED, beside predicted floors of the same batch, format and steps; tok/s of the whole batch. "
        "Conditions and sources: results/published.yaml",
        head=("device", "what", "published", "floor (predicted)", "of the floor", "remark, and who says so"),
        rows=tuple(_row(one) for one in shown),
        numbers=(2, 3, 4),
        wide=(1, 5),
    )


def _row(one: Judged) -> tuple[str, ...]:
    figure = one.figure
    return (
        device_name(figure.device),
        _what(one),
        f"{figure.about} {tok_s(figure.value)}".strip(),
        tok_s(one.floor_tok_s or 0.0),
        percent(one.share or 0.0),
        " ".join(filter(None, [figure.remark or ("NO REMARK." if one.exceeds else ""), _said_by(figure)])),
    )


def _what(one: Judged) -> str:
    figure = one.figure
    size = "batch unknown" if figure.batch_size is None else f"batch {figure.batch_size}"
    parts = [_STYLES[figure.decoding][2].split(",")[0], figure.format, size]
    if figure.decoding == BLOCK_DIFFUSION:
        most = f"steps unknown (the floor allows {one.most_steps:.0f})" if one.most_steps else "steps unknown"
        bound = "" if figure.stopping == "fixed" else "about "
        parts.append(most if figure.num_steps is None else f"{bound}{figure.num_steps} steps")
    return ", ".join(parts)


def _said_by(figure: PublishedFigure) -> str:
    facts = [figure.who, "" if figure.framework == UNKNOWN else figure.framework]
    facts += ["" if figure.date == UNKNOWN else figure.date, "second hand" if figure.second_hand else ""]
    return f"({', '.join(filter(None, facts))})"
