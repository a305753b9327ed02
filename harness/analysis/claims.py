"""The claims of the launch texts against the rows of a page, judged by one rule.

The rule. A row can test a claim when it is of the device, shape, decoding and batch that the claim names, and has the
claim's measure. It reaches the claim when the measure, a median, is past the claim's number, less the tolerance with
which the claim's words are read (readings, in results/published.yaml). With R the rows that can, and H those of them
that reach it:

    reproduced           R is not empty, H is all of R, and one of H was obtained as the claim was (obtained_with)
    reproduced only if   H is not empty, but it is not all of that: the verdict says what H has and R - H has not, or
                         which of the conditions under which the claim was obtained no row has
    contradicted         H is empty, and one of R was obtained as the claim was
    not tested here      otherwise: no row can test it, or none that can was obtained as the claim was

Times of the fake backend are made up, and test nothing. `subjects` says whose rows they are, and which of them are of
another model than the launch's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.analysis.apart import names_apart
from harness.analysis.claim_conditions import FIELDS, LESS, Difference, Unmet, ValuedRow, differences, unmet_by
from harness.analysis.claim_measures import ALLOWED, MEASURES, why_not_measured
from harness.analysis.rows import CellRow
from harness.analysis.run_data import Run
from harness.records.types import Cell
from harness.spec import formats, published
from harness.spec.config import DTYPE_BYTES, check_choice
from harness.spec.data import devices
from harness.spec.published import Claim, Published, Reading

REPRODUCED, ONLY_IF, CONTRADICTED, NOT_TESTED = (
    "reproduced",
    "reproduced only if",
    "contradicted",
    "not tested here",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Extreme:
    """The lowest or the highest value that a claim was measured by, in its unit, and the row that has it."""

    value: float
    run_id: str
    run: str  # its device, and what tells it from other runs there
    cell: Cell

    def to_json(self) -> dict[str, Any]:
        return {"value": self.value, "run_id": self.run_id, "cell_id": self.cell.cell_id}


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """One run's rows among those that test a claim."""

    run_id: str
    run: str  # its device, and what tells it from other runs there
    device: str
    model: str
    num_rows: int
    is_released_shape: bool
    is_trained: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Rows. Those that reach a claim do so with the tolerance of its reading."""

    tested: int
    reached: int
    by_tolerance: int  # reached, though short of the number itself
    worse_answers: int  # reached, with fewer right answers than the twin
    unclear: int  # whose interval holds the bar
    as_obtained: int  # tested, and obtained as the claim was
    as_obtained_reached: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What the rows say of one claim."""

    claim: Claim
    reading: Reading
    verdict: str
    why: str  # why it is not tested; else empty
    rows: Counts
    lowest: Extreme | None
    highest: Extreme | None
    subjects: tuple[Subject, ...]
    roofs: tuple[str, ...]  # datasheet | measured: whose the rows' floors use
    simulated: Mapping[str, int]  # what was drawn instead of computed -> in how many of the rows
    unmet: Unmet  # of the conditions under which it was obtained
    differences: tuple[Difference, ...]  # those that decide first
    allowed: Mapping[str, float]  # condition -> what the floor, or the formula, allows

    @property
    def bar(self) -> float:
        """What a row must reach, in the claim's unit."""
        return self.claim.bar(self.reading.tolerance)

    @property
    def is_as_launched(self) -> bool:
        """Whether all its rows are of the released shape with trained weights."""
        return bool(self.subjects) and all(one.is_released_shape and one.is_trained for one in self.subjects)

    def to_json(self) -> dict[str, Any]:
        ends = {name: one and one.to_json() for name, one in (("lowest", self.lowest), ("highest", self.highest))}
        return {**asdict(self), **ends, "bar": self.bar, "is_as_launched": self.is_as_launched}


def judge_claims(rows: Sequence[CellRow], runs: Mapping[str, Run], given: Published) -> list[Judgement]:
    """Every claim, in the file's order.

    Raises:
        ConfigError: a claim names a measure or a condition that there is not.
    """
    by_id = {(row.run_id, row.cell_id): row for row in rows}
    apart = names_apart(runs)
    names = {run_id: ", ".join(filter(None, (run.device_name, apart[run_id]))) for run_id, run in runs.items()}
    return [_judge(claim, rows, runs, by_id, names, given) for claim in given.claims]


def _judge(
    claim: Claim,
    rows: Sequence[CellRow],
    runs: Mapping[str, Run],
    by_id: Mapping[tuple[str, str], CellRow],
    names: Mapping[str, str],
    given: Published,
) -> Judgement:
    where = f"{Path(published.PATH).name}: {claim.id}"
    check_choice(f"{where}: measure", claim.measure, list(MEASURES))
    for name in claim.obtained_with:
        check_choice(f"{where}: obtained_with", name, FIELDS)
    in_scope = [row for row in rows if not _lacking(claim, row, runs[row.run_id])]
    tested = []
    for row in in_scope:
        run, twin = runs[row.run_id], by_id.get((row.run_id, row.twin_id or ""))
        value = MEASURES[claim.measure](row, run, twin)
        if value is not None:
            tested.append(ValuedRow(row, run, names[row.run_id], twin, value))
    reading = given.readings[claim.reading]
    reached, missed = (
        [one for one in tested if claim.is_reached_by(one.value, reading.tolerance) == holds] for holds in (True, False)
    )
    counts = _counts(claim, reading, tested, reached)
    verdict, why = _verdict(counts)
    ordered = sorted(tested, key=lambda one: one.value)
    return Judgement(
        claim=claim,
        reading=reading,
        verdict=verdict,
        why=why if tested else _why_untested(claim, rows, in_scope, runs),
        rows=counts,
        lowest=_extreme(ordered[0]) if ordered else None,
        highest=_extreme(ordered[-1]) if ordered else None,
        subjects=_subjects(tested),
        roofs=tuple(sorted({one.row.floor_roof for one in tested if one.row.floor_roof})),
        simulated=dict(Counter(drawn for one in tested for drawn in one.row.cell.drawn)),
        unmet=unmet_by(claim.obtained_with, tested),
        differences=tuple(differences(reached, missed)),
        allowed=ALLOWED[claim.measure](claim, given),
    )


def _verdict(rows: Counts) -> tuple[str, str]:
    """The rule, and why it says nothing where rows were measured under other conditions only."""
    if rows.reached:
        is_whole = rows.reached == rows.tested and rows.as_obtained_reached
        return (REPRODUCED if is_whole else ONLY_IF), ""
    if rows.as_obtained:
        return CONTRADICTED, ""
    return NOT_TESTED, "no row here was obtained as the claim was, and those that are here do not reach it"


def _counts(claim: Claim, reading: Reading, tested: Sequence[ValuedRow], reached: Sequence[ValuedRow]) -> Counts:
    bar, wanted = claim.bar(reading.tolerance), claim.obtained_with
    intervals = [one.row.metrics[claim.measure] for one in tested if claim.measure in one.row.metrics]
    return Counts(
        tested=len(tested),
        reached=len(reached),
        by_tolerance=sum(not claim.is_reached_by(one.value) for one in reached),
        worse_answers=sum(one.quality == LESS for one in reached),
        unclear=sum(one.low < bar < one.high for one in intervals),
        as_obtained=sum(one.meets(wanted, wanted) for one in tested),
        as_obtained_reached=sum(one.meets(wanted, wanted) for one in reached),
    )


def _extreme(one: ValuedRow) -> Extreme:
    return Extreme(value=one.value, run_id=one.row.run_id, run=one.run_name, cell=one.row.cell)


def _subjects(tested: Sequence[ValuedRow]) -> tuple[Subject, ...]:
    counts = Counter((one.row.run_id, one.run_name, one.row.cell.model) for one in tested)
    runs = {one.row.run_id: one.run for one in tested}
    return tuple(
        Subject(
            run_id=run_id,
            run=name,
            device=runs[run_id].device_name,
            model=model,
            num_rows=count,
            is_released_shape=_is_released(runs[run_id]),
            is_trained=runs[run_id].is_trained,
        )
        for (run_id, name, model), count in counts.items()
    )


def _lacking(claim: Claim, row: CellRow, run: Run) -> list[str]:
    """What the row would have to be of to test the claim and is not."""
    device = devices()[claim.device].display_name if claim.device in devices() else claim.device
    wanted = (
        (row.cell.backend != "fake", "a backend that computes something"),
        (claim.device in ("", row.cell.device), f"a run on {device}"),
        (not claim.is_released_shape or _is_released(run), "a model of the released shape"),
        (claim.decoding in ("", row.cell.decoding), f"{claim.decoding.replace('_', ' ')} cells"),
        (claim.batch_size in (None, row.cell.batch_size), f"batch {claim.batch_size}"),
    )
    return [what for is_there, what in wanted if not is_there]


def _why_untested(claim: Claim, rows: Sequence[CellRow], in_scope: Sequence[CellRow], runs: Mapping[str, Run]) -> str:
    """What the nearest rows lack."""
    if in_scope:
        reasons = Counter(why_not_measured(claim.measure, row) for row in in_scope)
        return f"no row that could test it has its measure: {reasons.most_common(1)[0][0]}"
    if not rows:
        return "no cell is planned"
    lacking = min((_lacking(claim, row, runs[row.run_id]) for row in rows), key=len)
    unknown = [dtype for dtype in claim.obtained_with.get("weight_dtype", ()) if dtype not in DTYPE_BYTES]
    beyond = f", and no backend here computes in {' or '.join(map(str, unknown))} yet" if unknown else ""
    return f"it needs {' and '.join(lacking)}{beyond}"


def _is_released(run: Run) -> bool:
    return run.shape == formats.released_shape()
