"""One cell on a loaded backend: its prompts, its warm-up, its timed requests, its counters."""

from __future__ import annotations

import gc
import random
import time
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from harness.measuring import host_memory
from harness.measuring.backends.base import Answer, Backend, OutOfMemory, Unsupported
from harness.measuring.quality import graded
from harness.measuring.telemetry.conditions import Observe, clock_warnings
from harness.measuring.telemetry.discards import Discards
from harness.records.journal import Unfinished, now_utc
from harness.records.types import Cell, Record, Round, Status
from harness.spec.data import Prompt, PromptSet


@dataclass(kw_only=True, slots=True)
class LiveCell:
    """A cell in the middle of its launch."""

    cell: Cell
    cell_id: str
    launch: int
    attempt: int
    worker: str
    prompts: PromptSet
    num_rounds: int  # of the protocol
    seed: int
    on_cpu: bool
    status: Status = "ok"
    reason: str | None = None
    rounds: list[Round] = field(default_factory=list)
    discards: Discards = field(default_factory=Discards)
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
        prepared = self._prepared(backend, 0)
        with backend.mark("warmup", index):
            backend.generate(self.cell, prepared)

    def measure(self, backend: Backend, index: int, observe: Observe, max_discards: int) -> None:
        """One timed request with seed + index; again while something physical disturbs it, as often as allowed."""
        while True:
            prepared = self._prepared(backend, index)
            begin_s = time.monotonic()
            round, answer = _timed_round(backend, self.cell, prepared, index, self.seed + index, self.on_cpu)
            seen = observe(begin_s, time.monotonic())
            if not self.discards.throws_away(seen.disturbance, max_discards):
                break
        asked = self._asked(index)
        self.rounds.append(graded(seen.noted_in(round), self.prompts, asked, answer.output_ids, backend.tokenizer()))

    def count(self, backend: Backend) -> None:
        """The first round's request once more, untimed, for what would disturb a timed one."""
        self.counters = backend.count(self.cell, self._prepared(backend, 0))

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
            discarded=tuple(self.discards.reasons),
            warnings=(*self.warnings, *self.discards.warnings, *clock_warnings(self.rounds)),
            environment_id=environment_id,
            started_at=self.started_at,
            seed=self.seed,
        )

    def _prepared(self, backend: Backend, index: int) -> Any:
        texts = tuple(prompt.text for prompt in self._asked(index))
        return backend.prepare(self.cell, texts, self.seed + index)

    def _asked(self, index: int) -> list[Prompt]:
        """The prompt of each row: a stretch of the set in a seeded order, with its start over; [] for random ids.

        Rounds begin at even distances, so that together they ask as many different prompts as they can. Every cell of a
        batch size gets the same, so that twins answer the same prompts; a larger batch has those of a smaller one, too.
        """
        order = _shuffled(self.prompts.prompts, self.seed)
        start = index * len(order) // self.num_rounds
        return [order[(start + row) % len(order)] for row in range(self.cell.batch_size)] if order else []


@lru_cache(maxsize=64)  # every cell of a run asks for the same few orders
def _shuffled(prompts: tuple[Prompt, ...], seed: int) -> list[Prompt]:
    order = list(prompts)
    random.Random(seed).shuffle(order)
    return order


def _timed_round(
    backend: Backend, cell: Cell, prepared: Any, index: int, seed: int, on_cpu: bool
) -> tuple[Round, Answer]:
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
    missing = dict(answer.missing)
    if tracks_host:
        answer = replace(answer, peak_device_bytes=host_memory.peak_bytes())
    if answer.peak_device_bytes is None:
        missing["peak_device_bytes"] = "not known: no reading of the whole device or process"
    round = Round(
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
    return round, answer
