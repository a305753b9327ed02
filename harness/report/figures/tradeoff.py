"""Exact match against tokens per pass: what a faster setting costs in quality, and who is faster at equal quality."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from harness.analysis.quality import IsoQuality, Setting, iso_quality_of
from harness.report import headlines, svg
from harness.report.figures.base import PROMPTS, Figure, NotDrawn, drawing_with_caption
from harness.report.figures.compared import ADAPTIVE_MARKER, Compared, compared, exact, horizontal, interval_bars
from harness.report.slices import Slice

QUESTION = "Is block diffusion faster at equal quality?"


def tradeoff(part: Slice, name: str) -> Figure:
    """A point a setting, labelled with its steps; up and to the right is better."""
    shown = compared(part)
    if not [one for one in shown.diffusion if one.tpf_denoise is not None]:
        raise NotDrawn("the backend counted no denoise passes")
    iso = next(iter(iso_quality_of([*shown.diffusion, *([shown.twin] if shown.twin else [])])), None)
    with svg.style():
        drawing, foot = drawing_with_caption(part, 3.7, PROMPTS)
        axes = drawing.add_axes((0.085, foot + 0.13, 0.88, 0.845 - foot))
        _draw(axes, shown)
        answer = _answer(part, shown, iso)
        picture = svg.to_svg(drawing, name=name, title=QUESTION, description=answer)
    return Figure(answer=answer, next_step=_next_step(iso), rows_filter=shown.rows_filter, picture=picture)


def _draw(axes: Axes, shown: Compared) -> None:
    fixed, adaptive = ([one for one in some if one.tpf_denoise is not None] for some in (shown.fixed, shown.adaptive))
    for one in (*fixed, *adaptive):
        interval_bars(axes, [_point(one)[0]], [exact(one)])
    if fixed:
        places = zip(*map(_point, fixed), strict=True)
        axes.plot(*places, "-o", color=svg.DIFFUSION, linewidth=1.2, markersize=6, label="fixed steps")
    if adaptive:
        axes.plot(
            *zip(*map(_point, adaptive), strict=True), ADAPTIVE_MARKER, color=svg.DIFFUSION, markersize=8,
            markerfacecolor="none", markeredgewidth=1.8, label="adaptive stopping (<= its cap)",
        )  # fmt: skip
    if shown.twin is not None:
        horizontal(axes, exact(shown.twin), width=1.2)
        value = exact(shown.twin).value
        axes.plot([1], [value], "s", color=svg.AUTOREGRESSIVE, markersize=7, label="autoregressive, one token a pass")
    _axes(axes)
    for one in fixed:
        _name(axes, _point(one), f"{one.cell.num_steps}", (6, -12))
    for one in adaptive:
        _name(axes, _point(one), f"<={one.cell.num_steps}", (6, 7))
    axes.legend(frameon=False, fontsize=8.5, loc="lower left")


def _point(setting: Setting) -> tuple[float, float]:
    assert setting.tpf_denoise is not None
    return setting.tpf_denoise.value, exact(setting).value


def _name(axes: Axes, point: tuple[float, float], text: str, offset: tuple[int, int]) -> None:
    axes.annotate(text, point, xytext=offset, textcoords="offset points", fontsize=8.5)


def _axes(axes: Axes) -> None:
    axes.set_xscale("log", base=2)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.9), high * 1.35)  # room for the labels of the last points
    axes.xaxis.set_major_locator(LogLocator(base=2))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("useful tokens per denoise pass, mean over requests; points are named by their steps")
    axes.set_ylim(-0.03, 1.07)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
    axes.set_ylabel("exact match")


def _answer(part: Slice, shown: Compared, iso: IsoQuality | None) -> str:
    if iso is None:
        why = "was not graded" if shown.twin is None else "gave no speed to compare with"
        return f"{shown.where()} there is no comparison: autoregressive decoding {why} on these prompts."
    return headlines.at_equal_quality(iso)


def _next_step(iso: IsoQuality | None) -> str:
    if iso is None:
        return "measure both decoders in one run; the plan adds each cell's autoregressive twin by itself."
    if iso.reached is None:
        return "add more steps or adaptive stopping, or take the loss in quality for the speed knowingly."
    return "run the setting that wins at your batch; below, the content decides how many steps adaptive stopping takes."
