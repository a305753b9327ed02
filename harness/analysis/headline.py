"""The one configuration that a run's headline speaks of, and the numbers that belong to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.analysis.crossover import Line, line_key, lines_of
from harness.analysis.rows import CellRow
from harness.analysis.run_data import Run
from harness.analysis.summary import Summary


@dataclass(frozen=True, kw_only=True, slots=True)
class Headline:
    """The fastest diffusion cell at the smallest batch that any diffusion cell was measured at, and its twin.

    "Fastest" is by useful_tok_s alone: with fixed steps nothing here knows the quality of the text. A run that
    measured one decoder alone has the other side empty.
    """

    run_id: str
    device: str
    batch_size: int | None
    diffusion: CellRow | None
    autoregressive: CellRow | None
    line: Line | None
    speedups_at_batch: tuple[float, ...]  # of every diffusion cell at that batch: what the fastest was chosen from
    apart: str = ""  # what tells the run from others on its device

    @property
    def where(self) -> str:
        """The device, and which run on it where there are several."""
        return f"{self.device} ({self.apart})" if self.apart else self.device

    @property
    def speedup(self) -> Summary | None:
        return None if self.diffusion is None else self.diffusion.metrics.get("speedup_vs_ar")

    def to_json(self) -> dict[str, Any]:
        sides = {"diffusion": self.diffusion, "autoregressive": self.autoregressive}
        return {
            "run_id": self.run_id,
            "device": self.device,
            "batch_size": self.batch_size,
            "speedup_vs_ar": None if self.speedup is None else self.speedup._asdict(),
            "speedups_at_batch": list(self.speedups_at_batch),
            "crossover": None if self.line is None else self.line.to_json(),
            **{name: None if row is None else _side(row) for name, row in sides.items()},
        }


def headline_of(run: Run, run_id: str, rows: list[CellRow]) -> Headline:
    """The headline of one run from its own rows, those of its peer left out."""
    rows = [row for row in rows if row.run_id == run_id and row.cell.backend != run.peer]
    measured = [row for row in rows if "useful_tok_s" in row.metrics]
    diffusion = _fastest([row for row in measured if not row.is_autoregressive])
    if diffusion is None:
        autoregressive = _fastest([row for row in measured if row.is_autoregressive])
    else:
        autoregressive = next((row for row in measured if row.cell_id == diffusion.twin_id), None)
    shown = diffusion or autoregressive
    lines = lines_of(rows)
    return Headline(
        run_id=run_id,
        device=run.device_name,
        batch_size=None if shown is None else shown.cell.batch_size,
        diffusion=diffusion,
        autoregressive=autoregressive,
        line=next(
            (line for line in lines if diffusion and line_key(line.cells[0].cell) == line_key(diffusion.cell)), None
        ),
        speedups_at_batch=tuple(
            row.metrics["speedup_vs_ar"].value
            for row in measured
            if diffusion and row.cell.batch_size == diffusion.cell.batch_size and "speedup_vs_ar" in row.metrics
        ),
    )


def _fastest(rows: list[CellRow]) -> CellRow | None:
    smallest = min((row.cell.batch_size for row in rows), default=None)
    return max(
        (row for row in rows if row.cell.batch_size == smallest),
        key=lambda row: row.metrics["useful_tok_s"].value,
        default=None,
    )


def _side(row: CellRow) -> dict[str, Any]:
    tok_s = row.metrics["useful_tok_s"]
    return {
        "cell_id": row.cell_id,
        "label": row.cell.label,
        "useful_tok_s": tok_s._asdict(),
        "floor_share": row.value("floor_share"),
        "floor_share_missing": row.missing.get("floor_share"),
    }
