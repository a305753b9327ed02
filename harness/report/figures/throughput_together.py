"""Throughput against batch on several devices, or of several runs: a panel each, on the same scales."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from harness.analysis.crossover import Line
from harness.analysis.rows import MISSING, CellRow
from harness.report import svg
from harness.report.figures.base import ROUNDS, Figure, NotDrawn, fastest_first, log2_axis, log_axis, measured
from harness.report.figures.panels import Panel, chosen, name_of, panels
from harness.report.figures.sides import Side
from harness.report.figures.throughput import (
    QUESTION,
    best_and_others,
    between_crossings,
    crossings_of,
    mark,
    plot_lines,
)
from harness.report.slices import Slice
from harness.report.wording import AUTOREGRESSIVE_NAME, counted, lead_of, listed, setting, tok_s

_PANEL_IN, _HEAD_IN = 2.3, 0.34


@dataclass(frozen=True, kw_only=True, slots=True)
class _One:
    """A slice with the lines that its panel shows."""

    part: Slice
    best: Line | None
    others: list[Line]

    @property
    def name(self) -> str:
        return name_of(self.part)

    @property
    def rows(self) -> list[CellRow]:
        lines = [self.best, *self.others] if self.best else []
        return measured([*(row for line in lines for row in line.cells), *self.part.autoregressive])

    @property
    def speedups(self) -> list[tuple[int, float]]:
        return [(size, summary.value) for size, summary in self.best.speedups] if self.best else []


def throughput_together(parts: Sequence[Slice], name: str) -> Figure:
    """Each panel is what the slice's own figure shows: its fastest setting at the smallest batch, and its twins."""
    finished = [part for part in parts if measured(part.rows)]
    if not finished:
        raise NotDrawn("no finished cell")
    shown, note = chosen(finished)
    ones = [_one(part) for part in shown]
    with svg.style():
        drawing, _, places = panels(
            shown, ROUNDS, height_in=_PANEL_IN, head_in=_HEAD_IN, subtitles=[_subtitle(one) for one in ones]
        )
        for one, panel in zip(ones, places, strict=True):
            _draw(panel, one, ones)
        _legend(drawing, ones)
        answer = _answer([_one(part) for part in finished], [part for part in parts if part not in finished]) + note
        picture = svg.to_svg(drawing, name=name, title=QUESTION, description=answer)
    steps = dict.fromkeys(str(one.best.cells[0].cell.num_steps) for one in ones if one.best)
    rows_filter = f"num_steps={'|'.join(steps)}|" if steps else "decoding=autoregressive"
    return Figure(answer=answer, next_step=_next_step(parts, ones), rows_filter=rows_filter, picture=picture)


def _one(part: Slice) -> _One:
    best, others = best_and_others(part)
    return _One(part=part, best=best, others=others)


def _subtitle(one: _One) -> str:
    return setting(one.best.cells[0].cell) if one.best else AUTOREGRESSIVE_NAME + " alone"


def _draw(panel: Panel, one: _One, ones: Sequence[_One]) -> None:
    axes = panel.axes
    plot_lines(axes, one.part, one.best, one.others, has_small_markers=False)
    every = [row for other in ones for row in other.rows]
    log2_axis(axes, [row.cell.batch_size for row in every], "batch size" if panel.is_last else "")
    _same_heights(axes, every)
    log_axis(axes, "useful tok/s, whole batch" if panel.is_first else "")
    axes.tick_params(labelsize=8.5, labelleft=panel.is_first)
    for crossing in one.best.crossings if one.best else []:
        mark(axes, crossing)


def _same_heights(axes: Axes, rows: Iterable[CellRow]) -> None:
    """One scale for all panels, with room at the foot for the labels of crossings."""
    values = [end for row in rows for end in (row.metrics["useful_tok_s"].minimum, row.metrics["useful_tok_s"].maximum)]
    low, high = min(values), max(values)
    axes.set_ylim(low / max(1.5, (high / low) ** 0.22), high * 1.2)


def _legend(drawing: Drawing, ones: Sequence[_One]) -> None:
    def line(side: Side, label: str, *, is_main: bool = True) -> Line2D:
        width, size, alpha = (2.2, 6.0, 1.0) if is_main else (1.1, 3.5, 0.55)
        return Line2D(
            [], [], color=side.colour, linestyle=side.line, marker=side.marker if is_main else "", linewidth=width,
            markersize=size, alpha=alpha, label=label,
        )  # fmt: skip

    diffusion, autoregressive = (Side(rows=(), is_autoregressive=flag) for flag in (False, True))

    handles = []
    if any(one.best for one in ones):
        handles.append(line(diffusion, "block diffusion, setting under the title"))
    if any(one.others for one in ones):
        handles.append(line(diffusion, "other block lengths, as many steps", is_main=False))
    if any(measured(one.part.autoregressive) for one in ones):
        handles.append(line(autoregressive, "autoregressive"))
    drawing.legend(handles=handles, loc="upper left", ncols=len(handles), frameon=False, fontsize=8.5)


def _answer(ones: Sequence[_One], empty: Sequence[Slice]) -> str:
    """Where the lead changes on each device, those that agree together, and the two ends of the speed-up."""
    found: dict[str, list[str]] = {}
    for one in ones:
        found.setdefault(_told(one), []).append(one.name)
    for part in empty:
        found.setdefault("no cell finished", []).append(name_of(part))
    clauses = [f"on {listed(names)}, {told}" for told, names in found.items()]
    text = "; ".join(clauses)
    return f"{text[0].upper()}{text[1:]}.{_ends(ones)}"


def _told(one: _One) -> str:
    if one.best is None:
        row = fastest_first(one.part.autoregressive)[0]
        value = tok_s(row.metrics["useful_tok_s"].value)
        return f"only {AUTOREGRESSIVE_NAME} finished, with {value} useful tok/s at batch {row.cell.batch_size}"
    if not one.speedups:
        return "nothing can be compared: " + measured(one.best.cells)[0].missing.get("speedup_vs_ar", "no twin")
    if len(one.speedups) == 1:
        size, summary = one.best.speedups[0]
        return f"{lead_of(summary)} at batch {size}, the only one compared"
    return crossings_of(one.best)


def _ends(ones: Sequence[_One]) -> str:
    """The devices on which block diffusion does best and worst at the smallest batch that they share."""
    compared = [one for one in ones if one.speedups]
    if len(compared) < 2:
        return ""
    shared = set.intersection(*({size for size, _ in one.speedups} for one in compared))
    if not shared:
        return ""
    size = min(shared)
    summaries = [(dict(one.best.speedups)[size], one.name) for one in compared if one.best]
    (worst, on_worst), *_, (best, on_best) = sorted(summaries, key=lambda pair: pair[0].value)
    return f" At batch {size}, {lead_of(best)} on {on_best}, and {lead_of(worst)} on {on_worst}."


def _next_step(parts: Sequence[Slice], ones: Sequence[_One]) -> str:
    absent = sum(1 for part in parts for row in part.rows if row.status == MISSING)
    if absent:
        return f"finish the runs, which lack {counted(absent, 'cell')} of this picture; each run's own command goes on."
    between = sorted({size for one in ones if one.best for size in between_crossings(one.best)})
    if between:
        return f"measure inside the gaps to pin the crossovers: add {listed(between)} to axes.batch_size."
    return "choose device and decoder by your load; the table of devices at the top has what each costs."
