"""One row per planned cell: what became of it, its metrics with intervals, and what a reader must know about it."""

from __future__ import annotations

import marshal
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from harness.analysis.experts import ExpertsRead, experts_read
from harness.analysis.floors import floors_of
from harness.analysis.metrics import Missing
from harness.analysis.parts import StepParts, step_parts
from harness.analysis.run_data import CellPlan, Run
from harness.analysis.settling import settled_rows
from harness.analysis.stability import Pace, paces_of
from harness.analysis.summary import Summary
from harness.analysis.values import summaries_of
from harness.records import processes
from harness.records.stored import in_memory
from harness.records.types import AUTOREGRESSIVE, FAILED_STATUSES, PRUNED, Cell, Record

MISSING = "missing"  # planned, and no record
# A cell is as bad as its worst launch.
_WORST_FIRST = ("error", "timeout", MISSING, "oom", PRUNED, "unsupported", "ok")
INCOMPLETE_STATUSES = (*FAILED_STATUSES, MISSING)
_CHUNK = 256  # cells; neighbours in a plan are compared with the same others
UNBALANCED_RATIO = 1.25
UNBALANCED, UNTRAINED_BLOCK = "unbalanced baseline", "not the trained block length"
BELOW_FLOOR = "faster than its floor: the roof is not this machine's, or weights stay in a cache"


@dataclass(frozen=True, kw_only=True, slots=True)
class CellRow:
    """A planned cell of a run. Only rounds of records with status ok count."""

    run_id: str
    cell_id: str
    cell: Cell
    twin_id: str | None
    status: str
    reason: str | None
    metrics: dict[str, Summary]
    missing: dict[str, str]  # metric -> why it is absent
    marks: tuple[str, ...]
    source: str = "measured"
    floor_roof: str | None = None  # datasheet | measured: whose roofs its floor uses
    floor_experts: str | None = None  # measured | uniform | zipf | replay: whose distinct experts
    peer_id: str | None = None
    parts: StepParts | None = None  # of a step, where the backend took their times
    experts: ExpertsRead | None = None  # of a pass, where the backend counted them
    paces: tuple[Pace, ...] = ()  # of its launches that ended well
    is_settled: bool = False  # whether a backend counted when positions settle
    resolved: frozenset[str] = frozenset()  # kernels and dtypes that really ran, as "name: value"

    @property
    def is_autoregressive(self) -> bool:
        return self.cell.decoding == AUTOREGRESSIVE

    @property
    def is_simulated(self) -> bool:
        return self.cell.backend == "fake" or bool(self.cell.drawn)

    @property
    def is_synthetic(self) -> bool:
        return bool(self.cell.options.get("synthetic"))

    def value(self, metric: str) -> float | None:
        summary = self.metrics.get(metric)
        return None if summary is None else summary.value

    def to_json(self) -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "cell_id": self.cell_id,
            "cell": asdict(self.cell),
            "twin_id": self.twin_id,
            "peer_id": self.peer_id,
            "status": self.status,
            "reason": self.reason,
            "source": self.source,
            "simulated": self.is_simulated,
            "synthetic": self.is_synthetic,
            "drawn": self.cell.drawn,
            "floor_roof": self.floor_roof,
            "floor_experts": self.floor_experts,
            "metrics": {name: summary._asdict() for name, summary in self.metrics.items()},
            "missing": self.missing,
            "step_parts": None if self.parts is None else self.parts.to_json(),
            "marks": list(self.marks),
        }


def rows_of(runs: Mapping[str, Run]) -> list[CellRow]:
    """Every planned cell of the runs, in plan order. runs: run id -> run."""
    chunks = [
        (run_id, run.cells[start : start + _CHUNK])
        for run_id, run in runs.items()
        for start in range(0, len(run.cells), _CHUNK)
    ]
    is_worth_it = sum(len(run.cells) for run in runs.values()) >= processes.WORTH_IT

    def found_in(chunk: tuple[str, Sequence[CellPlan]]) -> tuple[bytes, list[dict[str, Any]]]:
        found = [_found(planned, runs[chunk[0]]) for planned in chunk[1]]
        # marshal, unlike pickle, keeps what is one number in several places one: a median is one of the rounds.
        return marshal.dumps([plain for plain, _ in found]), [others for _, others in found]

    known: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
    rows = {}
    for (run_id, cells), done in zip(chunks, processes.of_each(found_in, chunks, is_worth_it=is_worth_it), strict=True):
        for planned, (metrics, missing), others in zip(cells, marshal.loads(done[0]), done[1], strict=True):
            rows[run_id, planned.cell_id] = CellRow(
                run_id=run_id,
                cell_id=planned.cell_id,
                cell=planned.cell,
                twin_id=planned.twin_id,
                peer_id=planned.peer_id,
                metrics={name: Summary._make(values) for name, values in metrics.items()},
                # Thousands of cells lack the same for the same reasons.
                missing=known.setdefault(tuple(missing.items()), missing),
                marks=(),
                **others,
            )
    return [_marked(row, rows.get((row.run_id, row.twin_id or "")), runs[row.run_id]) for row in rows.values()]


_Plain = tuple[dict[str, tuple[Any, ...]], dict[str, str]]  # metric -> its summary's values, or why it is missing


def _found(planned: CellPlan, run: Run) -> tuple[_Plain, dict[str, Any]]:
    """What a cell's records say: metrics as plain values, and other fields of its row."""
    launches = range(int(run.plan["protocol"]["launches"]))
    records = [run.final.get((planned.cell_id, launch)) for launch in launches]
    status, reason = _status(records)
    finished = [in_memory(record) for record in run.ok_records(planned.cell_id)]
    metrics, missing = summaries_of(planned, finished, run)
    roof, experts = _floor_basis(finished, planned, run)
    others = {
        "status": status,
        "reason": reason,
        "floor_roof": roof,
        "floor_experts": experts,
        "parts": step_parts(finished),
        "experts": experts_read(finished),
        "paces": paces_of(finished),
        "is_settled": any(map(settled_rows, finished)),
        "resolved": _resolved(records),
    }
    return ({name: tuple(summary) for name, summary in metrics.items()}, missing), others


def _floor_basis(records: list[Record], planned: CellPlan, run: Run) -> tuple[str | None, str | None]:
    """Whose roofs and whose distinct experts the cell's floor uses."""
    for record in records:
        try:
            floors = floors_of(record, planned, run)
        except Missing:
            continue
        return floors.roof, floors.experts
    return None, None


def _resolved(records: list[Record | None]) -> frozenset[str]:
    """By the first round of each launch, whatever became of it."""
    first = [round for record in records if record is not None for round in record.rounds[:1]]
    return frozenset(f"{name}: {value}" for round in first for name, value in round.resolved.items())


def _status(records: list[Record | None]) -> tuple[str, str | None]:
    statuses = [_status_of(record) for record in records]
    worst = min(statuses, key=_WORST_FIRST.index)
    if worst == "ok":
        return worst, None
    said = next((r.reason for r, s in zip(records, statuses, strict=True) if s == worst and r is not None), None)
    unsaid = "planned, but there is no record of it" if worst == MISSING else "no reason recorded"
    reason = (said or unsaid).removeprefix(f"{PRUNED}: ")
    count = statuses.count(worst)
    return worst, reason if len(records) == 1 else f"{count} of {len(records)} launches: {reason}"


def _status_of(record: Record | None) -> str:
    """The record's status; pruned is told apart from an out of memory that was measured."""
    if record is None or record.is_interrupted:
        return MISSING
    return PRUNED if record.is_pruned else record.status


def _marked(row: CellRow, twin: CellRow | None, run: Run) -> CellRow:
    marks: list[str] = []
    trained = run.trained_block_length
    if row.cell.block_length is not None and trained is not None and row.cell.block_length != trained:
        marks.append(UNTRAINED_BLOCK)
    if twin is not None and "speedup_vs_ar" in row.metrics:
        shares = [one.value("floor_share") for one in (row, twin)]
        known = [share for share in shares if share]
        if len(known) == 2 and max(known) / min(known) > UNBALANCED_RATIO:
            marks.append(UNBALANCED)
        lengths = [one.value("useful_tokens_per_row") for one in (row, twin)]
        if row.cell.eos == "respect" and None not in lengths:
            both = [f"{length:.4g}" for length in lengths]
            against = "on both sides" if both[0] == both[1] else f"against {both[1]}"
            marks.append(f"answers of {both[0]} tokens {against}")
    if (row.value("floor_share") or 0) > 1:
        marks.append(BELOW_FLOOR)
    marks += row.cell.drawn
    if row.status != "ok" and row.metrics:
        marks.append("from its finished launches only")
    return replace(row, marks=tuple(marks)) if marks else row
