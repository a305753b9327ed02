"""What a worker does: groups one after another on loaded backends, every round and every record on disk at once."""

from __future__ import annotations

import gc
import itertools
import random
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from time import monotonic, perf_counter
from typing import Any, TypeVar

from harness.measuring.backends.base import Backend, DeviceBroken, OutOfMemory, Unsupported
from harness.measuring.cell import LiveCell
from harness.measuring.jobs import Job, load_key
from harness.measuring.telemetry.conditions import Observe, nobody_looks
from harness.measuring.telemetry.energy import ObserveEnergy, nobody_counts
from harness.measuring.telemetry.sample import PERIOD_S
from harness.measuring.turns import Turns
from harness.records.journal import RoundJournal
from harness.records.store import RecordWriter
from harness.records.types import PRUNED, Cell, Record, canonical_json, to_json
from harness.spec.config import ConfigError
from harness.spec.plan import Plan, PlannedCell, asks_energy

Tell = Callable[[dict[str, Any]], None]
_T = TypeVar("_T")


@dataclass(kw_only=True, slots=True)
class Session:
    """Everything that stays the same while a worker goes through its jobs."""

    plan: Plan
    run_id: str
    worker: str
    environment_id: str
    backends: Mapping[str, Backend]  # of the suite: its own and, if it has one, its peer
    writer: RecordWriter
    journal: RoundJournal
    tell: Tell  # what the supervisor hears: group, load, begin, end, record
    observe: Observe = nobody_looks  # what the supervisor saw of the GPU during a round
    observe_energy: ObserveEnergy = nobody_counts  # what the supervisor saw of the energy in a window
    no_energy: dict[str, Any] | None = None  # why it sees none, where that is known beforehand: no window is measured
    smallest_oom: dict[str, int] = field(default_factory=dict)  # line of cells -> smallest batch that did not fit
    loaded: dict[str, tuple[str, ...]] = field(default_factory=dict)  # backend -> load key of what it holds
    turns: Turns | None = None  # with another process; None: nobody waits for us
    is_settled: bool = False
    is_spent: bool = False  # whether a backend's leak has eaten into this process, so that a fresh one should go on

    def measure(self, job: Job) -> None:
        """Measure a group and write its records.

        Raises:
            DeviceBroken: the device needs a fresh process; the cell that broke it has its record, the others their
                rounds in the journal.
            ConfigError, StoreError: going on is useless.
        """
        live = [self._live(planned, attempt, job.launch) for planned, attempt in job.members]
        self.tell({"event": "group", "cells": [one.cell_id for one in live]})
        for one in live:
            smallest = self.smallest_oom.get(line_key(one.cell))
            if smallest is not None and one.cell.batch_size > smallest:
                one.fail(OutOfMemory(f"{PRUNED}: batch {smallest} of the same line ran out of memory"))
        runnable = [one for one in live if one.status == "ok"]
        try:
            for name in dict.fromkeys(one.cell.backend for one in runnable):
                self._load([one for one in runnable if one.cell.backend == name])
            if runnable:
                self._measure(runnable)
        except DeviceBroken:
            self._write([one for one in live if one.status != "ok"])
            raise
        self._write(live)
        self.is_spent |= any(one.leaks for one in live)

    def _live(self, planned: PlannedCell, attempt: int, launch: int) -> LiveCell:
        return LiveCell(
            cell=planned.cell,
            cell_id=planned.cell_id,
            launch=launch,
            attempt=attempt,
            worker=self.worker,
            prompts=self.plan.prompts[planned.cell.prompt_set],
            protocol=self.plan.config.protocol,
            seed=self.plan.config.seed,
            on_cpu=self.plan.config.device.kind == "cpu",
        )

    def _load(self, live: list[LiveCell]) -> None:
        """Load one backend's weights unless the last group's serve; where that is impossible, every cell says why."""
        key, name = load_key(live[0].cell), live[0].cell.backend
        if self.loaded.get(name) == key:
            return
        config = self.plan.config
        self.tell({"event": "load", "launch": live[0].launch, "cells": [one.cell_id for one in live]})
        self.loaded.pop(name, None)
        try:
            with self._turn():
                self.backends[name].load(config.model, self.plan.shape, config.device, live[0].cell, config.seed)
        except (OutOfMemory, Unsupported) as error:
            for one in live:
                one.fail(error)
            return
        self.loaded[name] = key
        self.is_settled = False

    def _measure(self, live: list[LiveCell]) -> None:
        """Warm every cell up, then take round r of all of them, in the order of `turns`, before any takes round r+1.

        While one member needs a further round all take it, so that every round has its twin.
        """
        for index in itertools.count():
            cold = [one for one in live if one.is_cold]
            if not cold:
                break
            self._each("warmup", partial(LiveCell.warm_up, index=index), cold)
        self._settle_memory()
        self._take_rounds(live)
        for one in live:
            if asks_energy(one.cell, self.plan.config):
                self._take_energy(one)
        if self.plan.config.protocol.counters or self.plan.config.protocol.operations:
            self._each("count", LiveCell.count, live)

    def _settle_memory(self) -> None:
        """What a load and the first requests after it leave behind need not be looked at again before every round."""
        if not self.is_settled:
            gc.collect()
            gc.freeze()
            self.is_settled = True

    def _take_rounds(self, live: list[LiveCell]) -> None:
        for index in itertools.count():
            if not any(one.needs_rounds(group_s(live)) for one in live):
                break
            self._round(index, turns(live, f"{self.plan.config.seed} {live[0].launch} {live[0].cell_id}", index))

    def _round(self, index: int, order: Iterable[LiveCell]) -> None:
        self._each("measure", partial(LiveCell.measure, index=index, observe=self.observe), order)

    def _take_energy(self, one: LiveCell) -> None:
        """Repeat a cell's requests until a window is full; two periods more, because no sample lies at its ends."""
        if self.no_energy is not None:
            one.note_energy(self.no_energy)
            return
        begin_s = monotonic()
        while one.status == "ok" and monotonic() - begin_s < self.plan.config.protocol.energy_window_s + 2 * PERIOD_S:
            self._each("energy", LiveCell.repeat, [one])
        if one.status == "ok":
            one.note_energy(self.observe_energy(begin_s, monotonic()))

    def _each(self, stage: str, action: Callable[[LiveCell, Backend], None], cells: Iterable[LiveCell]) -> None:
        """One request of every cell that is well so far. A failed cell is a row; the sweep goes on."""
        for one in cells:
            if one.status != "ok":
                continue
            with self._turn():
                self._request(stage, action, one)

    def _turn(self) -> AbstractContextManager[None]:
        return nullcontext() if self.turns is None else self.turns.taken()

    def _request(self, stage: str, action: Callable[[LiveCell, Backend], None], one: LiveCell) -> None:
        begun = perf_counter()
        where = {"stage": stage, "cell_id": one.cell_id, "launch": one.launch}
        self.tell({"event": "begin", **where})
        try:
            action(one, self.backends[one.cell.backend])
        except ConfigError:  # the user's mistake: going on would only repeat the message
            raise
        except DeviceBroken as error:
            one.fail(error)
            raise
        except Exception as error:
            one.fail(error)
        if stage == "measure" and one.status == "ok":
            self.journal.append(one.unfinished())
        self.tell({"event": "end", **where})
        if stage == "measure" and one.status == "ok":
            one.overhead_s.append(perf_counter() - begun - one.backend_s)

    def _write(self, done: Sequence[LiveCell]) -> None:
        """Records of cells that ended together, which one sync brings to the disk."""
        records = [one.record(self.run_id, self.environment_id, group_s(done)) for one in done]
        self.writer.append(*records)
        for record in records:
            if record.status == "oom":
                key = line_key(record.cell)
                self.smallest_oom[key] = min(record.cell.batch_size, self.smallest_oom.get(key, record.cell.batch_size))
            what = record.reason or f"{statistics.median(r.wall_s for r in record.rounds):.4g} s a request"
            self.tell({"event": "record", "cell_id": record.cell_id, "status": record.status, "what": what})


def turns(members: Sequence[_T], group: str, index: int) -> list[_T]:
    """Their order in a round: drawn for rounds 0, 2, 4, ..., and reversed in the round after each.

    So whatever it is worth to come first, each of two twins has it equally often, and even drift hits both alike. The
    draw is each group's own: the luck of one order does not repeat in all groups of a run.
    """
    order = list(members)
    random.Random(f"{group} {index // 2}").shuffle(order)
    return order if index % 2 == 0 else order[::-1]


def group_s(live: Iterable[LiveCell]) -> float:
    """Seconds of all timed requests of a group."""
    return sum(round.wall_s for one in live for round in one.rounds)


def line_key(cell: Cell) -> str:
    """Cells with equal keys differ in batch size alone."""
    return canonical_json({**to_json(cell), "batch_size": 1})


def smallest_ooms(records: Iterable[Record]) -> dict[str, int]:
    """Line of cells -> the smallest batch that ran out of memory."""
    smallest: dict[str, int] = {}
    for record in records:
        if record.status == "oom":
            key = line_key(record.cell)
            smallest[key] = min(record.cell.batch_size, smallest.get(key, record.cell.batch_size))
    return smallest
