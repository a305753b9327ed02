"""What became of the planned cells: counts per device, and every cell that gave nothing, by reason."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from harness.analysis.analyse import Analysis
from harness.analysis.rows import MISSING
from harness.records.types import FAILED_STATUSES, PRUNED, Cell
from harness.report.wording import counted, listed

SKIPPED = "skipped"  # by the plan: no record will ever say it
# What a reader must act upon comes first.
_WORST_FIRST = (*FAILED_STATUSES, MISSING, "oom", PRUNED, "unsupported", SKIPPED)
# What the words of the tables mean, for those that occur.
MEANINGS = {
    "timeout": "took longer than it may",
    MISSING: "planned, without a finished record; the run's own command goes on",
    "oom": "tried, and out of memory",
    PRUNED: "not tried, because a smaller batch of the same line was out of memory",
    "unsupported": "the backend cannot do it",
    SKIPPED: "left out by the plan",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Cells with one status for one reason. Reasons that differ in their numbers alone count as one."""

    status: str
    reason: str
    count: int
    among: str


def coverage_by_device(analysis: Analysis) -> tuple[list[str], list[tuple[str, list[int]]]]:
    """Names of the columns, and each device with its counts."""
    devices: dict[str, Counter[str]] = {}
    columns: dict[str, None] = {}
    for run_id, run in analysis.runs.items():
        counts = analysis.coverage(run_id)
        columns |= dict.fromkeys(counts)
        devices.setdefault(run.device_name, Counter()).update(counts)
    return list(columns), [(name, [counts[column] for column in columns]) for name, counts in devices.items()]


def outcomes(analysis: Analysis) -> list[Outcome]:
    """Every cell that is not ok: the worst statuses first, of each the most frequent reason first."""
    found: dict[tuple[str, str], list[tuple[str, Cell]]] = {}
    for row in analysis.rows:
        if row.status != "ok":
            _add(found, row.status, row.reason or "no reason recorded", row.cell)
    for _, skipped in analysis.skipped:
        _add(found, SKIPPED, skipped.reason, skipped.cell)
    grouped = [_outcome(status, entries) for (status, _), entries in found.items()]
    return sorted(grouped, key=lambda one: (_WORST_FIRST.index(one.status), -one.count, one.reason))


def meanings(shown: list[Outcome]) -> str:
    """The statuses that a reader could take for something else."""
    statuses = {one.status for one in shown}
    return "; ".join(f"{status}: {meaning}" for status, meaning in MEANINGS.items() if status in statuses)


def _add(found: dict[tuple[str, str], list[tuple[str, Cell]]], status: str, reason: str, cell: Cell) -> None:
    found.setdefault((status, re.sub(r"\d+(?:[.,]\d+)*", "#", reason)), []).append((reason, cell))


def _outcome(status: str, entries: list[tuple[str, Cell]]) -> Outcome:
    others = len({reason for reason, _ in entries}) - 1
    more = f" (and {counted(others, 'reason')} like it with other numbers)" if others else ""
    return Outcome(
        status=status, reason=entries[0][0] + more, count=len(entries), among=_among([cell for _, cell in entries])
    )


def _among(cells: list[Cell]) -> str:
    blocks = sorted({cell.block_length for cell in cells if cell.block_length is not None})
    kinds = [f"block {listed(blocks)}"] if blocks else []
    kinds += ["autoregressive"] if any(cell.block_length is None for cell in cells) else []
    return f"batch {listed(sorted({cell.batch_size for cell in cells}))}; {', '.join(kinds)}"
