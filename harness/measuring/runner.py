"""A plan on this machine: load once, interleave each group, write every record the moment its cell is done."""

from __future__ import annotations

import gc
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from harness.measuring.backends.base import Backend, OutOfMemory, Unsupported
from harness.measuring.cell import LiveCell
from harness.records import store
from harness.records.types import AUTOREGRESSIVE, FAILED_STATUSES, Cell, Environment, Record
from harness.spec.config import ConfigError
from harness.spec.plan import Plan, PlannedCell


class Progress(Protocol):
    """What the runner tells whoever watches."""

    def start(self, plan: Plan, todo: int) -> None: ...
    def round_done(self, planned: PlannedCell, launch: int) -> None: ...
    def cell_done(self, planned: PlannedCell, record: Record) -> None: ...
    def stop(self) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """One group in one launch: the cells of it that still need measuring, with the attempt each of them is on."""

    launch: int
    members: tuple[tuple[PlannedCell, int], ...]


def run(plan: Plan, run_dir: Path, environment: Environment, backend: Backend, progress: Progress) -> None:
    """Measure what the run directory does not hold yet.

    Raises:
        ConfigError: the model or a prompt cannot be used; what was measured before stays.
        StoreError: a record cannot be written.
    """
    worker = f"{os.getpid()}-{time.time_ns() // 1_000_000:x}"
    done = store.read_records(run_dir).final
    jobs = list(_jobs(plan, done))
    writer = store.RecordWriter(run_dir, worker)
    progress.start(plan, sum(len(job.members) for job in jobs))
    loaded: object = None
    try:
        for job in jobs:
            live = [_live(plan, planned, attempt) for planned, attempt in job.members]
            if loaded != (key := load_key(live[0].cell)):
                loaded = key if _load(plan, backend, live) else None
            _measure_group(plan, backend, live, job, progress)
            for one, (planned, _) in zip(live, job.members, strict=True):
                record = _record(plan, one, job.launch, worker, environment.environment_id, run_dir.name)
                writer.append(record)
                progress.cell_done(planned, record)
    finally:
        progress.stop()
        writer.close()


def load_key(cell: Cell) -> tuple[str, ...]:
    """Cells with equal keys share one model load."""
    dtypes = (cell.weight_dtype, cell.activation_dtype, cell.kv_dtype, cell.head_dtype)
    return (cell.model, *dtypes, str(cell.options.get("window")))


def _jobs(plan: Plan, done: dict[tuple[str, int], Record]) -> Iterator[_Job]:
    groups = sorted(plan.groups.values(), key=lambda group: load_key(group[0].cell))  # stable: plan order within a key
    for launch in range(plan.config.protocol.launches):
        for group in groups:
            todo = [planned for planned in group if _is_due(done.get((planned.cell.cell_id, launch)), plan)]
            if not todo:
                continue
            # Speed-ups need rounds of one process, so a group that goes on here measures its anchor here as well.
            anchor = group[0]
            if anchor.cell.decoding == AUTOREGRESSIVE and anchor not in todo:
                todo.insert(0, anchor)
            yield _Job(launch=launch, members=tuple((p, _attempt(done.get((p.cell.cell_id, launch)))) for p in todo))


def _is_due(record: Record | None, plan: Plan) -> bool:
    """Every status is final until retry_failed."""
    return record is None or (plan.config.retry_failed and record.status in FAILED_STATUSES)


def _attempt(record: Record | None) -> int:
    return 1 if record is None else record.attempt + 1


def _live(plan: Plan, planned: PlannedCell, attempt: int) -> LiveCell:
    return LiveCell(
        cell=planned.cell,
        attempt=attempt,
        prompts=plan.prompts[planned.cell.prompt_set],
        seed=plan.config.seed,
        on_cpu=plan.config.device.kind == "cpu",
    )


def _load(plan: Plan, backend: Backend, live: list[LiveCell]) -> bool:
    """Load the weights for a group; where that is impossible, every cell of it says why."""
    config = plan.config
    try:
        backend.load(config.model, plan.shape, config.device, live[0].cell, config.seed)
    except (OutOfMemory, Unsupported) as error:
        for one in live:
            one.fail(error)
        return False
    gc.collect()
    gc.freeze()  # what a load leaves behind need not be looked at again before every round
    return True


def _measure_group(plan: Plan, backend: Backend, live: list[LiveCell], job: _Job, progress: Progress) -> None:
    """Warm every cell up, then take round r of all of them in a seeded random order before any takes round r+1."""
    protocol = plan.config.protocol
    planned = {p.cell.cell_id: p for p, _ in job.members}

    def each(action: Callable[[LiveCell], None], cells: Iterable[LiveCell]) -> None:
        for one in cells:
            if one.status == "ok":
                try:
                    action(one)
                except ConfigError:  # the user's mistake: going on would only repeat the message
                    raise
                except Exception as error:  # a failed cell is a row; the sweep goes on
                    one.fail(error)
                progress.round_done(planned[one.cell.cell_id], job.launch)

    for index in range(protocol.warmup_rounds):
        each(partial(LiveCell.warm_up, backend=backend, index=index), live)
    for index in range(protocol.rounds):
        order = list(live)
        random.Random(f"{plan.config.seed} {job.launch} {index}").shuffle(order)
        each(partial(LiveCell.measure, backend=backend, index=index), order)
    if protocol.counters:
        each(partial(LiveCell.count, backend=backend), live)


def _record(plan: Plan, live: LiveCell, launch: int, worker: str, environment_id: str, run_id: str) -> Record:
    return Record(
        run_id=run_id,
        cell=live.cell,
        cell_id=live.cell.cell_id,
        launch=launch,
        attempt=live.attempt,
        worker=worker,
        status=live.status,
        reason=live.reason,
        rounds=tuple(live.rounds),
        counters=live.counters,
        discarded=(),
        warnings=tuple(live.warnings),
        environment_id=environment_id,
        started_at=live.started_at,
        seed=live.seed,
    )
