"""Exact match against the number of denoising steps, beside autoregressive decoding: what fewer steps cost."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter

from harness.analysis.quality import Setting
from harness.analysis.summary import Summary
from harness.records.texts import short
from harness.report import svg
from harness.report.figures.base import PROMPTS, Figure, drawing_with_caption, end_labels, log2_axis, thinned
from harness.report.figures.compared import (
    ADAPTIVE_MARKER,
    Compared,
    compared,
    exact,
    horizontal,
    interval_bars,
)
from harness.report.slices import Slice
from harness.report.wording import counted, percent

QUESTION = "How many steps does the quality need?"
_MAIN_IN, _PANEL_IN = 3.4, 1.55
_PANELS_A_ROW, _MOST_PANELS = 4, 12


def quality(part: Slice, name: str) -> Figure:
    """All graded prompts together above, each category below."""
    shown = compared(part)
    categories = _categories(shown)[:_MOST_PANELS]
    panel_rows = -(-len(categories) // _PANELS_A_ROW)
    with svg.style():
        drawing, foot = drawing_with_caption(part, _MAIN_IN + panel_rows * _PANEL_IN, PROMPTS)
        height_in = drawing.get_size_inches()[1]
        main = foot + panel_rows * _PANEL_IN / height_in
        axes = drawing.add_axes((0.085, main + 0.5 / height_in, 0.735, (_MAIN_IN - 0.7) / height_in))
        _draw(axes, shown)
        for i, category in enumerate(categories):
            column, line = i % _PANELS_A_ROW, i // _PANELS_A_ROW
            bottom = foot + ((panel_rows - 1 - line) * _PANEL_IN + 0.3) / height_in
            width = 0.9 / _PANELS_A_ROW
            box = (0.085 + column * width, bottom, width - 0.035, (_PANEL_IN - 0.62) / height_in)
            _panel(drawing.add_axes(box), shown, category, is_first=column == 0)
        answer = _answer(part, shown)
        picture = svg.to_svg(drawing, name=name, title=QUESTION, description=answer)
    return Figure(answer=answer, next_step=_next_step(shown), rows_filter=shown.rows_filter, picture=picture)


def _categories(shown: Compared) -> list[str]:
    """Those that were graded; none where there is one alone, which the main picture shows."""
    names = {c.name for setting in shown.diffusion for c in setting.categories if c.exact_match is not None}
    return sorted(names) if len(names) > 1 else []


def _draw(axes: Axes, shown: Compared) -> None:
    ends = _plot(axes, shown, None)
    _share_axis(axes, "exact match")
    end_labels(axes, ends, gap_share=0.075)


def _panel(axes: Axes, shown: Compared, category: str, *, is_first: bool) -> None:
    _plot(axes, shown, category)
    counts = _counts(shown)
    axes.xaxis.set_major_locator(FixedLocator(thinned(counts, 4)))
    axes.set_xlabel("")
    axes.set_title(short(category, 26), fontsize=9, loc="left", pad=3)
    axes.tick_params(labelsize=7.5, pad=2)
    _share_axis(axes, "")
    axes.set_ylim(-0.08, 1.08)  # so that small marks at the ends are whole
    axes.yaxis.set_major_locator(FixedLocator([0, 0.5, 1]))
    if not is_first:
        axes.tick_params(labelleft=False)


def _counts(shown: Compared) -> list[int]:
    """Ticks of the axis: the fixed numbers of steps; the caps where there are none."""
    return sorted({one.cell.num_steps or 1 for one in shown.fixed or shown.adaptive})


def _plot(axes: Axes, shown: Compared, category: str | None) -> list[tuple[float, float, str, str]]:
    """Draw one picture; category None: all prompts. What the labels of its ends need."""
    is_main = category is None
    ends = []
    fixed = [(one.cell.num_steps or 1, s) for one in shown.fixed if (s := _exact(one, category))]
    size, width = (6.0, 2.2) if is_main else (3.0, 1.4)
    if fixed:
        places, summaries = [n for n, _ in fixed], [s for _, s in fixed]
        values = [s.value for s in summaries]
        axes.plot(places, values, "-o", color=svg.DIFFUSION, linewidth=width, markersize=size)
        if is_main:
            interval_bars(axes, places, summaries)
        ends.append((float(places[-1]), values[-1], "fixed steps", svg.INK))
    for one in shown.adaptive:
        summary, steps = _exact(one, category), _mean_steps(one, category)
        if summary is None or steps is None:
            continue
        axes.plot(
            [steps], [summary.value], ADAPTIVE_MARKER, color=svg.DIFFUSION, markersize=size + 2, markerfacecolor="none",
            markeredgewidth=1.8 if is_main else 1.2,
        )  # fmt: skip
        if is_main:
            interval_bars(axes, [steps], [summary])
            ends.append((steps, summary.value, f"adaptive, at most {one.cell.num_steps}", svg.INK))
    twin = None if shown.twin is None else _exact(shown.twin, category)
    counts = _counts(shown)
    means = [
        steps
        for one in shown.adaptive
        for steps in ([one.mean_steps] if is_main else [part.mean_steps for part in one.categories])
        if steps
    ]
    log2_axis(axes, counts, "denoising steps per canvas; of adaptive stopping the mean")
    axes.set_xlim(min([*counts, *means]) / 1.25, max([*counts, *means]) * 1.25)
    if twin is not None:
        horizontal(axes, twin, width=width)
        ends.append((axes.get_xlim()[1], twin.value, "autoregressive", svg.INK))
    return ends


def _share_axis(axes: Axes, label: str) -> None:
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
    axes.set_ylabel(label)


def _exact(setting: Setting, category: str | None) -> Summary | None:
    if category is None:
        return setting.exact_match
    return next((one.exact_match for one in setting.categories if one.name == category), None)


def _mean_steps(setting: Setting, category: str | None) -> float | None:
    if category is None:
        return setting.mean_steps
    return next((one.mean_steps for one in setting.categories if one.name == category), None)


def _answer(part: Slice, shown: Compared) -> str:
    parts = [*_of_fixed(shown.fixed), *map(_of_adaptive, shown.adaptive)]
    if shown.twin is not None:
        parts.append(f"autoregressive decoding has {percent(exact(shown.twin).value)}")
    return f"{shown.where()}: {'; '.join(parts)}."


def _of_fixed(fixed: Sequence[Setting]) -> list[str]:
    if not fixed:
        return []
    first, last = fixed[0], fixed[-1]
    if first is last:
        return [f"exact match is {percent(exact(first).value)} with {_steps(first)}"]
    told = f"exact match goes from {percent(exact(first).value)} with {_steps(first)} to "
    told += f"{percent(exact(last).value)} with {_steps(last)}"
    best = max(fixed, key=lambda one: exact(one).value)
    if exact(best).value > exact(last).value:
        told += f", at best {percent(exact(best).value)} with {_steps(best)}"
    enough = enough_steps(fixed)
    return [f"{told}, and from {_steps(enough)} on it stays within the noise of the best" if enough else told]


def enough_steps(fixed: Sequence[Setting]) -> Setting | None:
    """The fewest steps from which on every interval reaches the best value; None where the most steps fall short."""
    best = max(exact(one).value for one in fixed)
    short_of_it = [i for i, one in enumerate(fixed) if exact(one).high < best]
    return next(iter(fixed[max(short_of_it, default=-1) + 1 :]), None)


def _of_adaptive(setting: Setting) -> str:
    told = f"adaptive stopping with at most {_steps(setting)} has {percent(exact(setting).value)}"
    return f"{told} with {setting.mean_steps:.3g} a canvas" if setting.mean_steps else told


def _steps(setting: Setting) -> str:
    return counted(setting.cell.num_steps or 0, "step")


def _next_step(shown: Compared) -> str:
    if len(shown.fixed) > 1 and enough_steps(shown.fixed) is shown.fixed[-1]:
        return f"quality may still rise: add {2 * (shown.fixed[-1].cell.num_steps or 1)} to axes.num_steps."
    if not shown.adaptive:
        return "add adaptive to axes.stopping, which spends steps only where the text needs them."
    return "take the fewest steps whose quality you accept; the next figure says what they are worth in speed."
