"""Useful tokens per second of a few cells over runs of one suite, in the order in which they were measured."""

from __future__ import annotations

from matplotlib.axes import Axes

from harness.analysis.analyse import Analysis
from harness.analysis.rows import CellRow
from harness.analysis.trend import Change, Trend, trend_of
from harness.records.texts import short
from harness.report import svg
from harness.report.figures.base import Figure, NotDrawn, drawing_with_caption, end_labels, log_axis, thinned
from harness.report.slices import Slice, slices_of
from harness.report.wording import counted, percent, steps_in_short

QUESTION = "Does it hold over time?"
_BANDS = "bands: the intervals of the medians; dotted: where the largest change comes; + after a commit: with changes"
_MOST_CELLS, _MOST_RUNS, _MOST_NAMES = 10, 50, 10


def trend(analysis: Analysis, name: str) -> Figure:
    """The suite with the most runs on this page, its newest ones, and a few of the cells that they have in common."""
    found = trend_of(analysis)
    if found is None:
        raise NotDrawn(
            "it takes several runs of one suite on one kind of machine with a finished cell in common, and this page "
            f"has {counted(len(analysis.runs), 'run')}: name them all, `report RUN RUN ...`"
        )
    found = _newest(found)
    # whose conditions are told
    part = next(one for one in slices_of(analysis, is_wide=True) if found.cells[0][-1] in one.rows)
    with svg.style():
        drawing, foot = drawing_with_caption(part, 3.7, _BANDS)
        axes = drawing.add_axes((0.085, foot + 0.15, 0.70, 0.82 - foot))
        _draw(axes, part, found)
        answer = _answer(found)
        picture = svg.to_svg(drawing, name=name, title=QUESTION, description=answer)
    ids = "|".join(rows[-1].cell_id for rows in found.cells)
    return Figure(answer=answer, next_step=_next_step(found), rows_filter=f"cell_id={ids}", picture=picture)


def _newest(found: Trend) -> Trend:
    """At most so many runs and cells."""
    few = thinned(range(len(found.cells)), _MOST_CELLS)
    return Trend(visits=found.visits[-_MOST_RUNS:], cells=tuple(found.cells[i][-_MOST_RUNS:] for i in few))


def _draw(axes: Axes, part: Slice, found: Trend) -> None:
    places = list(range(len(found.visits)))
    ends = []
    for rows in found.cells:
        is_autoregressive = rows[0].is_autoregressive
        colour = svg.AUTOREGRESSIVE if is_autoregressive else svg.DIFFUSION
        speeds = [row.metrics["useful_tok_s"] for row in rows]
        axes.fill_between(
            places, [s.low for s in speeds], [s.high for s in speeds], color=colour, alpha=0.18, linewidth=0
        )
        values = [s.value for s in speeds]
        style, marker = ("--", "s") if is_autoregressive else ("-", "o")
        axes.plot(places, values, style, color=colour, linewidth=1.4)
        svg.cloud(axes, list(zip(places, values, strict=True)), colour, is_round=marker == "o", size=5, alpha=1.0)
        ends.append((places[-1], values[-1], _name(part, rows[0]), svg.INK))
    log_axis(axes, "useful tokens per second, whole batch")
    for change in found.changes[:1]:
        axes.axvline(change.place - 0.5, color=svg.INK, linestyle=":", linewidth=1.2)
    axes.set_xlim(-0.3, places[-1] + 0.3)
    named = thinned(places, _MOST_NAMES)
    axes.set_xticks(named, [_when(found, place) for place in named], fontsize=8)
    axes.set_xlabel("day and commit of the run, the oldest first")
    end_labels(axes, ends)


def _when(found: Trend, place: int) -> str:
    visit = found.visits[place]
    return f"{visit.started_at[:10]}\n{visit.commit or 'no commit'}"


def _name(part: Slice, row: CellRow) -> str:
    cell = row.cell
    if row.is_autoregressive:
        return f"batch {cell.batch_size}, autoregressive"
    return f"batch {cell.batch_size}, {part.block_label(cell.block_length or 0)} x {steps_in_short(cell)}"


def _answer(found: Trend) -> str:
    days = f"{found.visits[0].started_at[:10]} to {found.visits[-1].started_at[:10]}"
    over = f"Over {counted(len(found.visits), 'run')} of {counted(len(found.cells), 'cell')} from {days}"
    if not found.changes:
        return f"{over}, no cell is faster or slower than in the run before by more than the intervals of both."
    changed = counted(len({change.row.cell_id for change in found.changes}), "cell")
    return (
        f"{over}, {changed} changed from one run to the next by more than the intervals of both, most of all "
        f"{_told(found, found.changes[0])}."
    )


def _told(found: Trend, change: Change) -> str:
    commit = found.visits[change.place].commit
    way = "faster" if change.ratio > 1 else "slower"
    where = f"in the run of {found.visits[change.place].started_at[:10]}" + (f" (commit {commit})" if commit else "")
    return f"{short(change.row.cell.label, 80)}, {percent(abs(change.ratio - 1))} {way} {where} than before it"


def _next_step(found: Trend) -> str:
    if found.changes:
        return "measure the two commits around the change in turns on one machine before blaming either."
    return "add runs of later commits as they come: `report RUN RUN ...`."
