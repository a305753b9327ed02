"""The same cells in several runs of one suite on one machine, by the time at which they were measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from harness.analysis.analyse import Analysis
from harness.analysis.rows import CellRow
from harness.analysis.run_data import Run
from harness.analysis.summary import Summary
from harness.records.types import canonical_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Visit:
    """One run of the suite."""

    run_id: str
    started_at: str  # of its first record
    commit: str | None  # seven digits, with + for changes that are in none


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """Between a run and the one before it, whose intervals do not touch."""

    row: CellRow  # in the later run
    place: int  # of the later run
    ratio: float  # useful tok/s of the later run / those of the earlier one


@dataclass(frozen=True, kw_only=True, slots=True)
class Trend:
    """Runs of one suite on machines of one identity, the oldest first, and the cells that all of them finished."""

    visits: tuple[Visit, ...]
    cells: tuple[tuple[CellRow, ...], ...]  # of a cell, its row in each run

    @property
    def changes(self) -> list[Change]:
        """Between neighbouring runs, the largest first."""
        found = [
            Change(row=after, place=place, ratio=_speed(after).value / _speed(before).value)
            for rows in self.cells
            for place, (before, after) in enumerate(pairwise(rows), start=1)
            if _are_apart(_speed(before), _speed(after))
        ]
        return sorted(found, key=lambda one: -max(one.ratio, 1 / one.ratio))


def trend_of(analysis: Analysis) -> Trend | None:
    """Of the suite and machine with the most runs; None where no two runs share a finished cell."""
    grouped: dict[str, list[Visit]] = {}
    for run_id, run in analysis.runs.items():
        started = min((record.started_at for record in run.final.values()), default=None)
        if started is not None:
            grouped.setdefault(_machine_of(run), []).append(
                Visit(run_id=run_id, started_at=started, commit=commit_of(run))
            )
    most: list[Visit] = max(grouped.values(), key=lambda visits: len(visits), default=[])
    visits = sorted(most, key=lambda one: (one.started_at, one.run_id))
    by_run = {visit.run_id: {row.cell_id: row for row in _finished(analysis, visit.run_id)} for visit in visits}
    shared = [
        cell_id
        for cell_id in (by_run[visits[0].run_id] if visits else ())
        if all(cell_id in rows for rows in by_run.values())
    ]
    cells = tuple(tuple(rows[cell_id] for rows in by_run.values()) for cell_id in shared)
    return Trend(visits=tuple(visits), cells=cells) if len(visits) > 1 and cells else None


def commit_of(run: Run) -> str | None:
    """The project's commit that the run's newest environment names."""
    for environment in reversed(run.environments.values()):
        commit = environment.stack.get("project_commit")
        if commit:
            return f"{str(commit)[:7]}{'+' if environment.stack.get('project_dirty') else ''}"
    return None


def _machine_of(run: Run) -> str:
    """Equal for runs of one suite on machines that are alike; other software does not matter, for that is the point."""
    identities = sorted(canonical_json(one.identity) for one in run.environments.values())
    return canonical_json([run.suite, run.device_name, identities])


def _finished(analysis: Analysis, run_id: str) -> Sequence[CellRow]:
    return [row for row in analysis.rows if row.run_id == run_id and "useful_tok_s" in row.metrics]


def _speed(row: CellRow) -> Summary:
    return row.metrics["useful_tok_s"]


def _are_apart(one: Summary, other: Summary) -> bool:
    """Whether both have an interval and these do not touch."""
    return min(one.n_rounds, other.n_rounds) > 1 and (one.high < other.low or other.high < one.low)
