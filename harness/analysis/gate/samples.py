"""What a gate compares: launches of base and head, side by side, from a job's folder or from two stored runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.analysis.gate.measured import check_measured
from harness.analysis.run_data import CellPlan, Run, load_run
from harness.analysis.verdict import JOB, STORED, Side
from harness.records import job as jobs
from harness.records.job import BASE, CONFIRM, HEAD, SCREEN, Job
from harness.records.store import StoreError
from harness.records.types import Record

OK, ABSENT, DROPPED = "ok", "absent", "dropped"
_WORST_FIRST = ("error", "timeout", "oom", "unsupported")


Attempt = tuple[Run, dict[str, str]]  # and its cells that do not count, with the reasons


@dataclass(frozen=True, slots=True)
class Sample:
    """One launch of one side; a repeat of it holds the cells that an earlier attempt lost."""

    attempts: tuple[Attempt, ...]  # at least one, in order
    launch: int

    @property
    def run(self) -> Run:
        return self.attempts[0][0]

    def run_of(self, cell_id: str) -> Run | None:
        """Which attempt counts for the cell: the last that lost it not; None where there is none."""
        runs = (run for run, dropped in reversed(self.attempts) if cell_id in run.planned and cell_id not in dropped)
        return next(runs, None)

    def why_dropped(self, cell_id: str) -> str | None:
        """Why no attempt counts for the cell; None where one does, or none was made."""
        reasons = [dropped[cell_id] for _, dropped in self.attempts if cell_id in dropped]
        return reasons[-1] if reasons and self.run_of(cell_id) is None else None

    def record(self, cell_id: str) -> Record | None:
        """The cell's record where it ended well and counts."""
        record = self.any_record(cell_id)
        return record if record is not None and record.status == OK else None

    def any_record(self, cell_id: str) -> Record | None:
        """However it ended."""
        run = self.run_of(cell_id)
        record = run.final.get((cell_id, self.launch)) if run is not None else None
        return None if record is None or record.is_interrupted else record


Pair = tuple[Sample | None, Sample | None]  # base, head


@dataclass(frozen=True, kw_only=True, slots=True)
class Samples:
    mode: str  # job | stored
    suite: str
    sides: tuple[Side, Side]
    stages: dict[str, list[Pair]]
    warnings: tuple[str, ...]
    uncounted: tuple[int, ...] = ()  # sides of a job without the launch that takes exact counts

    def of_side(self, side: int, stage: str | None = None) -> list[Sample]:
        stages = self.stages.values() if stage is None else [self.stages.get(stage, [])]
        return [pair[side] for pairs in stages for pair in pairs if pair[side] is not None]  # type: ignore[misc]

    def of_counts(self, side: int) -> list[Sample]:
        """Every attempt as a sample of its own, with its counts and tokens, whatever disturbed its times."""
        return [Sample(((run, {}),), one.launch) for one in self.of_side(side) for run, _ in one.attempts]

    @property
    def whole(self) -> str:
        """The stage in which every cell takes part."""
        return SCREEN if self.mode == JOB else STORED

    @property
    def device_kind(self) -> str:
        return str(self.of_side(1)[0].run.plan["device"].get("kind") or "")

    def planned(self, side: int) -> dict[str, CellPlan]:
        """Of all cells, in plan order."""
        planned: dict[str, CellPlan] = {}
        for sample in self.of_side(side, self.whole):
            for run, _ in sample.attempts:
                planned = {**run.planned, **planned}
        return planned

    def has_counts(self, side: int, cell_id: str) -> bool:
        """Whether a launch of the cell ended well, disturbed or not."""
        return any(one.record(cell_id) is not None for one in self.of_counts(side))

    def status(self, side: int, cell_id: str) -> tuple[str, str]:
        """ok, absent, dropped, or the worst status that a launch of that side ended in; and how often, and why.

        dropped: none of its launches counts, and their counts alone are left, if any. Where every one of them ended in
        an error, that is its status: whatever disturbs times makes none.
        """
        samples = self.of_side(side)
        there = [record for one in samples if (record := one.any_record(cell_id)) is not None]
        dropped = [why for one in samples if (why := one.why_dropped(cell_id))]
        if dropped and not there:
            there = [record for one in self.of_counts(side) if (record := one.any_record(cell_id)) is not None]
            if any(record.status != "error" for record in there) or not there:
                return DROPPED, dropped[-1]
        bad = [record for record in there if record.status != OK]
        if bad:
            worst = min(bad, key=lambda record: _WORST_FIRST.index(record.status))
            times = "" if len(bad) == len(there) else f" in {len(bad)} of {len(there)} launches"
            return worst.status, f"{worst.status}{times}: {worst.reason or 'no reason recorded'}"
        return (OK, "") if there else (ABSENT, "there is no record of it")


def of_job(job_dir: Path) -> Samples:
    """Raises StoreError where job.json or a run in it cannot be read, or no launch of one side ended well."""
    job = jobs.read(job_dir)
    stages = {stage: _pairs(job, stage, job_dir) for stage in (SCREEN, CONFIRM)}
    for side, name in enumerate((BASE, HEAD)):
        if not any(pair[side] for pair in stages[SCREEN]):
            raise StoreError(f"{job_dir}: no launch of {name} ended well, so there is nothing to judge")
    uncounted = [side for side, name in enumerate((BASE, HEAD)) if 0 not in job.whole(SCREEN, name)]
    samples = Samples(
        mode=JOB,
        suite=job.suite,
        sides=_NO_SIDES,
        stages=stages,
        warnings=(*_dropped(job), *(_uncounted((BASE, HEAD)[side]) for side in uncounted)),
        uncounted=tuple(uncounted),
    )
    check_measured(run for _, run in _runs(samples, (BASE, HEAD)).values())
    samples = replace(samples, warnings=(*samples.warnings, *_of_runs(samples, (BASE, HEAD))))
    return replace(samples, sides=(_side(samples, 0, job.base), _side(samples, 1, job.head)))


def has_pairs(job_dir: Path) -> bool:
    """Whether both sides have a launch that counts."""
    job = jobs.read(job_dir)
    return all(job.counting(SCREEN, side) for side in (BASE, HEAD))


def of_runs(base: Path, head: Path, names: tuple[str, str]) -> Samples:
    """Two stored runs; launch k of one beside launch k of the other, although nothing but a number pairs them.

    Raises:
        StoreError: a run cannot be read, both are one, or one does not say where it was measured.
    """
    if base.resolve() == head.resolve():
        raise StoreError(f"{head}: is the base itself; name another run")
    return _of_loaded((load_run(base), load_run(head)), names)


def of_run(run_dir: Path) -> Samples:
    """A stored run as both sides, for who asks of head alone."""
    run = load_run(run_dir)
    return _of_loaded((run, run), (run_dir.name, run_dir.name))


def _of_loaded(runs: tuple[Run, Run], names: tuple[str, str]) -> Samples:
    counts = [int(run.plan["protocol"]["launches"]) for run in runs]
    pairs: list[Pair] = []
    for launch in range(max(counts)):
        base_sample, head_sample = (
            Sample(((run, {}),), launch) if launch < count else None for run, count in zip(runs, counts, strict=True)
        )
        pairs.append((base_sample, head_sample))
    samples = Samples(mode=STORED, suite=runs[1].suite, sides=_NO_SIDES, stages={STORED: pairs}, warnings=())
    check_measured(run for _, run in _runs(samples, (BASE, HEAD)).values())
    sides = (_side(samples, side, _revision_of(run, names[side])) for side, run in enumerate(runs))
    return replace(samples, sides=tuple(sides), warnings=tuple(_of_runs(samples, names)))  # type: ignore[arg-type]


def _load(job_dir: Path, launches: Sequence[jobs.Launch] | None) -> Sample | None:
    if not launches:
        return None
    runs = [load_run(job_dir / one.run_dir) for one in launches]
    lost = [
        one.dropped_cells if one.dropped is None else dict.fromkeys(run.planned, one.dropped)
        for one, run in zip(launches, runs, strict=True)
    ]
    return Sample(tuple(zip(runs, lost, strict=True)), 0)


def _pairs(job: Job, stage: str, job_dir: Path) -> list[Pair]:
    base, head = (job.whole(stage, side) for side in (BASE, HEAD))
    pairs = sorted(base.keys() | head.keys())
    return [(_load(job_dir, base.get(pair)), _load(job_dir, head.get(pair))) for pair in pairs]


def _dropped(job: Job) -> Iterator[str]:
    for one in job.launches:
        where = f"{one.stage}, pair {one.pair}, {one.side}"
        if one.dropped is not None:
            yield f"{where}: attempt {one.attempt} does not count: {one.dropped}"
        for reason in sorted(set(one.dropped_cells.values())):
            count = list(one.dropped_cells.values()).count(reason)
            yield f"{where}: {count} cells do not count: {reason}"


def _uncounted(side: str) -> str:
    return (
        f"no launch of {side} ended well in the first pair, in which operations, bytes and tokens are counted: "
        "rules of them may have nothing to compare"
    )


def _runs(samples: Samples, names: tuple[str, str]) -> dict[Path, tuple[str, Run]]:
    """Folder -> the name of its side, and the run."""
    return {
        run.directory: (name, run)
        for side, name in enumerate(names)
        for one in samples.of_side(side)
        for run, _ in one.attempts
    }


def _of_runs(samples: Samples, names: tuple[str, str]) -> Iterator[str]:
    """What the readers of the runs stumbled over: lines that are torn or damaged, records that stand there twice."""
    for name, run in _runs(samples, names).values():
        where = name if samples.mode == STORED else f"{name}/{run.run_id}"
        yield from (f"{where}: {warning}" for warning in run.warnings)


def _side(samples: Samples, side: int, revision: jobs.Revision) -> Side:
    runs = [run for one in samples.of_side(side) for run, _ in one.attempts]
    ids = {record.environment_id for run in runs for record in run.final.values()}
    return Side(
        revision=revision.revision,
        commit=revision.commit,
        dirty=revision.dirty,
        environment_ids=tuple(sorted(ids)),
    )


def _revision_of(run: Run, name: str) -> jobs.Revision:
    stack = (run.plan.get("provenance") or {}).get("stack") or {}
    commit, dirty = stack.get("project_commit"), stack.get("project_dirty")
    return jobs.Revision(
        revision=name,
        commit=commit if isinstance(commit, str) else None,
        dirty=dirty if isinstance(dirty, bool) else None,
    )


_NO_SIDES = (Side(revision="", commit=None, dirty=None, environment_ids=()),) * 2
