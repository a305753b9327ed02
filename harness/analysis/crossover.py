"""The batch at which the faster decoder changes: a list, because the ratio can rise before it falls."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from harness.analysis.rows import CellRow
from harness.analysis.summary import Summary
from harness.records.types import AUTOREGRESSIVE, BLOCK_DIFFUSION, Cell, equal_but_for

NONE_IN_SWEEP = "none in the sweep"
Points = Sequence[tuple[int, float]]  # (batch, speed-up), by growing batch


class Passing(NamedTuple):
    """A speed-up passes 1 at a batch between two of the line's."""

    batch_size: float
    before: int
    after: int
    interpolated: bool


def passings_of(points: Points) -> list[Passing]:
    """Log-log interpolated, but where the speed-up is exactly 1: such a batch has no side, so its neighbours decide."""
    sided = [(batch, value) for batch, value in points if value != 1]
    even = [batch for batch, value in points if value == 1]
    found = []
    for (before, low), (after, high) in pairwise(sided):
        if (low > 1) != (high > 1):
            exact = [batch for batch in even if before < batch < after]
            share = math.log(low) / (math.log(low) - math.log(high))
            place = float(exact[0]) if exact else before * (after / before) ** share
            found.append(Passing(place, before, after, not exact))
    return found


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
        known = dict(self.speedups)
        return [
            Crossing(
                batch_size=one.batch_size,
                between=(one.before, one.after),
                slower_from_here=BLOCK_DIFFUSION if known[one.before].value > 1 else AUTOREGRESSIVE,
                interpolated=one.interpolated,
                is_clear=all(not s.low <= 1 <= s.high for s in (known[one.before], known[one.after])),
            )
            for one in passings_of([(batch, summary.value) for batch, summary in self.speedups])
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
