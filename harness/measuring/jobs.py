"""What is still to be measured, in the order in which it is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from harness.records.types import FAILED_STATUSES, Cell, Record
from harness.spec.plan import Plan, PlannedCell


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One group in one launch: the cells of it that are due, with the attempt each of them is on."""

    launch: int
    members: tuple[tuple[PlannedCell, int], ...]


def due_jobs(
    plan: Plan, final: Mapping[tuple[str, int], Record], workers_of_this_run: Collection[str] = ()
) -> list[Job]:
    """Groups of our share in which something is due: launch by launch, and so that equal weights are loaded once.

    final: (cell_id, launch) -> the latest attempt's record. Every status is final until retry_failed, and what this
    very run has measured is not tried again by it; an interruption is no status.
    """
    groups = _apart(plan.own_groups) if plan.config.isolation == "process" else plan.own_groups
    groups = sorted(groups, key=lambda group: load_key(group[0].cell))  # stable: plan order within a load
    jobs = []
    for launch in range(plan.config.protocol.launches):
        for group in groups:
            records = {p.cell_id: final.get((p.cell_id, launch)) for p in group}
            due = [p for p in group if _is_due(records[p.cell_id], plan, workers_of_this_run)]
            # Speed-ups need rounds of one process; an anchor that failed would fail again.
            wanted = {p.twin_id for p in due} - {p.cell_id for p in due}
            due[:0] = [
                p for p in group if p.cell_id in wanted and (r := records[p.cell_id]) is not None and r.status == "ok"
            ]
            if due:
                attempts = (1 if (r := records[p.cell_id]) is None else r.attempt + 1 for p in due)
                jobs.append(Job(launch=launch, members=tuple(zip(due, attempts, strict=True))))
    return jobs


def of_one_process(jobs: Sequence[Job], plan: Plan) -> list[Job]:
    """Of the due jobs, in order, those that the next process does: a launch's, or with isolation=process just one."""
    if plan.config.isolation == "process":
        return list(jobs[:1])
    return [job for job in jobs if job.launch == jobs[0].launch]


def _apart(groups: Sequence[Sequence[PlannedCell]]) -> list[list[PlannedCell]]:
    """Every cell as a group of its own."""
    return [[planned] for group in groups for planned in group]


def load_key(cell: Cell) -> tuple[str, ...]:
    """Cells with equal keys share one model load."""
    dtypes = (cell.weight_dtype, cell.activation_dtype, cell.kv_dtype, cell.head_dtype)
    return (cell.model, *dtypes, str(cell.options.get("window")))


def _is_due(record: Record | None, plan: Plan, workers_of_this_run: Collection[str]) -> bool:
    if record is None or record.is_interrupted:
        return True
    retries = plan.config.retry_failed and record.status in FAILED_STATUSES
    return retries and record.worker not in workers_of_this_run
