"""A gate's job: launches of two revisions that took turns on one machine. Standard library only.

results/<suite>/gates/<job_id>/ holds job.json and a run directory for each launch. Pair k of a stage is the launch of
either side with that stage and pair; a launch that something physical disturbed, or the cells of it that were, is
dropped and repeated as the next attempt.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from harness.records import store, strict

JOB_SCHEMA = 1
JOB_FILE = "job.json"
SCREEN, CONFIRM = "screen", "confirm"
BASE, HEAD = "base", "head"
# Why a launch is dropped whose counts and tokens are no better than its times; whatever else is, spoils times alone.
INTERRUPTED, CRASHED, MEMORY_ERROR = "interrupted", "its process ended", "a memory error of the GPU was counted (ECC)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Revision:
    revision: str  # as it was asked for
    commit: str | None
    dirty: bool | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    stage: str  # screen: all cells; confirm: those that the screen kept
    pair: int
    side: str  # base | head
    attempt: int
    order: int  # of all launches of the job, as they were started
    run_dir: str  # inside the job's directory, an ordinary run of one launch; "" where a dropped one left none
    dropped: str | None  # why the whole launch does not count
    dropped_cells: dict[str, str]  # cell_id -> why the cell does not count in this launch

    def __post_init__(self) -> None:
        """Raises ValueError for a stage, side or folder that cannot be."""
        if self.stage not in (SCREEN, CONFIRM) or self.side not in (BASE, HEAD):
            raise ValueError(f"stage is {self.stage[:40]!r} and side {self.side[:40]!r}")
        path = PurePosixPath(self.run_dir)
        if path.is_absolute() or ".." in path.parts or not self.run_dir.isprintable():
            raise ValueError(f"run_dir {self.run_dir[:80]!r} is not inside the job's folder")
        if not 0 <= self.pair < 10_000:
            raise ValueError(f"pair is {self.pair}")

    @property
    def is_whole(self) -> bool:
        """Whether it ended well, so that what no clock decides is valid, whether or not its times count."""
        return not (self.dropped or "").startswith((INTERRUPTED, CRASHED, MEMORY_ERROR)) and self.run_dir != ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    job_schema: int
    suite: str
    seed: int
    base: Revision
    head: Revision
    launches: tuple[Launch, ...]

    def __post_init__(self) -> None:
        """Raises ValueError where a launch stands in it twice: it counts once."""
        folders = [str(PurePosixPath(one.run_dir)) for one in self.launches if one.run_dir]
        places = [(one.stage, one.pair, one.side, one.attempt) for one in self.launches]
        for what, values in (("folder", folders), ("stage, pair, side and attempt", places)):
            if len(set(values)) != len(values):
                raise ValueError(f"two launches have one {what}")

    def counting(self, stage: str, side: str) -> dict[int, list[Launch]]:
        """Pair -> its attempts that count, in order; a later one may hold only the cells that an earlier one lost."""
        whole = self.whole(stage, side).items()
        counting = {pair: [one for one in attempts if one.dropped is None] for pair, attempts in whole}
        return {pair: attempts for pair, attempts in counting.items() if attempts}

    def whole(self, stage: str, side: str) -> dict[int, list[Launch]]:
        """Likewise, with those whose times alone do not count."""
        found: dict[int, list[Launch]] = {}
        for one in sorted(self.launches, key=lambda one: one.attempt):
            if (one.stage, one.side) == (stage, side) and one.is_whole:
                found.setdefault(one.pair, []).append(one)
        return found


def is_job(directory: Path) -> bool:
    return (directory / JOB_FILE).is_file()


def read(job_dir: Path) -> Job:
    """Raises StoreError where job.json is absent, damaged, or newer than this version."""
    return strict.read_file(job_dir / JOB_FILE, Job, schema_key="job_schema", schema=JOB_SCHEMA)


def write(job_dir: Path, job: Job) -> None:
    """Replace job.json whole; as often as a launch ends, so that a killed job can still be judged."""
    store.write_atomic(job_dir / JOB_FILE, store.json_lines(strict.plain(job)))
