"""One cell on a loaded backend: its prompts, its warm-up, its timed requests, its counters."""

from __future__ import annotations

import gc
import random
import time
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from harness.measuring import host_memory
from harness.measuring.backends.base import Backend, OutOfMemory, Unsupported
from harness.records.journal import Unfinished, now_utc
from harness.records.types import Cell, Record, Round, Status
from harness.spec.data import PromptSet


@dataclass(kw_only=True, slots=True)
class LiveCell:
    """A cell in the middle of its launch."""

    cell: Cell
    cell_id: str
    launch: int
    attempt: int
    worker: str
    prompts: PromptSet
    seed: int
    on_cpu: bool
    status: Status = "ok"
    reason: str | None = None
    rounds: list[Round] = field(default_factory=list)
    counters: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    started_at: str = field(default_factory=now_utc)

    def fail(self, error: Exception) -> None:
        """What the error means for this cell. Its rounds stay in the record; nothing else of the sweep is touched."""
        if isinstance(error, OutOfMemory):
            self.status = "oom"
        elif isinstance(error, Unsupported):
            self.status = "unsupported"
        else:
            self.status = "error"
        self.reason = f"{type(error).__name__}: {error}" if self.status == "error" else str(error)

    def warm_up(self, backend: Backend, index: int) -> None:
        """One untimed request with the first round's seed."""
        prepared = backend.prepare(self.cell, self._texts(0), self.seed)
        with backend.mark("warmup", index):
            backend.generate(self.cell, prepared)

    def measure(self, backend: Backend, index: int) -> None:
        """One timed request with seed + index."""
        prepared = backend.prepare(self.cell, self._texts(index), self.seed + index)
        self.rounds.append(_timed_round(backend, self.cell, prepared, index, self.seed + index, self.on_cpu))

    def count(self, backend: Backend) -> None:
        """The first round's request once more, untimed, for what would disturb a timed one."""
        self.counters = backend.count(self.cell, backend.prepare(self.cell, self._texts(0), self.seed))

    def unfinished(self) -> Unfinished:
        """The newest round, for the journal."""
        return Unfinished(
            cell=self.cell,
            launch=self.launch,
            attempt=self.attempt,
            worker=self.worker,
            seed=self.seed,
            started_at=self.started_at,
            rounds=tuple(self.rounds[-1:]),
        )

    def record(self, run_id: str, environment_id: str) -> Record:
        """What the cell gave in this launch."""
        return Record(
            run_id=run_id,
            cell=self.cell,
            cell_id=self.cell_id,
            launch=self.launch,
            attempt=self.attempt,
            worker=self.worker,
            status=self.status,
            reason=self.reason,
            rounds=tuple(self.rounds),
            counters=self.counters,
            discarded=(),
            warnings=tuple(self.warnings),
            environment_id=environment_id,
            started_at=self.started_at,
            seed=self.seed,
        )

    def _texts(self, index: int) -> tuple[str, ...]:
        """One prompt a row: a seeded order of the set, repeated where the set is smaller; () for random ids.

        The same for every cell of a batch size, so that twins answer the same prompts.
        """
        order = _shuffled(self.prompts.texts, self.seed + index)
        return tuple(order[i % len(order)] for i in range(self.cell.batch_size)) if order else ()


@lru_cache(maxsize=64)  # every cell of a round asks for the same order
def _shuffled(texts: tuple[str, ...], seed: int) -> list[str]:
    order = list(texts)
    random.Random(seed).shuffle(order)
    return order


def _timed_round(backend: Backend, cell: Cell, prepared: Any, index: int, seed: int, on_cpu: bool) -> Round:
    tracks_host = on_cpu and host_memory.reset_peak()
    gc.collect()
    gc.disable()  # a collection inside the round would be charged to whichever cell it hits
    try:
        with backend.mark("measure", index):
            cpu_start, start = time.process_time(), time.perf_counter()
            answer = backend.generate(cell, prepared)
            wall_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu_start
    finally:
        gc.enable()
    missing = {
        **answer.missing,
        "energy_j": "this version does not measure energy",
        "clocks_mhz": "this version does not read clocks during a round",
        "throttle_reasons": "this version does not read throttle reasons",
    }
    if tracks_host:
        answer = replace(answer, peak_device_bytes=host_memory.peak_bytes())
    if answer.peak_device_bytes is None:
        missing["peak_device_bytes"] = "not known: no reading of the whole device or process"
    return Round(
        index=index,
        seed=seed,
        wall_s=wall_s,
        cpu_s=cpu_s,
        device_s=answer.device_s,
        ttfb_s=answer.ttfb_s,
        block_s=answer.block_s,
        step_s=answer.step_s,
        passes=answer.passes,
        steps_per_canvas=answer.steps_per_canvas,
        useful_tokens=answer.useful_tokens,
        raw_tokens=answer.raw_tokens,
        stop_reason=answer.stop_reason,
        resolved=answer.resolved,
        peak_allocated_bytes=answer.peak_allocated_bytes,
        peak_reserved_bytes=answer.peak_reserved_bytes,
        peak_device_bytes=answer.peak_device_bytes,
        missing=missing,
    )
