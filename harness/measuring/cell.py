"""One cell on a loaded backend: its prompts, its warm-up, its timed requests, its counters."""

from __future__ import annotations

import gc
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from time import monotonic, perf_counter, process_time
from typing import Any

from harness.measuring import enough, host_memory, leaks, self_check
from harness.measuring.backends.base import Answer, Backend, OutOfMemory, Unsupported
from harness.measuring.quality import graded
from harness.measuring.telemetry import energy
from harness.measuring.telemetry.conditions import Observe, clock_warnings
from harness.measuring.telemetry.discards import Discards
from harness.records.journal import Unfinished, now_utc
from harness.records.types import Cell, Record, Round, Status
from harness.spec.config import Protocol
from harness.spec.data import Prompt, PromptSet

REPEATS_S = 1.0  # of an energy window: requests that are done within it are one event to the supervisor


@dataclass(frozen=True, slots=True)
class Spent:
    """What a request took."""

    wall_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Repeat:
    """A request of an energy window."""

    wall_s: float
    useful_tokens: int  # of all rows
    raw_tokens: int


@dataclass(kw_only=True, slots=True)
class LiveCell:
    """A cell in the middle of its launch."""

    cell: Cell
    cell_id: str
    launch: int
    attempt: int
    worker: str
    prompts: PromptSet
    protocol: Protocol
    seed: int
    on_cpu: bool
    status: Status = "ok"
    reason: str | None = None
    rounds: list[Round] = field(default_factory=list)
    discards: Discards = field(default_factory=Discards)
    counters: dict[str, Any] = field(default_factory=dict)
    started_at: str = field(default_factory=now_utc)
    grown_bytes: list[int] = field(default_factory=list)  # of each round, by which this process's memory grew
    warm_ups: list[Spent] = field(default_factory=list)  # the first one is the cold request
    overhead_s: list[float] = field(default_factory=list)  # of each round, the harness's own
    repeats: list[Repeat] = field(default_factory=list)  # requests of the energy window
    energy: dict[str, Any] = field(default_factory=dict)
    backend_s: float = 0.0  # of the newest request, the backend's own: preparing and generating

    def fail(self, error: Exception) -> None:
        """What the error means for this cell. Its rounds stay in the record; nothing else of the sweep is touched."""
        if isinstance(error, OutOfMemory | MemoryError):
            self.status = "oom"
        elif isinstance(error, Unsupported):
            self.status = "unsupported"
        else:
            self.status = "error"
        is_ours = self.status != "error" or isinstance(error, self_check.WrongAnswer)
        self.reason = str(error) or "the host has no memory left" if is_ours else f"{type(error).__name__}: {error}"

    @property
    def is_cold(self) -> bool:
        """Whether it needs a further warm-up."""
        return self.status == "ok" and self._warm_up_ended is None

    def needs_rounds(self, group_s: float) -> bool:
        """Whether it needs a further round. group_s: of all timed requests of its group."""
        return self.status == "ok" and self._rounds_ended(group_s) is None

    def warm_up(self, backend: Backend, index: int) -> None:
        """One request with the first round's seed, timed only to tell whether the cell is warm."""
        _, spent = _timed(backend, self.cell, self._prepared(backend, 0, self._asked(0)), "warmup", index)
        self.warm_ups.append(spent)

    def measure(self, backend: Backend, index: int, observe: Observe) -> None:
        """One timed request with seed + index; again while something physical disturbs it, as often as allowed."""
        self.backend_s = 0.0
        asked = self._asked(index)
        while True:
            begun = perf_counter()
            prepared = self._prepared(backend, index, asked)
            self.backend_s += perf_counter() - begun
            resident_bytes = host_memory.resident_bytes()
            begin_s = monotonic()
            round, answer = _timed_round(backend, self.cell, prepared, index, self.seed + index, self.on_cpu)
            self.backend_s += round.wall_s
            seen = observe(begin_s, monotonic())
            if not self.discards.throws_away(seen.disturbance, self.protocol.max_discards):
                break
        self.rounds.append(graded(seen.noted_in(round), self.prompts, asked, answer.output_ids, backend.tokenizer()))
        self.grown_bytes.append(host_memory.resident_bytes() - resident_bytes)
        if found := self_check.broken(round, self.cell):
            raise self_check.WrongAnswer(found)

    @property
    def leaks(self) -> list[str]:
        """What its backend keeps of every request, in words."""
        return leaks.warnings_of(self.grown_bytes, [round.peak_allocated_bytes for round in self.rounds])

    def repeat(self, backend: Backend) -> None:
        """The rounds' requests in turn once more, for the energy; so many at once that events are rare."""
        begun = perf_counter()
        while perf_counter() - begun < REPEATS_S:
            index = len(self.repeats) % len(self.rounds)
            prepared = self._prepared(backend, index, self._asked(index))
            answer, spent = _timed(backend, self.cell, prepared, "energy", index)
            self.repeats.append(Repeat(spent.wall_s, sum(answer.useful_tokens), answer.raw_tokens))

    def note_energy(self, found: dict[str, Any]) -> None:
        """What was seen of the window, with what was done in it."""
        self.energy = {
            **found,
            "num_requests": len(self.repeats),
            "requests_s": sum(one.wall_s for one in self.repeats),
            "useful_tokens": sum(one.useful_tokens for one in self.repeats),
            "raw_tokens": sum(one.raw_tokens for one in self.repeats),
        }

    def count(self, backend: Backend) -> None:
        """The first round's request once more, untimed, for what would disturb a timed one."""
        if self.protocol.counters:
            self.counters = backend.count(self.cell, self._prepared(backend, 0, self._asked(0)))
        if self.protocol.operations and "torch" in sys.modules:  # else the backend computes elsewhere, or nothing
            from harness.measuring.backends.operations import counted

            prepared = self._prepared(backend, 0, self._asked(0))
            self.counters |= counted(lambda: backend.generate(self.cell, prepared))

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

    def record(self, run_id: str, environment_id: str, group_s: float = 0.0) -> Record:
        """What the cell gave in this launch."""
        ended = {"warmup": self._warm_up_ended, "rounds": self._rounds_ended(group_s)}
        ok = self.status == "ok"
        warnings = enough.warnings_of(ended["warmup"], ended["rounds"], self.protocol) if ok else []
        warnings += self.leaks
        course: dict[str, Any] = {"ended": ended, "overhead_s": self.overhead_s} if self.rounds else {}
        if self.warm_ups:
            course |= {"cold_s": self.warm_ups[0].wall_s, "warmup_s": [spent.wall_s for spent in self.warm_ups]}
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
            warnings=(
                *(*warnings, *self.discards.warnings),
                *(*clock_warnings(self.rounds), *energy.warnings_of(self.energy)),
            ),
            environment_id=environment_id,
            started_at=self.started_at,
            seed=self.seed,
            course=course,
            energy=self.energy,
        )

    def _prepared(self, backend: Backend, index: int, asked: Sequence[Prompt]) -> Any:
        texts = tuple(prompt.text for prompt in asked)
        return backend.prepare(self.cell, texts, self.seed + index)

    @property
    def _warm_up_ended(self) -> str | None:
        total_s = sum(spent.wall_s for spent in self.warm_ups)
        return enough.warm_up_ended([self._deciding_s(spent) for spent in self.warm_ups], total_s, self.protocol)

    def _rounds_ended(self, group_s: float) -> str | None:
        return enough.rounds_ended([self._deciding_s(round) for round in self.rounds], group_s, self.protocol)

    def _deciding_s(self, spent: Spent | Round) -> float:
        """On a CPU its own time, which other processes disturb less; else wall time."""
        return spent.cpu_s if self.on_cpu else spent.wall_s

    def _asked(self, index: int) -> list[Prompt]:
        """The prompt of each row: a stretch of the set in a seeded order, with its start over; [] for random ids.

        Rounds begin at different ones of even distances, so that together they ask as many different prompts as they
        can. Every cell of a batch size gets the same, so that twins answer the same prompts; a larger batch has those
        of a smaller one, too.
        """
        order = _shuffled(self.prompts, self.seed)
        start = place_of(index, self.protocol.most_rounds) * len(order) // self.protocol.most_rounds
        return [order[(start + row) % len(order)] for row in range(self.cell.batch_size)] if order else []


@lru_cache(maxsize=1024)  # a cell asks for the same few as the others
def place_of(index: int, most_rounds: int) -> int:
    """Which of the places of most_rounds rounds a round takes: all take all, and any first few lie far apart.

    They are in the order of the multiples of the golden section, modulo 1. Rounds may end early, so that going straight
    on would leave the end of a prompt set unasked.
    """
    golden = (5**0.5 - 1) / 2
    return sum(i * golden % 1 < index * golden % 1 for i in range(most_rounds))


@lru_cache(maxsize=64)  # every cell of a run asks for the same few orders
def _shuffled(prompts: PromptSet, seed: int) -> list[Prompt]:
    order = list(prompts.prompts)
    random.Random(seed).shuffle(order)
    return order


def _timed(backend: Backend, cell: Cell, prepared: Any, stage: str, index: int) -> tuple[Answer, Spent]:
    gc.collect()
    gc.disable()  # a collection inside the request would be charged to whichever cell it hits
    try:
        with backend.mark(stage, index):
            cpu_start, start = process_time(), perf_counter()
            answer = backend.generate(cell, prepared)
            return answer, Spent(wall_s=perf_counter() - start, cpu_s=process_time() - cpu_start)
    finally:
        gc.enable()


def _timed_round(
    backend: Backend, cell: Cell, prepared: Any, index: int, seed: int, on_cpu: bool
) -> tuple[Round, Answer]:
    tracks_host = on_cpu and host_memory.reset_peak()
    answer, spent = _timed(backend, cell, prepared, "measure", index)
    missing = dict(answer.missing)
    peak_device_bytes = host_memory.peak_bytes() if tracks_host else answer.peak_device_bytes
    if peak_device_bytes is None:
        missing["peak_device_bytes"] = "not known: no reading of the whole device or process"
    round = Round(
        index=index,
        seed=seed,
        wall_s=spent.wall_s,
        cpu_s=spent.cpu_s,
        device_s=answer.device_s,
        ttfb_s=answer.ttfb_s,
        block_s=answer.block_s,
        step_s=answer.step_s,
        passes=answer.passes,
        row_passes=answer.row_passes
        if answer.row_passes is not None
        else {kind: count * cell.batch_size for kind, count in answer.passes.items()},
        steps_per_canvas=answer.steps_per_canvas,
        useful_tokens=answer.useful_tokens,
        raw_tokens=answer.raw_tokens,
        stop_reason=answer.stop_reason,
        resolved=answer.resolved,
        peak_allocated_bytes=answer.peak_allocated_bytes,
        peak_reserved_bytes=answer.peak_reserved_bytes,
        peak_device_bytes=peak_device_bytes,
        missing=missing,
    )
    return round, answer
