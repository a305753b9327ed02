"""The batch at which the faster decoder changes: a list, because the ratio can rise before it falls."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from harness.analysis.rows import CellRow
from harness.analysis.summary import Summary
from harness.records.types import AUTOREGRESSIVE, BLOCK_DIFFUSION, Cell, equal_but_for

NONE_IN_SWEEP = "none in the sweep"


@dataclass(frozen=True, kw_only=True, slots=True)
class Crossing:
    """Where the speed-up passes 1: log-log interpolated between two neighbouring measured batches, never outside."""

    batch_size: float
    between: tuple[int, int]
    slower_from_here: str  # the decoding that loses its lead when the batch grows past this point
    interpolated: bool
    is_clear: bool  # neither neighbour's interval holds 1, so noise alone does not move the crossing out of its gap


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """Cells that are equal in all but batch_size, by growing batch."""

    run_id: str
    cells: tuple[CellRow, ...]

    @property
    def speedups(self) -> list[tuple[int, Summary]]:
        return [(c.cell.batch_size, c.metrics["speedup_vs_ar"]) for c in self.cells if "speedup_vs_ar" in c.metrics]

    @property
    def crossings(self) -> list[Crossing]:
        # A batch where the ratio is exactly 1 has no side; the crossing is judged over its neighbours.
        sided = [(batch, summary) for batch, summary in self.speedups if summary.value != 1]
        even = {batch for batch, summary in self.speedups if summary.value == 1}
        return [
            _crossing(before, after, even)
            for before, after in pairwise(sided)
            if (before[1].value > 1) != (after[1].value > 1)
        ]

    @property
    def verdict(self) -> str:
        """The crossings in words, or who is faster throughout."""
        speedups = self.speedups
        if not speedups:
            return "no speed-up in this line"
        if self.crossings:
            return ", ".join(f"{c.batch_size:.3g}{' (interpolated)' if c.interpolated else ''}" for c in self.crossings)
        if all(s.value == 1 for _, s in speedups):
            return f"{NONE_IN_SWEEP}: both are equally fast"
        faster = BLOCK_DIFFUSION if all(s.value >= 1 for _, s in speedups) else AUTOREGRESSIVE
        where = f"at batch {speedups[0][0]}, the only one" if len(speedups) == 1 else "at every batch"
        return f"{NONE_IN_SWEEP}: {faster} is faster {where}"

    def to_json(self) -> dict[str, Any]:
        cell = asdict(self.cells[0].cell)
        del cell["batch_size"]
        return {
            "run_id": self.run_id,
            "line": cell,
            "batch_sizes": [batch for batch, _ in self.speedups],
            "speedups": [summary.value for _, summary in self.speedups],
            "crossings": [asdict(c) for c in self.crossings],
            "verdict": self.verdict,
        }


def lines_of(rows: list[CellRow]) -> list[Line]:
    """The block-diffusion cells, grouped into lines in plan order."""
    grouped: dict[tuple[str, Hashable], list[CellRow]] = {}
    for row in rows:
        if not row.is_autoregressive:
            grouped.setdefault((row.run_id, line_key(row.cell)), []).append(row)
    return [
        Line(run_id=run_id, cells=tuple(sorted(cells, key=lambda r: r.cell.batch_size)))
        for (run_id, _), cells in grouped.items()
    ]


def line_key(cell: Cell) -> Hashable:
    """Equal for cells that differ in batch_size alone."""
    return equal_but_for(cell, "batch_size")


def _crossing(before: tuple[int, Summary], after: tuple[int, Summary], even: set[int]) -> Crossing:
    (low_batch, low), (high_batch, high) = before, after
    exact = sorted(batch for batch in even if low_batch < batch < high_batch)
    share = math.log(low.value) / (math.log(low.value) - math.log(high.value))
    interpolated = low_batch * (high_batch / low_batch) ** share
    return Crossing(
        batch_size=float(exact[0]) if exact else interpolated,
        between=(low_batch, high_batch),
        slower_from_here=BLOCK_DIFFUSION if low.value > 1 else AUTOREGRESSIVE,
        interpolated=not exact,
        is_clear=all(not s.low <= 1 <= s.high for s in (low, high)),
    )
