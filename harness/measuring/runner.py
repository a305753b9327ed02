"""The supervisor: decides what is due, has workers measure it, outlives them, and keeps what they leave behind.

It holds no model and imports no torch. Waiting costs nothing: it sleeps until a worker speaks or a deadline passes.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from harness.measuring import host_memory
from harness.measuring.jobs import Job, due_jobs, of_one_process
from harness.measuring.launch.inline import InlineWorker, Silence
from harness.measuring.telemetry import conditions
from harness.measuring.telemetry.sampler import Telemetry, watching
from harness.records import store
from harness.records.journal import Unfinished, dead_journals, now_utc
from harness.records.types import INTERRUPTED, Environment, Record, Status
from harness.spec.config import ConfigError
from harness.spec.plan import Plan, PlannedCell, asks_energy

# A cell under which a process ends is tried once more in a fresh one; the second time it is the cell's own failure.
_MOST_DEATHS = 2
_DEATH = f"{INTERRUPTED}: its process ended"
_NOT_DONE: tuple[Status, str] = ("error", f"{INTERRUPTED}: the cell was not done")
_MOST_SILENT_STARTS = 3
_BEFORE_REQUESTS = ("start", "load")  # there is nothing to finish yet, and a load can take minutes
_REQUESTS = ("warmup", "measure", "energy", "count")
_GRACE_S = 10.0
log = logging.getLogger("canvasbench")


class WorkerError(Exception):
    """Workers end before they measure anything; run.log says why."""


class Progress(Protocol):
    """What the supervisor tells whoever watches."""

    def start(self, plan: Plan, todo: Sequence[PlannedCell], run_dir: Path) -> None: ...
    def group_begun(self, group: Sequence[PlannedCell]) -> None: ...
    def round_done(self, planned: PlannedCell) -> None: ...
    def cell_done(self, planned: PlannedCell, status: str, what: str) -> None: ...
    def stopping(self) -> None: ...
    def stop(self) -> None: ...


@dataclass(kw_only=True, slots=True)
class _InFlight:
    """The request, or the load, that a worker is busy with."""

    stage: str = "start"
    launch: int = 0
    cells: tuple[str, ...] = ()


@dataclass(kw_only=True, slots=True)
class Supervisor:
    """One run of a plan into a run directory."""

    plan: Plan
    words: Sequence[str]  # the Hydra words that the plan was composed of; a worker composes them again
    run_dir: Path
    environment: Environment
    progress: Progress
    name: str = field(default_factory=lambda: f"{os.getpid()}-{time.time_ns() // 1_000_000:x}")
    _stops: int = 0
    _worker: InlineWorker | None = None
    _telemetry: Telemetry = field(default_factory=lambda: Telemetry("nobody watched the GPU"))
    _flight: _InFlight = field(default_factory=_InFlight)
    _num_workers: int = 0
    _num_writers: int = 0
    _silent_starts: int = 0

    def run(self) -> None:
        """Measure what the run directory does not hold yet.

        Raises:
            ConfigError: the model or a prompt cannot be used.
            StoreError: a record cannot be written.
            WorkerError: no worker comes up.
            KeyboardInterrupt: stopped by a signal. Whatever is raised, all that was measured is kept.
        """
        config = self.plan.config
        wants_energy = any(asks_energy(planned.cell, config) for planned in self.plan.cells)
        with self._signals(), watching(config.device.kind, wants_energy=wants_energy) as self._telemetry:
            self._keep_leftovers()
            jobs = self._jobs()
            self.progress.start(self.plan, [planned for job in jobs for planned, _ in job.members], self.run_dir)
            try:
                if any(asks_energy(planned.cell, config) for job in jobs for planned, _ in job.members):
                    log.info(self._telemetry.measure_idle())
                while jobs and not self._stops:  # asked before the first worker, too: imports can swallow an interrupt
                    self._run_worker(of_one_process(jobs, self.plan))
                    jobs = self._jobs()
                if self._stops:
                    raise KeyboardInterrupt
            finally:
                self._keep_leftovers()
                self.progress.stop()

    def _jobs(self) -> list[Job]:
        return due_jobs(self.plan, store.read_records(self.run_dir, rounds=False).final, self._own_names)

    @property
    def _own_names(self) -> list[str]:
        return [self.name, *(f"{self.name}-{i}" for i in range(1, self._num_workers + 1))]

    def _run_worker(self, jobs: list[Job]) -> None:
        """One worker until it ends, dies or goes silent; afterwards every cell it touched has a record."""
        self._num_workers += 1
        name = f"{self.name}-{self._num_workers}"
        order = {
            "words": list(self.words),
            "config_dir": self.plan.config.config_dir,
            "run_dir": str(self.run_dir.resolve()),
            "worker": name,
            "environment_id": self.environment.environment_id,
            "unseen": self._telemetry.why_not,
            "no_energy": None if self._telemetry.no_energy is None else self._telemetry.no_energy.as_json,
            "jobs": [{"launch": j.launch, "members": [[p.cell_id, attempt] for p, attempt in j.members]} for j in jobs],
        }
        kills_before = host_memory.oom_kills()
        flight = self._flight = _InFlight()
        self._worker = InlineWorker(order, self.run_dir / "run.log")
        verdict: tuple[Status, str] | None = None
        ended_by_itself = False
        try:
            verdict = self._watch(self._worker, flight)
            ended_by_itself = verdict is None
        finally:
            exit_status = self._worker.end(grace_s=_GRACE_S if ended_by_itself else 0.0)
            self._worker = None
            (self.run_dir / f"heartbeat-{name}").unlink(missing_ok=True)
        if verdict is None and (flight.cells or exit_status):
            killed_for_memory = host_memory.oom_kills() > kills_before
            verdict = self._death(flight, exit_status, killed_for_memory)
        if verdict is None:
            self._keep_leftovers()
            return
        if not flight.cells:
            self._silent_starts += 1
            if self._silent_starts >= _MOST_SILENT_STARTS:
                raise WorkerError(f"{self._silent_starts} processes ended before they measured anything: {verdict[1]}")
        self._keep_leftovers(list(_in_flight(flight, jobs, name, self.plan.config.seed)), verdict)

    def _watch(self, worker: InlineWorker, flight: _InFlight) -> tuple[Status, str] | None:
        """Follow a worker's events until it ends; a verdict when it was silent for too long."""
        protocol = self.plan.config.protocol
        by_id = {planned.cell_id: planned for planned in self.plan.cells}
        while True:
            limit_s = protocol.request_timeout_s if flight.stage in _REQUESTS else protocol.load_timeout_s
            try:
                event = worker.next_event(limit_s)
            except Silence:
                return "timeout", f"no answer for {limit_s:.4g} s in {flight.stage}"
            if event is None:
                return None
            kind = event["event"]
            if kind == "group":
                self.progress.group_begun([by_id[cell_id] for cell_id in event["cells"]])
            elif kind == "load":
                flight.stage, flight.launch, flight.cells = "load", event["launch"], tuple(event["cells"])
            elif kind == "begin":
                flight.stage, flight.launch, flight.cells = event["stage"], event["launch"], (event["cell_id"],)
            elif kind == "end":
                flight.stage, flight.cells = "between requests", ()
                self._silent_starts = 0
                self.progress.round_done(by_id[event["cell_id"]])
            elif kind == "conditions":
                seen = self._telemetry.during(event["begin_s"], event["end_s"])
                worker.answer(conditions.to_json(seen))
            elif kind == "energy":
                window_s = protocol.energy_window_s
                worker.answer(self._telemetry.energy(event["begin_s"], event["end_s"], window_s))
            elif kind == "record":
                self.progress.cell_done(by_id[event["cell_id"]], event["status"], event["what"])
            elif kind == "fatal":
                raise (ConfigError if event["kind"] == "ConfigError" else store.StoreError)(event["message"])

    def _death(self, flight: _InFlight, exit_status: int, killed_for_memory: bool) -> tuple[Status, str]:
        """What the end of a process means for the cell that it was busy with."""
        how = signal.Signals(-exit_status).name if exit_status < 0 else f"exit status {exit_status}"
        if killed_for_memory:
            return "oom", f"the kernel ended the process ({how}): the host has no memory left"
        earlier = [
            r
            for r in store.read_records(self.run_dir, rounds=False).records
            if r.cell_id in flight.cells and r.launch == flight.launch and (r.reason or "").startswith(_DEATH)
        ]
        if len(earlier) + 1 >= _MOST_DEATHS:
            return "error", f"its process ended again ({how}) in {flight.stage}"
        return "error", f"{_DEATH} ({how}) in {flight.stage}; tried again in a fresh one"

    def _keep_leftovers(self, in_flight: Sequence[Unfinished] = (), verdict: tuple[Status, str] = _NOT_DONE) -> None:
        """Turn the rounds that dead workers left into records; cells that were in flight carry the verdict."""
        with dead_journals(self.run_dir) as unfinished:
            judged = {one.key for one in in_flight}
            left = {one.key: one for one in [*in_flight, *unfinished]}  # a journal knows the rounds as well
            recorded = {
                (r.cell_id, r.launch, r.attempt)
                for r in (store.read_records(self.run_dir, rounds=False).records if left else ())
            }
            records = [
                self._record(one, *(verdict if key in judged else _NOT_DONE))
                for key, one in left.items()
                if key not in recorded
            ]
            if records:
                self._num_writers += 1
                writer = store.RecordWriter(self.run_dir, f"{self.name}-kept-{self._num_writers}")
                writer.append(*records)
                writer.close()
        planned = {p.cell_id: p for p in self.plan.cells}
        for record in records:
            if not record.is_interrupted:
                self.progress.cell_done(planned[record.cell_id], record.status, record.reason or "")

    def _record(self, one: Unfinished, status: Status, reason: str) -> Record:
        return Record(
            run_id=self.run_dir.name,
            cell=one.cell,
            cell_id=one.cell.cell_id,
            launch=one.launch,
            attempt=one.attempt,
            worker=one.worker,
            status=status,
            reason=reason,
            rounds=one.rounds,
            counters={},
            discarded=(),
            warnings=(),
            environment_id=self.environment.environment_id,
            started_at=one.started_at,
            seed=one.seed,
        )

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C once ends after the group (docs/decisions/0006), twice at once; so do SIGTERM and SIGHUP."""

        def gently(number: int, frame: object) -> None:
            self._stops += 1
            if self._stops > 1 or self._worker is None or self._flight.stage in _BEFORE_REQUESTS:
                raise KeyboardInterrupt
            self._worker.ask_to_stop()
            self.progress.stopping()

        def at_once(number: int, frame: object) -> None:
            self._stops += 1
            raise KeyboardInterrupt

        handlers = {signal.SIGINT: gently, signal.SIGTERM: at_once, signal.SIGHUP: at_once}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _in_flight(flight: _InFlight, jobs: Sequence[Job], worker: str, seed: int) -> Iterator[Unfinished]:
    """The cells that a worker was busy with, as far as nothing else is known of them."""
    for job in jobs:
        for planned, attempt in job.members:
            if job.launch == flight.launch and planned.cell_id in flight.cells:
                yield Unfinished(
                    cell=planned.cell,
                    launch=job.launch,
                    attempt=attempt,
                    worker=worker,
                    seed=seed,
                    started_at=now_utc(),
                    rounds=(),
                )
