"""One self-contained HTML page from an analysis: no network, no date, the same bytes every time."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from harness.analysis.analyse import Analysis
from harness.report import claims, headlines, outcomes, tables
from harness.report.figures.base import Figure, FigureKind, NotDrawn, PageFigureKind
from harness.report.figures.registry import FIGURES, PAGE_FIGURES
from harness.report.slices import Slice, slices_of
from harness.report.slim import deflated, put_off, with_shared_styles
from harness.report.wording import counted, plain

_FOLDER = Path(__file__).parent
# Slices that differ in prompts, lengths or dtypes multiply figures; the table still holds every cell.
_MOST_SLICES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """A figure of one slice, or of the whole page, or why there is none."""

    title: str  # what sets its slice apart
    run_id: str  # "" of the whole page
    figure: Figure | None
    why_not: str
    is_open: bool
    rows_filter: str | None


def build_page(analysis: Analysis) -> str:
    """The page. Texts from records and plans reach it as text, whatever they hold."""
    script = (_FOLDER / "page.js").read_text(encoding="utf-8")
    parts = {is_wide: _headlines_first(analysis, slices_of(analysis, is_wide=is_wide)) for is_wide in (False, True)}
    table = tables.cell_table(analysis)
    ended_badly = outcomes.outcomes(analysis)
    keys = {column["key"] for column in table["columns"]}
    sections: list[tuple[FigureKind | PageFigureKind, list[Drawn], str]] = [
        *((kind, _draw_all(kind, parts[kind.is_wide], keys), _more(parts[kind.is_wide])) for kind in FIGURES),
        *((kind, [_draw_once(kind, analysis)], "") for kind in PAGE_FIGURES),
    ]
    template = _templates().get_template("page.html")
    html = template.render(
        analysis=analysis,
        claims=claims,
        judgements=analysis.claims,
        title=f"canvasbench: {', '.join(dict.fromkeys(run.suite for run in analysis.runs.values())) or 'no run'}",
        style=Markup((_FOLDER / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        qualifiers=headlines.qualifiers(analysis),
        headlines=[
            (headline, headlines.verdict(headline), headlines.tiles(headline, analysis))
            for headline in analysis.headlines
        ],
        sections=[section for section in sections if any(one.figure for one in section[1])],
        not_drawn=[
            (kind, list(dict.fromkeys(one.why_not for one in drawn)))
            for kind, drawn, _ in sections
            if not any(one.figure for one in drawn)
        ],
        island=deflated(table),
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


def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _printable(value: Any) -> Any:
    """Every text that a template prints, without what could not be encoded or would steer a terminal."""
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _headlines_first(analysis: Analysis, parts: list[Slice]) -> list[Slice]:
    """The slices that the headlines speak of before the others."""
    shown = {(one.run_id, row.cell_id) for one in analysis.headlines if (row := one.diffusion or one.autoregressive)}
    return sorted(parts, key=lambda part: not any((row.run_id, row.cell_id) in shown for row in part.rows))


def _draw_all(kind: FigureKind, parts: list[Slice], keys: Collection[str]) -> list[Drawn]:
    """A figure of each slice. The first that could be drawn stands open, or the first if none could: four runs with all
    of theirs open were 10,000 elements.
    """
    drawn = [_draw(kind, part, f"{kind.name}-{number}", keys) for number, part in enumerate(parts[:_MOST_SLICES])]
    best = next((one for one in drawn if one.figure), drawn[0] if drawn else None)
    return [replace(one, is_open=one is best) for one in drawn]


def _draw(kind: FigureKind, part: Slice, name: str, keys: Collection[str]) -> Drawn:
    try:
        figure = kind.draw(part, name)
    except NotDrawn as reason:
        return Drawn(
            title=part.title, run_id=part.run_id, figure=None, why_not=str(reason), is_open=False, rows_filter=None
        )
    rows_filter = figure.rows_filter
    if rows_filter is not None:
        rows_filter = f"{rows_filter} {tables.slice_filter(part, keys)}".strip()
    return Drawn(
        title=part.title, run_id=part.run_id, figure=figure, why_not="", is_open=False, rows_filter=rows_filter
    )


def _draw_once(kind: PageFigureKind, analysis: Analysis) -> Drawn:
    try:
        figure = kind.draw(analysis, kind.name)
    except NotDrawn as reason:
        return Drawn(title="", run_id="", figure=None, why_not=str(reason), is_open=True, rows_filter=None)
    return Drawn(title="", run_id="", figure=figure, why_not="", is_open=True, rows_filter=figure.rows_filter)


def _more(parts: list[Slice]) -> str:
    """How many slices a section leaves out."""
    return counted(len(parts) - _MOST_SLICES, "more combination") if len(parts) > _MOST_SLICES else ""
