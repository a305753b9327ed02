"""One self-contained HTML page from an analysis: no network, no date, the same bytes every time."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from harness.analysis.analyse import Analysis
from harness.report import claims, outcomes, tables
from harness.report.figures.base import Figure, FigureKind, NotDrawn
from harness.report.figures.registry import FIGURES
from harness.report.slices import Slice, slices_of
from harness.report.wording import counted, plain

_FOLDER = Path(__file__).parent
# Slices that differ in prompts, lengths or dtypes multiply figures; the table still holds every cell.
_MOST_SLICES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """A figure of one slice, or why there is none."""

    part: Slice
    figure: Figure | None
    why_not: str
    is_open: bool
    rows_filter: str


def build_page(analysis: Analysis) -> str:
    """The page. Texts from records and plans reach it as text, whatever they hold."""
    script = (_FOLDER / "page.js").read_text(encoding="utf-8")
    parts = _headlines_first(analysis, slices_of(analysis))
    table = tables.cell_table(analysis)
    ended_badly = outcomes.outcomes(analysis)
    keys = {column["key"] for column in table["columns"]}
    template = _templates().get_template("page.html")
    return template.render(
        analysis=analysis,
        title=f"canvasbench: {', '.join(dict.fromkeys(run.suite for run in analysis.runs.values())) or 'no run'}",
        style=Markup((_FOLDER / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        qualifiers=claims.qualifiers(analysis),
        headlines=[
            (headline, claims.verdict(headline), claims.tiles(headline, analysis)) for headline in analysis.headlines
        ],
        sections=[(kind, _draw_all(kind, parts, keys)) for kind in FIGURES],
        more_slices=counted(max(0, len(parts) - _MOST_SLICES), "more combination") if len(parts) > _MOST_SLICES else "",
        island=_island(table),
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
    """A figure of each slice; the first of each run stands open: that of its headline."""
    drawn = []
    opened: set[str] = set()
    for number, part in enumerate(parts[:_MOST_SLICES]):
        figure, why_not = None, ""
        try:
            figure = kind.draw(part, f"{kind.name}-{number}")
        except NotDrawn as reason:
            why_not = str(reason)
        rows = "" if figure is None else f"{figure.rows_filter} {tables.slice_filter(part, keys)}".strip()
        is_open = part.run_id not in opened
        drawn.append(Drawn(part=part, figure=figure, why_not=why_not, is_open=is_open, rows_filter=rows))
        opened.add(part.run_id)
    return drawn


def _island(table: dict[str, Any]) -> Markup:
    """JSON for a script element. An escaped < can end no element and start no comment."""
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
