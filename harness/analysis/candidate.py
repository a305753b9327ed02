"""What a run offers for approval: its values, in a file beside its records. It changes no baseline."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any, TypeVar

import harness.analysis.gate.comparable as comparable
from harness.analysis import stats
from harness.analysis.gate.judge import settings_of
from harness.analysis.gate.samples import Samples, by_round
from harness.analysis.metrics import METRICS
from harness.analysis.summary import ENOUGH_LAUNCHES
from harness.analysis.verdict import State, Verdict
from harness.records import store, strict
from harness.records.types import Environment

_T = TypeVar("_T")
CANDIDATE_SCHEMA = 2  # 2: what was asked
CANDIDATE_FILE = "baseline-candidate.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """A metric of a cell: of times the median of the launches, else the mean over the rounds that every launch has."""

    cell_id: str
    label: str
    rule: str
    test: str  # exact | random | time
    unit: str
    better: str  # higher | lower
    value: float
    low: float | None  # 95 % interval over launches; None: too few of them
    high: float | None
    num_launches: int
    worsening: float | None  # against what it was judged or approved before, where it is worse: 0.05 is 5 %

    @property
    def is_compared(self) -> bool:
        """Whether a gate sets a stored run beside it: a time from a few launches is their luck; what needs no clock
        repeats, and one launch tells it.
        """
        return self.test != "time" or self.num_launches >= ENOUGH_LAUNCHES


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """What a run offers for approval."""

    candidate_schema: int
    suite: str
    identity: dict[str, Any]
    stack: dict[str, Any]
    question: dict[str, str]  # weights, seed, prompts and protocol
    run_id: str
    records_sha256: str
    values: tuple[Value, ...]


def read(path: Path) -> Candidate:
    """Raises StoreError where it is absent, damaged, older or newer."""
    return read_current(path, Candidate, "candidate_schema", CANDIDATE_SCHEMA)


def read_current(path: Path, kind: type[_T], schema_key: str, schema: int) -> _T:
    """As strict.read_file; an older file lacks what decides whether it may be compared, so it is refused by name."""
    try:
        return strict.read_file(path, kind, schema_key=schema_key, schema=schema)
    except store.NewerSchemaError:
        raise
    except store.StoreError:
        found = None
        with suppress(OSError, ValueError, RecursionError, AttributeError):
            is_small = path.stat().st_size <= strict.MOST_BYTES
            found = json.loads(path.read_text(encoding="utf-8")).get(schema_key) if is_small else None
        if type(found) is int and 1 <= found < schema:
            raise store.StoreError(
                f"{path}: {schema_key} {found} does not say of which weights, prompts, seed and protocol its values "
                "are, so nothing can be compared with them\nremove the file, and approve a run again"
            ) from None
        raise


def write(directory: Path, samples: Samples, verdict: Verdict | None = None) -> Path | None:
    """The candidate of head's samples, in the run's or the job's folder; None where no cell ended well.

    verdict: of the job, which says how much worse what is red has become.
    """
    found = candidate_of(samples, directory.name, verdict)
    if not found.values:
        return None
    path = directory / CANDIDATE_FILE
    store.write_atomic(path, store.json_lines(strict.plain(found)))
    return path


def candidate_of(samples: Samples, run_id: str, verdict: Verdict | None = None) -> Candidate:
    gate = settings_of(samples)
    red = {
        (cell.cell_id, one.rule): one.worsening
        for cell in (verdict.cells if verdict is not None else ())
        for one in cell.rules
        if one.state in (State.REGRESSED, State.ACCEPTED)
    }
    values = []
    for cell_id, planned in samples.planned(1).items():
        for name, rule in gate.rules.items():
            metric = METRICS.get(rule.metric)
            if metric is not None and rule.applies_to(planned.cell):
                counting = samples.of_side(1) if rule.test == "time" else samples.of_counts(1)
                launches = [of for one in counting if (of := by_round(metric, cell_id, one))]
                values += [
                    Value(
                        cell_id=cell_id,
                        label=planned.cell.label,
                        rule=name,
                        test=rule.test,
                        unit=metric.unit,
                        better=metric.better,
                        worsening=red.get((cell_id, name)),
                        **numbers,
                    )
                    for numbers in _numbers(launches, rule.test)
                ]
    here = environment_of(samples)
    return Candidate(
        candidate_schema=CANDIDATE_SCHEMA,
        suite=samples.suite,
        identity=here.identity,
        stack=here.stack,
        question=comparable.question_of(samples.of_side(1)[0].run),
        run_id=run_id,
        records_sha256=_records_hash(samples),
        values=tuple(sorted(values, key=lambda one: (one.label, one.rule))),
    )


def environment_of(samples: Samples) -> Environment:
    """Where head was measured.

    Raises:
        StoreError: its run does not say.
    """
    run = samples.of_side(1)[0].run
    for environment in run.environments.values():
        return environment
    raise store.StoreError(f"{run.directory}: has no environment-*.json, so nobody knows what machine it is of")


def _numbers(launches: list[dict[Any, float]], test: str) -> Iterator[dict[str, Any]]:
    """The value with its interval; nothing where no launch has the metric, or none of its rounds is in all of them."""
    if test != "time":
        common = sorted(set.intersection(*map(set, launches))) if launches else []
        if common:
            value = fmean(launches[0][key] for key in common)
            yield {"value": value, "low": None, "high": None, "num_launches": len(launches)}
    elif launches:
        medians = [median(one.values()) for one in launches]
        interval = stats.median_interval(medians)
        is_wide = interval.confidence < stats.WANTED_CONFIDENCE
        yield {
            "value": median(medians),
            "low": None if is_wide else interval.low,
            "high": None if is_wide else interval.high,
            "num_launches": len(launches),
        }


def _records_hash(samples: Samples) -> str:
    digest = hashlib.sha256()
    for directory in dict.fromkeys(run.directory for one in samples.of_side(1) for run, _ in one.attempts):
        for path in sorted(directory.glob("records-*.jsonl")):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
