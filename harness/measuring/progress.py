"""What a watcher sees while a plan runs, on stderr: a live line on a terminal, one plain line a cell elsewhere."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from harness.records.texts import inert
from harness.spec.plan import Plan, PlannedCell, work_of

log = logging.getLogger("canvasbench")


class PlainProgress:
    """One line a finished cell: count, status, label, seconds a request, elapsed, and what is left."""

    def start(self, plan: Plan, todo: Sequence[PlannedCell], run_dir: Path) -> None:
        """todo: each cell once for every launch in which it is due. From the first line on, an interrupt is heard."""
        self.say(f"{run_dir}: {len(plan.cells)} cells, {len(plan.skipped)} skipped")
        self._todo, self._cells_done = len(todo), 0
        self._work_done = 0.0
        protocol = plan.config.protocol
        self._rounds = protocol.warmup_rounds + protocol.rounds + int(protocol.counters)
        self._at_least = "" if protocol.is_fixed else "at least "
        self._start = time.monotonic()
        self._work_all = sum(work_of(planned) for planned in todo)

        self.group_begun(())

    def group_begun(self, group: Sequence[PlannedCell]) -> None:
        self._group, self._group_start = group, time.monotonic()
        self._group_rounds_done, self._group_work_done = Counter[str](), 0.0

    def round_done(self, planned: PlannedCell) -> None:
        self._group_rounds_done[planned.cell_id] += 1
        if self._group_rounds_done[planned.cell_id] <= self._rounds:  # what is more was not foreseen
            work = work_of(planned) / self._rounds
            self._work_done += work
            self._group_work_done += work

    def cell_done(self, planned: PlannedCell, status: str, what: str) -> None:
        self._cells_done += 1
        self.say(self.line(planned, status, what))

    def stopping(self) -> None:
        """Ctrl-C was heard: say what is waited for, and about how long."""
        wanted = f"{self._at_least}{len(self._group) * self._rounds}"
        rounds = f"{self._group_rounds_done.total()} of {wanted} requests done"
        self.note(
            f"finishing the group that is being measured: {len(self._group)} cells, {rounds}, {self.group_left()}\n"
            "Ctrl-C again stops now: finished rounds are kept, but the group has to be measured again"
        )

    def group_left(self) -> str:
        """How long the group still takes: by its own pace, else by that of the run so far."""
        now, work = time.monotonic(), sum(work_of(planned) for planned in self._group)
        if self._group_work_done:
            left_s = (now - self._group_start) * max(work / self._group_work_done - 1, 0)
        elif self._work_done:
            left_s = (now - self._start) / self._work_done * work
        else:
            return "how long that takes is not known yet"
        return f"about {_minutes(left_s)} left"

    def note(self, text: str) -> None:
        self.say(text)

    def stop(self) -> None:
        pass

    def say(self, text: str) -> None:
        log.info(text)
        with contextlib.suppress(OSError):  # nobody reads stderr any more: that must not end a night's work
            print(inert(text), file=sys.stderr, flush=True)

    def line(self, planned: PlannedCell, status: str, what: str) -> str:
        width = len(str(self._todo))
        count = f"[{self._cells_done:>{width}}/{self._todo}]"
        return f"{count} {status:<11} {planned.cell.label} · {what.splitlines()[0]} · {self.clock()}"

    def clock(self) -> str:
        elapsed_s = time.monotonic() - self._start
        left = "?" if self._work_done == 0 else _minutes(elapsed_s * max(self._work_all / self._work_done - 1, 0))
        return f"{_minutes(elapsed_s)} elapsed, ~{left} left"


class QuietProgress(PlainProgress):
    """Nothing on the terminal but the answer to Ctrl-C; the lines still go to run.log."""

    def note(self, text: str) -> None:
        super().say(text)

    def say(self, text: str) -> None:
        log.info(text)


class LiveProgress(PlainProgress):
    """A bar that moves with every round, and a line only for cells that did not end well."""

    def start(self, plan: Plan, todo: Sequence[PlannedCell], run_dir: Path) -> None:
        super().start(plan, todo, run_dir)
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (TextColumn("{task.fields[count]}"), BarColumn(), TextColumn("{task.description}", markup=False))
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("", total=self._work_all, count=f"[0/{len(todo)}]")
        self._bar.start()

    def round_done(self, planned: PlannedCell) -> None:
        super().round_done(planned)
        text = f"{planned.cell.label} · {self.clock()}"
        self._bar.update(self._task, completed=self._work_done, description=text)

    def cell_done(self, planned: PlannedCell, status: str, what: str) -> None:
        self._cells_done += 1
        line = self.line(planned, status, what)
        log.info(line)
        self._bar.update(self._task, count=f"[{self._cells_done}/{self._todo}]")
        if status != "ok":
            self._bar.console.print(line, markup=False, highlight=False)

    def note(self, text: str) -> None:
        log.info(text)
        self._bar.console.print(text, markup=False, highlight=False)

    def stop(self) -> None:
        self._bar.stop()


def choose(quiet: bool) -> PlainProgress:
    """Live on a terminal that can, plain lines in a file, in CI and where NO_COLOR or TERM=dumb ask for it."""
    if quiet:
        return QuietProgress()
    plain = os.environ.get("NO_COLOR") or os.environ.get("CI") or os.environ.get("TERM") == "dumb"
    return LiveProgress() if sys.stderr.isatty() and not plain else PlainProgress()


def _minutes(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
