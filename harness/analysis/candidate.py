"""What a run offers for approval: its values, in a file beside its records. It changes no baseline."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Annotated, Any

import harness.analysis.gate.comparable as comparable
from harness.analysis import stats
from harness.analysis.acceptance import MOST_WORSENING
from harness.analysis.gate.judge import settings_of
from harness.analysis.gate.measured import environments_of
from harness.analysis.gate.readings import by_round
from harness.analysis.gate.samples import Samples
from harness.analysis.metrics import METRICS
from harness.analysis.run_data import MOST_LAUNCHES
from harness.analysis.summary import ENOUGH_LAUNCHES
from harness.analysis.verdict import State, Verdict
from harness.records import store, strict

CANDIDATE_SCHEMA = 3  # 2: what was asked; 3: metrics by name
CANDIDATE_FILE = "baseline-candidate.json"
IF_OLDER = (
    "and does not say enough of its values to compare anything with them\nremove the file, and approve a run again"
)
_SMALLEST, _LARGEST = 1e-100, 1e100  # of any metric that is not 0, so that the ratio of two of them is a float


SHA256 = strict.Fits("64 hexadecimal digits", lambda value: re.fullmatch("[0-9a-f]{64}", value) is not None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """A metric of a cell: of times the median of the launches, else the mean over the rounds that every launch has."""

    cell_id: Annotated[str, strict.TEXT]
    label: Annotated[str, strict.TEXT]
    rule: Annotated[str, strict.TEXT]
    metric: str  # of the registry, which knows its unit and which way is better
    test: Annotated[str, strict.one_of("exact", "random", "time")]
    value: float
    low: float | None  # 95 % interval over launches; None: too few of them
    high: float | None
    num_launches: Annotated[int, strict.within(1, MOST_LAUNCHES)]
    # Against what it was judged or approved before, where it is worse: 0.05 is 5 %.
    worsening: Annotated[float, strict.ABOVE_0, strict.within(0, MOST_WORSENING)] | None

    def __post_init__(self) -> None:
        """Raises ValueError for a metric that this version does not have, and for what it cannot be."""
        if self.metric not in METRICS:
            raise ValueError(f"metric {strict.quoted(self.metric)} is none of this version's")
        low, high = (self.value if bound is None else bound for bound in (self.low, self.high))
        is_in_reach = self.value == 0 or _SMALLEST <= abs(self.value) <= _LARGEST
        if not (is_in_reach and METRICS[self.metric].least <= low <= self.value <= high):
            raise ValueError(f"value {self.value:g}, from {low:g} to {high:g}, is no {self.metric}")

    @property
    def unit(self) -> str:
        return METRICS[self.metric].unit

    @property
    def better(self) -> str:
        """higher | lower."""
        return METRICS[self.metric].better

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
    run_id: Annotated[str, strict.TEXT]
    records_sha256: Annotated[str, SHA256]
    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        """Raises ValueError where it contradicts itself."""
        check_unique(self.values)


def check_unique(values: Sequence[Value]) -> None:
    """Raises ValueError where a rule of a cell has two values."""
    if len({(one.cell_id, one.rule) for one in values}) != len(values):
        raise ValueError("a cell has a rule twice")


def read(path: Path) -> Candidate:
    """Raises StoreError where it is absent, damaged, older or newer."""
    return strict.read_file(path, Candidate, schema_key="candidate_schema", schema=CANDIDATE_SCHEMA, if_older=IF_OLDER)


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
    """What head's samples offer.

    Raises:
        StoreError: its run does not say where it was measured, or holds a number that nothing measures.
    """
    try:
        return _candidate_of(samples, run_id, verdict)
    except ValueError as error:
        raise store.StoreError(f"{samples.of_side(1)[0].run.directory}: {error}") from None


def _candidate_of(samples: Samples, run_id: str, verdict: Verdict | None) -> Candidate:
    gate = settings_of(samples)
    red = {
        (cell.cell_id, one.rule): min(one.worsening, MOST_WORSENING) if one.worsening and one.worsening > 0 else None
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
                        metric=metric.name,
                        test=rule.test,
                        worsening=red.get((cell_id, name)),
                        **numbers,
                    )
                    for numbers in _numbers(launches, rule.test)
                ]
    head = samples.of_side(1)[0].run
    if (identity := identity_of(samples)) is None:
        raise store.StoreError(f"{head.directory}: was measured on several machines, and a baseline is of one")
    return Candidate(
        candidate_schema=CANDIDATE_SCHEMA,
        suite=samples.suite,
        identity=identity,
        stack=environments_of(head)[0].stack,
        question=comparable.question_of(head),
        run_id=run_id,
        records_sha256=_records_hash(samples),
        values=tuple(sorted(values, key=lambda one: (one.label, one.rule))),
    )


def identity_of(samples: Samples) -> dict[str, Any] | None:
    """Of the machine that head was measured on; None where there are several, of which no baseline is.

    Raises:
        StoreError: its run does not say.
    """
    first, *others = (one.identity for one in environments_of(samples.of_side(1)[0].run))
    return first if all(one == first for one in others) else None


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
