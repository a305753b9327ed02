"""A job: launches of base and head in turn, each a run directory, and job.json, which says what each of them was.

A sample is a launch, so a pair is one launch of each side, and pairs alternate which side comes first (ABBA): what
drifts while the job runs hits both sides alike. Both launches of a pair go through the cells in one order, drawn from
the seed, the stage and the pair. Nothing is judged here.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from harness.measuring import turns
from harness.measuring.ab import disturbed
from harness.measuring.ab.side import BASE, HEAD, Side, SideError, end
from harness.records import store
from harness.records.types import Record

JOB_SCHEMA = 1
FILE = "job.json"
SCREEN, CONFIRM = "screen", "confirm"
_INCOMPLETE = 3  # exit code of a run in which a cell failed: a result, like any other
_LASTING = (2, 4)  # usage or configuration; this machine is unfit
_PERIOD_S = 0.05
Say = Callable[[str], None]


@dataclass(kw_only=True, slots=True)
class Launch:
    """One launch, as job.json has it. A launch that counts may hold cells that do not."""

    stage: str  # screen | confirm
    pair: int
    side: str  # base | head
    attempt: int
    order: int  # which launch of the job it was, counted from 0
    run_dir: str  # relative to the job's; "" where it left none
    dropped: str | None = None  # why nothing of it counts
    dropped_cells: dict[str, str] = field(default_factory=dict)  # cell_id -> why its rounds do not count


@dataclass(kw_only=True, slots=True)
class Job:
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
        head = self.sides[HEAD]
        sides = {
            name: {"revision": one.revision, "commit": one.commit, "dirty": one.dirty}
            for name, one in self.sides.items()
        }
        launches = [asdict(launch) for launch in self.launches]
        document = {"job_schema": JOB_SCHEMA, "suite": head.suite, "seed": head.seed, **sides, "launches": launches}
        store.write_atomic(self.job_dir / FILE, store.json_lines(document))

    def measure(self, stage: str, pairs: Callable[[], int], cells: Collection[str] | None = None) -> None:
        """Pairs of a stage.

        Args:
            pairs: how many there should be; asked before each, so that it may look at those that there are.
            cells: ids of those to measure; None: every cell of the suite.

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
            for together in [names] if self._take_turns else [[name] for name in names]:
                todo = {name: [cell for cell in order if cell in self.sides[name].cells] for name in together}
                self._measure(stage, pair, todo)
            pair += 1
            self._tell_left(stage, num_pairs - pair)

    @property
    def _take_turns(self) -> bool:
        """On a CPU both sides of a pair are loaded at once, and their requests alternate. Two models need not fit a
        GPU, and there each would be the other's foreign process."""
        return all(side.device_kind == "cpu" and side.is_current for side in self.sides.values())

    def _measure(self, stage: str, pair: int, todo: dict[str, list[str]]) -> None:
        """One side of a pair, or both in turn, with repeats of what was disturbed. todo: side -> its cells in order."""
        for attempt in range(self.repeats + 1):
            if not any(todo.values()):
                return
            launches, codes = self._launch(stage, pair, attempt, todo)
            why = next((launch.dropped for launch in launches if launch.dropped), None)
            if why is None:
                again = {cell for launch in launches for cell in launch.dropped_cells}
                todo = {name: [cell for cell in cells if cell in again] for name, cells in todo.items()}
                continue
            for launch in launches:
                launch.dropped = launch.dropped or f"taken in turn with a launch that was dropped: {why}"
            self.write()
            for launch, code in zip(launches, codes, strict=True):
                self._refuse_hopeless(launch, code)

    def _launch(
        self, stage: str, pair: int, attempt: int, todo: Mapping[str, Sequence[str]]
    ) -> tuple[list[Launch], list[int]]:
        """The launches and their exit codes; whatever happens, what they measured is in the folder and in job.json."""
        name = f"{stage}-{pair:02d}" + (f"-{attempt}" if attempt else "")
        launches = [
            Launch(stage=stage, pair=pair, side=side, attempt=attempt, order=len(self.launches) + i, run_dir="")
            for i, side in enumerate(todo)
        ]
        self.launches += launches
        folders = {side: self.job_dir / side / f".{name}" for side in todo}
        errors = self._ecc_errors()
        for launch in launches:
            launch.dropped = "interrupted"
        begun = time.monotonic()
        try:
            codes = self._run(todo, folders)
            for launch in launches:
                launch.dropped = None
        finally:
            for launch in launches:
                self._keep(launch, folders[launch.side], self.job_dir / launch.side / name)
            self.write()
        is_same = self._ecc_errors() == errors
        for launch, code in zip(launches, codes, strict=True):
            launch.dropped = None if is_same else "a memory error of the GPU was counted (ECC)"
            self._judge(launch, code, todo[launch.side])
            self._tell(launch, len(todo[launch.side]), time.monotonic() - begun)
        self.write()
        return launches, codes

    def _run(self, todo: Mapping[str, Sequence[str]], folders: Mapping[str, Path]) -> list[int]:
        """Exit codes of one launch of each side named, of two in turn."""
        with ExitStack() as stack:
            referee = stack.enter_context(turns.between(*todo)) if len(todo) == 2 else None
            processes = {}
            for name, cells in todo.items():
                variables = {} if referee is None else referee.variables(name)
                process = self.sides[name].start(cells, folders[name], self.sides[HEAD].seed, variables)
                stack.callback(end, process)
                processes[name] = process
            running = set(processes)
            while running:
                for name in list(running):
                    with suppress(subprocess.TimeoutExpired):
                        processes[name].wait(_PERIOD_S)
                        running.remove(name)
                        if referee is not None:
                            referee.ended(name)
            return [process.returncode for process in processes.values()]

    def _ecc_errors(self) -> int | None:
        return disturbed.ecc_errors() if self.sides[HEAD].device_kind == "cuda" else None

    def _keep(self, launch: Launch, folder: Path, kept: Path) -> None:
        """The run directory under its name in the job, with the log of its launch; nothing else of it stays."""
        made = next(folder.glob("*/*/plan.json"), None)
        if made is not None:
            made.parent.rename(kept)
            launch.run_dir = kept.relative_to(self.job_dir).as_posix()
            if (folder / "log").exists():
                (folder / "log").rename(kept / "launch.log")
            shutil.rmtree(folder, ignore_errors=True)

    def _judge(self, launch: Launch, code: int, cells: Sequence[str]) -> None:
        """Whether a launch counts, and which of its cells."""
        if launch.dropped is not None:
            return
        if code not in (0, _INCOMPLETE) or not launch.run_dir:
            launch.dropped = f"ended with exit status {code}"
            return
        run_dir = self.job_dir / launch.run_dir
        records = list(store.read_records(run_dir).final.values())
        self._refuse_other_source(launch, run_dir)
        clock = disturbed.clock_of(records)
        launch.dropped = disturbed.off_clock(clock, self._clocks)
        if clock is not None:
            self._clocks.append(clock)
        launch.dropped_cells = dict(_disturbed_cells(records, cells))

    def _refuse_other_source(self, launch: Launch, run_dir: Path) -> None:
        """Every launch of a side has to run the code of its first one."""
        source = str(store.read_json(run_dir / "plan.json").get("provenance", {}).get("source_hash"))
        if source != self._sources.setdefault(launch.side, source):
            launch.dropped = "the source was changed while the job ran"
            self.write()
            raise SideError(launch.side, f"{self.sides[launch.side]}: its source was changed while it was measured")

    def _refuse_hopeless(self, launch: Launch, code: int) -> None:
        """A usage error or an unfit machine stays one; so does a side that has never ended well."""
        if code in (0, _INCOMPLETE):
            return
        worked = any(one.side == launch.side and one.dropped is None for one in self.launches)
        if code in _LASTING or (launch.attempt == self.repeats and not worked):
            side = self.sides[launch.side]
            raise SideError(side.name, f"{side} cannot be measured: {self._last_words(side, launch)}")

    def _last_words(self, side: Side, launch: Launch) -> str:
        names = sorted((self.job_dir / side.name).glob(".*/log")) + sorted(
            (self.job_dir / side.name).glob("*/launch.log")
        )
        lines = names[-1].read_text(encoding="utf-8", errors="replace").splitlines() if names else []
        lines = [line for line in lines if line.strip()]
        return next((line for line in lines if line.startswith("error: ")), (lines or [str(launch.dropped)])[-1])

    def _tell(self, launch: Launch, num_cells: int, seconds: float) -> None:
        note = launch.dropped or "; ".join(dict.fromkeys(launch.dropped_cells.values()))
        again = f" · {note}; {'repeated' if launch.attempt < self.repeats else 'noted'}" if note else ""
        self.say(f"{launch.stage} pair {launch.pair + 1} {launch.side}: {num_cells} cells in {seconds:.1f} s{again}")

    def _tell_left(self, stage: str, pairs_left: int) -> None:
        elapsed = time.monotonic() - self._begun
        pairs_done = len({(launch.stage, launch.pair) for launch in self.launches})
        self.say(f"{elapsed:.0f} s elapsed, ~{pairs_left * elapsed / pairs_done:.0f} s left in the {stage} stage")


def _disturbed_cells(records: Sequence[Record], cells: Collection[str]) -> Iterator[tuple[str, str]]:
    for record in records:
        if record.cell_id in cells and (reason := disturbed.reason_of(record)):
            yield record.cell_id, reason


@contextmanager
def interruptible() -> Iterator[None]:
    """The first signal that asks for an end interrupts, and those that follow do not disturb the tidying up."""
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
