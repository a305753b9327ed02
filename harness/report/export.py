"""What a page shows, as files for other programs: pictures, table, summaries, badge. Equal runs give equal bytes."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from harness.analysis.analyse import Analysis
from harness.analysis.metrics import METRICS
from harness.analysis.rows import CellRow
from harness.records.texts import plain
from harness.records.types import Cell, to_json
from harness.report.badge import badge
from harness.report.export_folder import replace_files
from harness.report.markdown import summary_text

if TYPE_CHECKING:
    import pandas as pd

# A spreadsheet takes a text that begins so for a formula; behind an apostrophe it is a text.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_WHOLE = tuple(name for name, kind in get_type_hints(Cell).items() if kind in (int, int | None))
_FLAGS = ("simulated", "synthetic")
_PARTS = ("", "_low", "_high")  # of a metric: its value and its interval
_EXACT = 2**53  # from here on a float is no exact whole number
_COUNTED = ("FLOP", "bytes", "operations", "passes")  # units of metrics that count whole things


def write_exports(analysis: Analysis, pictures: Mapping[str, tuple[str, bytes]], directory: Path) -> None:
    """Write all of it into the folder, in the place of what an earlier export made there.

    pictures: the page's figures by name, as SVG and PNG (harness/report/svg.py::files_kept).

    Raises:
        StoreError: the folder cannot be written, or a file is in the way that no export made.
    """
    files: dict[str, str | bytes] = {
        "summary.json": json.dumps(analysis.to_json(), indent=1) + "\n",
        "summary.md": summary_text(analysis),
        "badge.json": json.dumps(badge(analysis), ensure_ascii=False, indent=1) + "\n",
        "cells.csv": csv_text(analysis),
        "cells.parquet": _parquet(cell_frame(analysis)),
    }
    for name, (svg, png) in pictures.items():
        files |= {f"{name}.svg": svg, f"{name}.png": png}
    replace_files(directory, {name: one.encode() if isinstance(one, str) else one for name, one in files.items()})


def cell_frame(analysis: Analysis) -> pd.DataFrame:
    """A row for each planned cell: its configuration, what became of it, and each metric with its interval.

    A metric that no cell has gets no column; one that this cell lacks is empty, and `missing` says why. What counts
    whole things is Int64, which may be empty and stays whole beside an empty one; a text is one even where all are
    empty, so that tables of several runs can be joined.
    """
    import pandas as pd

    known = [name for name in METRICS if any(name in row.metrics for row in analysis.rows)]
    table = pd.DataFrame([_row(row, known) for row in analysis.rows])
    numbers = [f"{name}{part}" for name in known for part in _PARTS]
    types = {name: "string" for name in table if name not in _FLAGS} | dict.fromkeys(numbers, "float64")
    return table.astype(types | dict.fromkeys([*_WHOLE, *_whole_metrics(table, known)], "Int64"))


def _whole_metrics(table: pd.DataFrame, known: list[str]) -> list[str]:
    """Columns of counts, unless one of them has a half: the median of an even number of rounds may lie between two."""
    names = [f"{name}{part}" for name in known if METRICS[name].unit in _COUNTED for part in _PARTS]
    return [name for name in names if ((table[name].dropna() % 1 == 0) & (table[name].dropna() < _EXACT)).all()]


def _row(row: CellRow, metrics: list[str]) -> dict[str, Any]:
    told: dict[str, Any] = {
        "run_id": row.run_id,
        "cell_id": row.cell_id,
        "twin_id": row.twin_id,
        "source": row.source,
        "simulated": row.is_simulated,
        "synthetic": row.is_synthetic,
        **{name: _flat(value) for name, value in to_json(row.cell).items()},
        "status": row.status,
        "reason": row.reason,
        "marks": "; ".join(row.marks),
        "floor_roof": row.floor_roof,
        "floor_experts": row.floor_experts,
    }
    for name in metrics:
        summary = row.metrics.get(name)
        told |= {f"{name}{part}": None for part in _PARTS}
        if summary is not None:
            told |= {name: summary.value, f"{name}_low": summary.low, f"{name}_high": summary.high}
    told["missing"] = json.dumps({name: row.missing[name] for name in metrics if name in row.missing})
    return {name: plain(value) if isinstance(value, str) else value for name, value in told.items()}


def _flat(value: Any) -> Any:
    return json.dumps(value, sort_keys=True) if isinstance(value, dict) else value


def csv_text(analysis: Analysis) -> str:
    """The table with no text that a spreadsheet would run. Numbers stay numbers, negative ones too."""
    table = cell_frame(analysis)
    for name in table.select_dtypes(exclude="number"):
        table[name] = table[name].map(lambda v: f"'{v}" if isinstance(v, str) and v.startswith(_FORMULA) else v)
    return str(table.to_csv(index=False, lineterminator="\n"))


def _parquet(table: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()
