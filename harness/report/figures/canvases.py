"""A histogram of the steps that canvases took: where the stopping rule ends, and how often the cap ends it instead."""

from __future__ import annotations

from collections import Counter

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from harness.analysis.canvases import quantile, steps_taken
from harness.analysis.rows import CellRow
from harness.report import svg
from harness.report.figures.base import Figure, NotDrawn, drawing_with_caption, fastest_first, measured, thinned
from harness.report.slices import Slice
from harness.report.wording import counted, percent

QUESTION = "How many steps does a canvas take before it stops?"
_PANELS_A_ROW, _MOST_PANELS = 3, 6
_PANEL_IN = 2.35

_Taken = dict[int, Counter[int]]  # cap (num_steps) -> steps -> canvases


def canvases(part: Slice, name: str) -> Figure:
    """One panel per cap. One block length alone, because steps differ by it; all batches together, which it says."""
    best = next(iter(fastest_first(part.diffusion)), None)
    if best is None:
        raise NotDrawn("no finished block-diffusion cell")
    if part.stopping == "fixed":
        _refuse_if_exact(_by_cap(part, measured(part.diffusion)))
    trained = [row for row in measured(part.diffusion) if not part.is_untrained(row.cell.block_length)]
    block_length = (next(iter(fastest_first(trained)), best)).cell.block_length
    taken = _by_cap(part, [row for row in measured(part.diffusion) if row.cell.block_length == block_length])
    if not taken:
        raise NotDrawn("the backend counted no steps")
    shown = thinned(sorted(taken), _MOST_PANELS)
    panel_rows = -(-len(shown) // _PANELS_A_ROW)
    with svg.style():
        drawing, foot = drawing_with_caption(part, panel_rows * _PANEL_IN)
        height_in = drawing.get_size_inches()[1]
        columns = min(len(shown), _PANELS_A_ROW)
        width = 0.93 / columns
        for i, cap in enumerate(shown):
            column, line = i % _PANELS_A_ROW, i // _PANELS_A_ROW
            bottom = foot + ((panel_rows - 1 - line) * _PANEL_IN + 0.45) / height_in
            axes = drawing.add_axes((0.085 + column * width, bottom, width - 0.07, (_PANEL_IN - 0.75) / height_in))
            _panel(axes, taken[cap], cap, is_first=column == 0)
        answer = _answer(taken, shown, f"{block_length}-token blocks")
        picture = svg.to_svg(drawing, name=name, title=QUESTION, description=answer)
    return Figure(
        answer=answer,
        next_step=_next_step(taken),
        rows_filter=f"block_length={block_length}",
        picture=picture,
    )


def _by_cap(part: Slice, rows: list[CellRow]) -> _Taken:
    caps = sorted({row.cell.num_steps or 0 for row in rows})
    taken = {
        cap: steps_taken(part.run, [row.cell_id for row in rows if row.cell.num_steps == cap and row.status == "ok"])
        for cap in caps
    }
    return {cap: counts for cap, counts in taken.items() if counts}


def _refuse_if_exact(taken: _Taken) -> None:
    """Fixed stopping has no histogram, unless a canvas broke the rule: that is worth a picture."""
    if taken and all(set(counts) == {cap} for cap, counts in taken.items()):
        exact = " or ".join(str(cap) for cap in sorted(taken))
        raise NotDrawn(f"stopping is fixed, and every canvas took exactly its num_steps ({exact})")


def _panel(axes: Axes, counts: Counter[int], cap: int, *, is_first: bool) -> None:
    total = counts.total()
    longest = max(cap, *counts)
    axes.bar(list(counts), [count / total for count in counts.values()], width=0.86, color=svg.DIFFUSION)
    axes.axvline(cap, color=svg.INK, linestyle=":", linewidth=1.2)
    axes.set_xlim(0.25, longest + 0.75)
    axes.set_ylim(0, max(counts.values()) / total * 1.12)
    axes.set_title(
        f"at most {counted(cap, 'step')}: {percent(counts[cap] / total)} at the cap", fontsize=10, loc="left", pad=4
    )
    axes.xaxis.set_major_locator(FixedLocator(thinned(range(1, longest + 1), 6 if longest > 10 else 10)))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    axes.tick_params(labelsize=8.5)
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("steps that a canvas took", fontsize=9)
    if is_first:
        axes.set_ylabel("share of canvases", fontsize=9)


def _answer(taken: _Taken, shown: list[int], where: str) -> str:
    parts = [
        f"with a cap of {cap} steps, half of {counted(taken[cap].total(), 'canvas')} stop by step "
        f"{quantile(taken[cap], 0.5)}, and {percent(taken[cap][cap] / taken[cap].total())} reach the cap"
        for cap in shown
    ]
    less = f" Drawn are {len(shown)} of {len(taken)} caps." if len(shown) < len(taken) else ""
    return f"With {where}, over all batches and rounds: {'; '.join(parts)}.{less}"


def _next_step(taken: _Taken) -> str:
    cap = max(taken)
    if taken[cap][cap]:
        return f"raise the cap and see whether those canvases stop by themselves: add {2 * cap} to axes.num_steps."
    return f"nothing reaches the cap of {cap}, so a higher one would change nothing."
