"""One self-contained HTML page from an analysis: no network, no date, the same bytes every time."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

from markupsafe import Markup

from harness.analysis.analyse import Analysis
from harness.analysis.apart import same_cell_warnings
from harness.analysis.verdict import Verdict
from harness.records import processes
from harness.report import claims, devices, headlines, outcomes, qualifiers, svg, tables
from harness.report.figures.base import Figure, FigureKind, NotDrawn, PageFigureKind
from harness.report.figures.registry import FIGURES, PAGE_FIGURES
from harness.report.gate import html as gate
from harness.report.slices import Slice, joined, side_by_side, slices_of
from harness.report.slim import deflated, put_off, with_shared_styles
from harness.report.templates import FOLDER, style, template
from harness.report.wording import counted

# Slices that differ in prompts, lengths or dtypes multiply figures; the table still holds every cell.
_MOST_SLICES = 8
Group = tuple[Slice, ...]  # slices that differ in their run alone


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """A figure of one slice, of several side by side, or of the whole page, or why there is none."""

    title: str  # what sets its slice apart
    figure: Figure | None
    why_not: str
    is_open: bool
    is_answered: bool = False  # while it is folded its answer stands beside its title
    rows_filter: str | None


Section = tuple[FigureKind | PageFigureKind, list[Drawn], str]  # the last: what it leaves out


def build_page(analysis: Analysis, verdict: Verdict | None = None) -> str:
    """The page. Texts from records, plans and the verdict reach it as text, whatever they hold."""
    script = (FOLDER / "page.js").read_text(encoding="utf-8")
    groups = {is_wide: _headlines_first(analysis, slices_of(analysis, is_wide=is_wide)) for is_wide in (False, True)}
    ended_badly = outcomes.outcomes(analysis)
    once = [kind for kind in PAGE_FIGURES if kind.name != "merge" or not verdict]
    sections, table = _sections_and_table(analysis, groups, once)
    html = template("page.html").render(
        analysis=analysis,
        claims=claims,
        judgements=analysis.claims,
        title=f"canvasbench: {', '.join(dict.fromkeys(run.suite for run in analysis.runs.values())) or 'no run'}",
        style=style(),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        gate=None if verdict is None else gate.section(verdict),
        qualifiers=qualifiers.qualifiers(analysis),
        headlines=[
            (headline, headlines.verdict(headline), headlines.tiles(headline, analysis))
            for headline in analysis.headlines
        ],
        sections=[section for section in sections if any(one.figure for one in section[1])],
        not_drawn=_not_drawn(sections),
        devices=devices.table(analysis),
        same_cells=same_cell_warnings(analysis.runs),
        island=table,
        num_cells=len(analysis.rows) + len(analysis.skipped),
        shared=tables.shared_conditions(analysis),
        coverage=outcomes.coverage_by_device(analysis),
        outcomes=ended_badly,
        meanings=outcomes.meanings(ended_badly),
        manifests=[
            (run_id, run.plan.get("command") or "", tables.manifest(run_id, run, analysis), tables.environments(run))
            for run_id, run in analysis.runs.items()
        ],
    )
    return put_off(with_shared_styles(html))


def _headlines_first(analysis: Analysis, parts: list[Slice]) -> list[Group]:
    """The slices that the headlines speak of before the others, and with each those that differ in their run alone."""
    shown = {(one.run_id, row.cell_id) for one in analysis.headlines if (row := one.diffusion or one.autoregressive)}
    return side_by_side(
        sorted(parts, key=lambda part: not any((row.run_id, row.cell_id) in shown for row in part.rows))
    )


def _units(kind: FigureKind, groups: Sequence[Group]) -> list[Group]:
    """What the kind draws: each slice, or those together that differ in their run alone.

    Behind the first group follows what each of its slices has of its own.
    """
    if kind.draw_together is None:
        return [(part,) for group in groups for part in group]
    alone = [(part,) for group in groups[:1] if len(group) > 1 for part in group]
    return [*groups[:1], *alone, *groups[1:]]


def _sections_and_table(
    analysis: Analysis, groups: dict[bool, list[Group]], once: Sequence[PageFigureKind]
) -> tuple[list[Section], str]:
    """Every figure, and the table of all cells, packed. On a large page processes share the work, the longest first."""
    columns = tables.columns_of(analysis)
    keys = {column.key for column in columns}
    kinds = [(kind, _units(kind, groups[kind.is_wide])) for kind in FIGURES]
    jobs: list[Callable[[], Any]] = [
        lambda: deflated(tables.cell_table(analysis, columns)),
        *(partial(_draw_once, kind, analysis) for kind in once),
        *(
            partial(_draw, kind, unit, f"{kind.name}-{number}", keys)
            for kind, units in kinds
            for number, unit in enumerate(units[:_MOST_SLICES])
        ),
    ]
    done = list(processes.of_each(svg.with_files, jobs, is_worth_it=len(analysis.rows) >= processes.WORTH_IT))
    for _, files in done:
        svg.keep(files)
    drawn = iter([one for one, _ in done])
    table = next(drawn)
    drawn_once: list[Section] = [(kind, [next(drawn)], "") for kind in once]
    sections: list[Section] = []
    for kind, units in kinds:
        shown = units[:_MOST_SLICES]
        sections.append((kind, _opened(groups[kind.is_wide], shown, list(islice(drawn, len(shown)))), _left_out(units)))
    return [*sections, *drawn_once], table


def _opened(groups: Sequence[Group], units: Sequence[Group], drawn: Sequence[Drawn]) -> list[Drawn]:
    """The figures of a kind's units. Of each run stands open the first that could be drawn, or the first if none could.

    Where several runs have the same conditions, none stands open for all of them: each is folded under its answer.
    """
    one_of_several = {id(part) for group in groups if len(group) > 1 for part in group}
    shown: set[str] = set()
    opened: set[int] = set()
    folded = {number for number, unit in enumerate(units) if len(unit) == 1 and id(unit[0]) in one_of_several}
    for must_be_drawn in (True, False):
        for number, (unit, one) in enumerate(zip(units, drawn, strict=True)):
            runs = {part.run_id for part in unit}
            if number not in folded and (one.figure or not must_be_drawn) and runs - shown:
                opened.add(number)
                shown |= runs
    return [replace(one, is_open=number in opened, is_answered=number in folded) for number, one in enumerate(drawn)]


def _draw(kind: FigureKind, unit: Group, name: str, keys: Collection[str]) -> Drawn:
    whole = unit[0] if len(unit) == 1 else joined(unit)
    title = whole.title
    try:
        together = kind.draw_together if len(unit) > 1 else None
        figure = together(unit, name) if together else kind.draw(unit[0], name)
    except NotDrawn as reason:
        return Drawn(title=title, figure=None, why_not=str(reason), is_open=False, rows_filter=None)
    rows_filter = figure.rows_filter
    if rows_filter is not None:
        rows_filter = f"{rows_filter} {tables.slice_filter(unit, keys)}".strip()
    return Drawn(title=title, figure=figure, why_not="", is_open=False, rows_filter=rows_filter)


def _draw_once(kind: PageFigureKind, analysis: Analysis) -> Drawn:
    try:
        figure = kind.draw(analysis, kind.name)
    except NotDrawn as reason:
        return Drawn(title="", figure=None, why_not=str(reason), is_open=True, rows_filter=None)
    return Drawn(title="", figure=figure, why_not="", is_open=True, rows_filter=figure.rows_filter)


def _not_drawn(sections: Sequence[Section]) -> list[tuple[list[str], list[str]]]:
    """Questions that the page cannot answer, those with the same reasons together, and the reasons."""
    found: dict[tuple[str, ...], list[str]] = {}
    for kind, drawn, _ in sections:
        if not any(one.figure for one in drawn):
            reasons = tuple(dict.fromkeys(one.why_not for one in drawn))
            found.setdefault(reasons, []).append(kind.question)
    return [(questions, list(reasons)) for reasons, questions in found.items()]


def _left_out(units: Sequence[Group]) -> str:
    """How many units a section leaves out."""
    count = len(units) - _MOST_SLICES
    return counted(count, "more combination") if count > 0 else ""
