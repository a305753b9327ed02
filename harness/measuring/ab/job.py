"""A job in the middle of its launches: base and head in turn, each launch a run directory, job.json up to date.

A sample is a launch, so a pair is one launch of each side, and pairs alternate which side comes first (ABBA): what
drifts while the job runs hits both sides alike. Both launches of a pair go through the cells in one order, drawn from
the seed, the stage and the pair. On a CPU both are loaded at once and their requests alternate, too
(docs/decisions/0012). Nothing is judged here.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.measuring import turns
from harness.measuring.ab import disturbed
from harness.measuring.ab.side import Side, SideError, end
from harness.records import job as jobs
from harness.records import store
from harness.records.job import BASE, HEAD, Launch
from harness.records.types import Record

_INCOMPLETE = 3  # exit code of a run in which a cell failed: a result, like any other
_LASTING = (2, 4)  # of a usage error, and of a machine that is unfit: a repeat would end alike
_PERIOD_S = 0.05  # how often two processes are asked whether they have ended
Say = Callable[[str], None]


@dataclass(kw_only=True, slots=True)
class LiveJob:
    """A folder that launches come into."""

    job_dir: Path
    sides: Mapping[str, Side]
    say: Say
    repeats: int = 2  # of a launch, or of the cells of it, that something physical disturbed
    launches: list[Launch] = field(default_factory=list)
    _clocks: list[float] = field(default_factory=list)  # of all launches, where somebody saw the GPU's
    _sources: dict[str, str] = field(default_factory=dict)  # side -> source hash of its first launch
    _begun: float = field(default_factory=time.monotonic)

    def write(self) -> None:
        """Raises StoreError when the folder cannot be written."""
        base, head = (
            jobs.Revision(revision=side.revision, commit=side.commit, dirty=side.dirty)
            for side in (self.sides[BASE], self.sides[HEAD])
        )
        suite, seed = self.sides[HEAD].suite, self.sides[HEAD].seed
        document = jobs.Job(
            job_schema=jobs.JOB_SCHEMA, suite=suite, seed=seed, base=base, head=head, launches=tuple(self.launches)
        )
        jobs.write(self.job_dir, document)

    def measure(self, stage: str, pairs: Callable[[], int], cells: Collection[str] | None = None) -> None:
        """Pairs of a stage.

        Args:
            pairs: how many there should be; asked before each, so that it may look at those that there are.
            cells: ids of those to measure; None: every cell of either side's suite.

        Raises:
            SideError: a side gives no result at all.
            StoreError: the results folder cannot be written.
        """
        planned = dict.fromkeys(cell for side in self.sides.values() for cell in side.cells)
        wanted = [cell for cell in planned if cells is None or cell in cells]
        pair = 0
        while pair < (num_pairs := pairs()):
            order = list(wanted)
            random.Random(f"{self.sides[HEAD].seed} {stage} {pair}").shuffle(order)
            names = [BASE, HEAD] if pair % 2 == 0 else [HEAD, BASE]
            for together in [names] if self._takes_turns else [[name] for name in names]:
                todo = {name: [cell for cell in order if cell in self.sides[name].cells] for name in together}
                self._measure(stage, pair, todo)
            pair += 1
            self._tell_left(stage, num_pairs - pair)

    @property
    def _takes_turns(self) -> bool:
        """Not on a GPU: two models need not fit there, and each process would be the other's foreign one."""
        return all(side.device_kind == "cpu" and side.is_current for side in self.sides.values())

    def _measure(self, stage: str, pair: int, todo: Mapping[str, Sequence[str]]) -> None:
        """One side of a pair, or both in turn, and again what does not count. todo: side -> its cells in order."""
        for attempt in range(self.repeats + 1):
            if not any(todo.values()):
                return
            codes = self._launch(stage, pair, attempt, todo)
            launches = self.launches[-len(todo) :]
            lost = {cell for launch in launches for cell in launch.dropped_cells}
            if not any(launch.dropped for launch in launches):
                todo = {name: [cell for cell in cells if cell in lost] for name, cells in todo.items()}
                continue
            for launch, code in zip(launches, codes, strict=True):
                self._refuse_hopeless(launch, code)

    def _launch(self, stage: str, pair: int, attempt: int, todo: Mapping[str, Sequence[str]]) -> list[int]:
        """Exit codes. Whatever happens, what the launches measured is in the folder and in job.json."""
        name = f"{stage}-{pair:02d}" + (f"-{attempt}" if attempt else "")
        folders = {side: self.job_dir / side / f".{name}" for side in todo}
        begun, errors, codes = time.monotonic(), self._ecc_errors(), []
        try:
            codes = self._run(todo, folders, self._words(stage, pair))
        finally:
            launches = [
                Launch(
                    stage=stage,
                    pair=pair,
                    side=side,
                    attempt=attempt,
                    order=len(self.launches) + i,
                    run_dir=self._keep(folder, self.job_dir / side / name),
                    dropped=jobs.INTERRUPTED,  # until it is judged
                    dropped_cells={},
                )
                for i, (side, folder) in enumerate(folders.items())
            ]
            self.launches += launches
            self.write()
        judged = [self._judged(one, code, todo[one.side]) for one, code in zip(launches, codes, strict=True)]
        if self._ecc_errors() != errors:
            judged = [replace(one, dropped=jobs.MEMORY_ERROR) for one in judged]
        if why := next((one.dropped for one in judged if one.dropped), None):
            why = f"it took turns with a launch that does not count: {why}"
            judged = [replace(one, dropped=one.dropped or why) for one in judged]
        self.launches[-len(judged) :] = judged
        self.write()
        for one in judged:
            self._tell(one, len(todo[one.side]), time.monotonic() - begun)
        return codes

    def _words(self, stage: str, pair: int) -> list[str]:
        """Overrides of a launch: equal seeds everywhere, and exact counts, which repeat, in the first pair alone."""
        counts = pair == 0 and stage == jobs.SCREEN
        known = all(side.is_current for side in self.sides.values())
        return [f"seed={self.sides[HEAD].seed}", *(["protocol.operations=false"] if known and not counts else [])]

    def _run(self, todo: Mapping[str, Sequence[str]], folders: Mapping[str, Path], words: Sequence[str]) -> list[int]:
        """Exit codes of one launch of each side named, of two in turn; the first one begins."""
        with ExitStack() as stack:
            referee = stack.enter_context(turns.between(*todo)) if len(todo) == 2 else None
            processes = {}
            for name, cells in todo.items():
                variables = {} if referee is None else referee.variables(name)
                processes[name] = self.sides[name].start(cells, folders[name], words, variables)
                stack.callback(end, processes[name])
            running = set(processes)
            while running:
                for name in list(running):
                    with suppress(subprocess.TimeoutExpired):
                        processes[name].wait(_PERIOD_S)
                        running.remove(name)
                        if referee is not None:
                            referee.ended(name)
            return [process.returncode for process in processes.values()]

    def _keep(self, folder: Path, kept: Path) -> str:
        """The run directory under its name in the job, with the log of its launch; "" where there is none."""
        made = next(folder.glob("*/*/plan.json"), None)
        if made is None:
            return ""
        made.parent.rename(kept)
        with suppress(OSError):
            (folder / "log").rename(kept / "launch.log")
        shutil.rmtree(folder, ignore_errors=True)
        return kept.relative_to(self.job_dir).as_posix()

    def _judged(self, launch: Launch, code: int, cells: Sequence[str]) -> Launch:
        """The launch, with whether it counts and which of its cells do not."""
        if code not in (0, _INCOMPLETE) or not launch.run_dir:
            return replace(launch, dropped=f"{jobs.CRASHED} with exit status {code}")
        run_dir = self.job_dir / launch.run_dir
        self._refuse_other_source(launch, run_dir)
        records = list(store.read_records(run_dir).final.values())
        clock = disturbed.clock_of(records)
        off = disturbed.off_clock(clock, self._clocks)
        if clock is not None:
            self._clocks.append(clock)
        return replace(launch, dropped=off, dropped_cells=dict(_disturbed_cells(records, cells)))

    def _refuse_other_source(self, launch: Launch, run_dir: Path) -> None:
        """Every launch of a side has to run the code of its first one."""
        provenance = store.read_json(run_dir / "plan.json").get("provenance") or {}
        source = str(provenance.get("source_hash"))
        if source != self._sources.setdefault(launch.side, source):
            raise SideError(launch.side, f"{self.sides[launch.side]}: its source was changed while it was measured")

    def _refuse_hopeless(self, launch: Launch, code: int) -> None:
        """Whether the side will not do better: it said so, or it has never ended well."""
        if code in (0, _INCOMPLETE):
            return
        worked = any(one.side == launch.side and one.dropped is None for one in self.launches)
        if code in _LASTING or (launch.attempt == self.repeats and not worked):
            side = self.sides[launch.side]
            raise SideError(side.name, f"{side} cannot be measured: {self._last_words(launch)}", code)

    def _last_words(self, launch: Launch) -> str:
        side_dir = self.job_dir / launch.side
        logs = [*side_dir.glob(".*/log"), *side_dir.glob("*/launch.log")]
        newest = max(logs, key=lambda path: path.stat().st_mtime_ns, default=None)
        text = newest.read_text(encoding="utf-8", errors="replace") if newest else ""
        lines = [line for line in text.splitlines() if line.strip()] or [str(launch.dropped)]
        return next((line for line in lines if line.startswith("error: ")), lines[-1]).removeprefix("error: ")

    def _ecc_errors(self) -> int | None:
        return disturbed.ecc_errors() if self.sides[HEAD].device_kind == "cuda" else None

    def _tell(self, launch: Launch, num_cells: int, seconds: float) -> None:
        note = launch.dropped or "; ".join(dict.fromkeys(launch.dropped_cells.values()))
        again = f" · {note}; {'repeated' if launch.attempt < self.repeats else 'noted'}" if note else ""
        self.say(f"{launch.stage} pair {launch.pair + 1} {launch.side}: {num_cells} cells in {seconds:.1f} s{again}")

    def _tell_left(self, stage: str, pairs_left: int) -> None:
        elapsed_s = time.monotonic() - self._begun
        pairs_done = len({(launch.stage, launch.pair) for launch in self.launches})
        self.say(f"{elapsed_s:.0f} s elapsed, ~{pairs_left * elapsed_s / pairs_done:.0f} s left in the {stage} stage")


def _disturbed_cells(records: Sequence[Record], cells: Collection[str]) -> Iterator[tuple[str, str]]:
    for record in records:
        if record.cell_id in cells and (reason := disturbed.reason_of(record)):
            yield record.cell_id, reason


@contextmanager
def interruptible() -> Iterator[None]:
    """The first signal that asks for an end interrupts; those that follow do not disturb the tidying up."""
    heard = []

    def handle(number: int, frame: object) -> None:
        heard.append(number)
        if len(heard) == 1:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
