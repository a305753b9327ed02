"""The result as Markdown, for a pull request or a wiki: verdict first, then small tables."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis.analyse import Analysis
from harness.records.texts import plain, short
from harness.report import claims, headlines, qualifiers
from harness.report.gate.markdown import escaped
from harness.report.slices import slices_of
from harness.report.terminal import BATCH_HEADER, batch_rows
from harness.report.wording import counted

_MOST_TABLES, _MOST_WARNINGS = 8, 10


def summary_text(analysis: Analysis) -> str:
    """Verdicts, what limits them, tiles, the fastest setting of each batch, claims, coverage, warnings."""
    parts = [_line(headlines.verdict(headline)) for headline in analysis.headlines]
    parts.append("\n".join(f"- {_line(text)}" for text in qualifiers.qualifiers(analysis)))
    for headline in analysis.headlines:
        tiles = headlines.tiles(headline, analysis)
        told = [(tile.name, f"{tile.value} {tile.unit}".strip(), "; ".join(tile.notes)) for tile in tiles]
        parts.append(_table((headline.device, "value", "notes"), told))
    tables = [(part.title, batch_rows(part)) for part in slices_of(analysis)]
    for title, rows in tables[:_MOST_TABLES]:
        parts += [_line(title) if title else "", _table(BATCH_HEADER, rows)] if rows else []
    if len(tables) > _MOST_TABLES:
        parts.append(f"{counted(len(tables) - _MOST_TABLES, 'more table')} on the page")
    parts.append("\n".join(f"- {_line(text)}" for text in claims.lines(analysis.claims)))
    parts.append(", ".join(f"{count} {name}" for name, count in analysis.coverage().items()))
    parts.append("\n".join(f"- {_line(short(text, 300))}" for text in analysis.warnings[:_MOST_WARNINGS]))
    return "\n\n".join(part for part in parts if part) + "\n"


def _line(text: str) -> str:
    return escaped(plain(text))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell if cell == "---" else _line(cell) for cell in line) + " |" for line in lines
    )
