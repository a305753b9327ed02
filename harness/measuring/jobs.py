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

    @property
    def backend(self) -> str:
        """That of its cells, or of the first one where they may share a process."""
        return self.members[0][0].cell.backend


def due_jobs(
    plan: Plan, final: Mapping[tuple[str, int], Record], workers_of_this_run: Collection[str] = ()
) -> list[Job]:
    """Groups of our share in which something is due: launch by launch, and so that equal weights are loaded once.

    final: (cell_id, launch) -> the latest attempt's record. Every status is final until retry_failed, and what this
    very run has measured is not tried again by it; an interruption is no status.
    """
    groups = sorted(_apart(plan), key=lambda group: load_key(group[0].cell))  # stable: plan order within a load
    jobs = []
    for launch in range(plan.config.protocol.launches):
        for group in groups:
            records = {p.cell_id: final.get((p.cell_id, launch)) for p in group}
            due = [p for p in group if _is_due(records[p.cell_id], plan, workers_of_this_run)]
            if due:
                due = _with_compared(due, group, records)
                attempts = (1 if (r := records[p.cell_id]) is None else r.attempt + 1 for p in due)
                jobs.append(Job(launch=launch, members=tuple(zip(due, attempts, strict=True))))
    return jobs


def of_one_process(jobs: Sequence[Job], plan: Plan) -> list[Job]:
    """Of the due jobs, in order, those that the next process does: a launch's, of one backend of it, or just one."""
    if plan.config.isolation == "process":
        return list(jobs[:1])
    alike = [job for job in jobs if job.launch == jobs[0].launch]
    if plan.config.isolation == "backend":
        alike = [job for job in alike if job.backend == jobs[0].backend]
    return alike


def _apart(plan: Plan) -> list[list[PlannedCell]]:
    """Our share's groups, taken apart into what may share a process."""
    parts: dict[tuple[str, str], list[PlannedCell]] = {}
    for group in plan.own_groups:
        for planned in group:
            kinds = {"launch": "", "backend": planned.cell.backend, "process": planned.cell_id}
            parts.setdefault((planned.group_id, kinds[plan.config.isolation]), []).append(planned)
    return list(parts.values())


def _with_compared(
    due: Sequence[PlannedCell], group: Sequence[PlannedCell], records: Mapping[str, Record | None]
) -> list[PlannedCell]:
    """The due cells of a group with those that they are compared with, because that needs rounds of one process.

    A cell that failed is left out: it would fail again.
    """
    wanted, num_before = {p.cell_id for p in due}, 0
    while len(wanted) > num_before:  # what is measured again is compared again
        num_before = len(wanted)
        others = {other for p in group if p.cell_id in wanted for other in (p.twin_id, p.peer_id) if other}
        wanted |= {p for p in others if (record := records.get(p)) and record.status == "ok"}
    return [planned for planned in group if planned.cell_id in wanted]


def load_key(cell: Cell) -> tuple[str, ...]:
    """Cells with equal keys share one model load."""
    dtypes = (cell.weight_dtype, cell.activation_dtype, cell.kv_dtype, cell.head_dtype)
    return (cell.model, *dtypes, str(cell.options.get("window")))


def _is_due(record: Record | None, plan: Plan, workers_of_this_run: Collection[str]) -> bool:
    if record is None or record.is_interrupted:
        return True
    retries = plan.config.retry_failed and record.status in FAILED_STATUSES
    return retries and record.worker not in workers_of_this_run
