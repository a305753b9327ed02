"""What a gate says, as data: everything that terminal, JUnit, Markdown and HTML show is rendered from this.

A verdict holds no time of day, no path and no host name, so that the same files give the same bytes anywhere.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from harness.analysis.acceptance import share_worse
from harness.analysis.metrics import METRICS
from harness.records import strict
from harness.spec.gate_rules import GateConfig, of_plan

VERDICT_SCHEMA = 2  # 2 has each pair's ratio
MEASURED_SD = "measured_pair_sd"  # of the settings: what was found in place of the gate's pair_sd
WARN, FAIL = "warn", "fail"  # what inconclusive cells do to the exit code
JOB, STORED, BASELINE = "job", "stored", "baseline"  # both sides of one job; two runs; a run against approved values


class State(StrEnum):
    """Of a rule on a cell, and of a cell: that of its worst rule. docs/gate.md says when each is given."""

    OUTPUT_CHANGED = "OUTPUT-CHANGED"  # head's tokens differ by more than rounding; its times are not compared
    BROKEN = "BROKEN"  # failed on head, fine on base
    MISSING = "MISSING"  # in base, absent from head
    REGRESSED = "REGRESSED"
    BROKEN_BOTH = "BROKEN-BOTH"
    INCOMPARABLE = "INCOMPARABLE"  # another machine or stack
    NO_BASELINE = "NO-BASELINE"
    INCONCLUSIVE = "INCONCLUSIVE"
    ACCEPTED = "ACCEPTED"  # regressed, and an approval that has not expired allows it
    FIXED = "FIXED"  # failed on base, fine on head
    NEW = "NEW"  # only in head
    IMPROVED = "IMPROVED"
    OK = "OK"
    REPORTED = "REPORTED"  # shown and not gated: times of stored runs, or of the clock that this device does not gate


WORST_FIRST = tuple(State)
# State -> exit code; the rest are 0. BROKEN_BOTH counts only beyond its budget, INCONCLUSIVE only with FAIL.
_CODES = {
    State.OUTPUT_CHANGED: 3,
    State.BROKEN: 3,
    State.MISSING: 3,
    State.REGRESSED: 1,
    State.INCOMPARABLE: 4,
    State.NO_BASELINE: 4,
}
_PRECEDENCE = (3, 1, 4, 5, 0)  # 2, a usage error, is raised and gives no verdict
# First words of a headline, up to its colon -> the exit codes that they may stand for.
_SAYS = {"GREEN": (0,), "NOTHING JUDGED": (0,), "RED": (1, 3), "NOT COMPARABLE": (4,), "INCONCLUSIVE": (0, 5)}


Share = Annotated[float, strict.within(0, 1)]
Above0 = Annotated[float, strict.ABOVE_0]
AtLeast0 = Annotated[float, strict.AT_LEAST_0]
Count = Annotated[int, strict.AT_LEAST_0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """What was measured on one side."""

    revision: str  # as it was asked for: a git revision, a run's name, or "baseline"
    commit: str | None
    dirty: bool | None
    environment_ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """The paired values of one stage: each side's value of a launch, pair by pair; of random metrics, by prompt.

    ratio: of times, head / base of each pair: the median over rounds, which is not head's median / base's.
    """

    name: Annotated[str, strict.one_of("screen", "confirm", "stored", "prompts")]
    base: tuple[float, ...]
    head: tuple[float, ...]
    ratio: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleVerdict:
    """One rule on one cell.

    base, head: median over the launches of the stage that decided, in `unit`. ratio: head / base, the geometric mean
    over the pairs; low, high: its 95 % interval. p: of the one-sided test in the direction found; p_adjusted: Holm's,
    over the cells that were confirmed. mde: the least slowdown, as a share, that these pairs show in 95 of 100 cases.
    What a test does not have is None.
    """

    rule: str
    metric: str
    unit: str
    better: Annotated[str, strict.one_of("higher", "lower")]
    test: Annotated[str, strict.one_of("exact", "random", "time", "output")]
    state: State
    reason: str  # one sentence: why this state
    stages: tuple[Stage, ...]
    base: float | None
    head: float | None
    ratio: Above0 | None
    low: float | None
    high: float | None
    p: Share | None
    p_adjusted: Share | None
    mde: AtLeast0 | None

    def __post_init__(self) -> None:
        """Raises ValueError where it contradicts itself or the registry of metrics."""
        if (known := METRICS.get(self.metric)) and (self.unit, self.better) != (known.unit, known.better):
            raise ValueError(f"{self.metric} is in {known.unit}, and {known.better} is better")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}")
        sign = {State.REGRESSED: 1, State.ACCEPTED: 1, State.IMPROVED: -1}.get(self.state, 0)
        if sign * (self.worsening or 0.0) < 0:
            raise ValueError(f"state is {self.state}, and head is worse by {self.worsening:+.1%}")

    @property
    def worsening(self) -> float | None:
        """By what share head is worse: 0.05 is 5 % slower, or 5 % less of what should be more. Below 0: better. From or
        to nothing, where there is no ratio, it is acceptance.MOST_WORSENING.
        """
        if self.ratio is not None and self.ratio > 0:
            return (1 / self.ratio if self.better == "higher" else self.ratio) - 1
        if self.base is None or self.head is None:
            return None
        return share_worse(self.base, self.head, self.better) or None


@dataclass(frozen=True, kw_only=True, slots=True)
class CellVerdict:
    cell_id: str
    label: str
    axes: dict[str, Any]  # the cell's fields
    state: State
    reason: str
    rules: tuple[RuleVerdict, ...]

    def __post_init__(self) -> None:
        """Raises ValueError where its rules give another state."""
        if self.rules and self.state is not (worst := worst_of(rule.state for rule in self.rules)):
            raise ValueError(f"state is {self.state}, and its rules give {worst}")


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupVerdict:
    """One rule over the cells that agree in `axes`: a shift of all cells together, which no cell alone shows.

    ratio: geometric mean over cells of head / base, with a 95 % interval over the pairs of the screen.
    shift: "slower" or "faster" where the interval leaves 1 out, else "none"; it is reported and never red.
    """

    axes: dict[str, Any]  # {}: all cells
    rule: str
    metric: str
    num_cells: Count
    num_pairs: Count
    ratio: Above0
    low: Above0
    high: Above0
    shift: Annotated[str, strict.one_of("slower", "faster", "none")]


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """In what the environments of the two sides differ, and what follows."""

    layer: Annotated[str, strict.one_of("identity", "stack", "circumstance")]
    key: str
    base: str
    head: str
    effect: Annotated[str, strict.one_of("refused", "declared", "noted")]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    verdict_schema: int
    suite: str
    mode: Annotated[str, strict.one_of("job", "stored", "baseline")]
    inconclusive: Annotated[str, strict.one_of("warn", "fail")]
    base: Side
    head: Side
    headline: str  # the first words: the verdict, and what to do
    exit_code: int
    counts: dict[str, Count]  # state -> cells; states that no cell has are left out
    pairs_per_cell: AtLeast0 | None  # on average, both stages; None: not one job
    cells: tuple[CellVerdict, ...]  # the worst first
    groups: tuple[GroupVerdict, ...]
    differences: tuple[Difference, ...]
    warnings: tuple[str, ...]
    settings: dict[str, Any]  # the suite's `gate:`, as it was applied

    def __post_init__(self) -> None:
        """Raises ValueError where it contradicts itself, as an edited file does."""
        states = [cell.state for cell in self.cells]
        if not states:
            raise ValueError("it judges no cell, so it says nothing")
        if self.counts != counts_of(states):
            raise ValueError(f"counts do not count its {len(states)} cells")
        if len({cell.cell_id for cell in self.cells}) != len(states):
            raise ValueError("a cell stands in it twice")
        is_refused = self.mode != BASELINE and any(one.effect == "refused" for one in self.differences)
        if is_refused and set(states) != {State.INCOMPARABLE}:
            raise ValueError("a difference is refused, and its cells are compared all the same")
        of_plan({key: value for key, value in self.settings.items() if key != MEASURED_SD})
        expected = exit_code_of(states, self.inconclusive, self.broken_both_budget)
        if self.exit_code != expected:
            raise ValueError(f"exit_code is {self.exit_code}, and its cells' states give {expected}")
        word = self.headline.partition(":")[0]
        if expected not in _SAYS.get(word, ()):
            raise ValueError(f"headline says {strict.quoted(word)}, and exit_code is {expected}")

    @property
    def broken_both_budget(self) -> float:
        """Which share of the cells may fail on both sides."""
        return float(self.settings.get("broken_both_budget", GateConfig.broken_both_budget))


def counts_of(states: Iterable[State]) -> dict[str, int]:
    counted = Counter(states)
    return {str(state): counted[state] for state in WORST_FIRST if counted[state]}


def exit_code_of(states: Iterable[State], inconclusive: str, broken_both_budget: float) -> int:
    """0, 1, 3, 4 or 5, the first of 3, 1, 4, 5 that a cell asks for.

    broken_both_budget: which share of the cells may fail on both sides.
    """
    states = list(states)
    codes = {_CODES.get(state, 0) for state in states}
    if states.count(State.BROKEN_BOTH) > broken_both_budget * len(states):
        codes.add(3)
    if State.INCONCLUSIVE in states and inconclusive == FAIL:
        codes.add(5)
    return next((code for code in _PRECEDENCE if code in codes), 0)


def worst_first(cell: CellVerdict) -> tuple[int, float]:
    """A sort key: by state, then the largest worsening first."""
    worsenings = [one.worsening for one in cell.rules if one.state is cell.state and one.worsening is not None]
    return WORST_FIRST.index(cell.state), -max(worsenings, default=0.0)


def worst_of(states: Iterable[State]) -> State:
    return min(states, key=WORST_FIRST.index)


def to_json(verdict: Verdict) -> str:
    """The file's text: a line for each cell and group, so that a diff shows what changed."""
    document: Mapping[str, Any] = strict.plain(verdict)
    lines = []
    for key, value in document.items():
        if isinstance(value, list) and value:
            inner = ",\n".join(json.dumps(one, allow_nan=False) for one in value)
            lines.append(f"{json.dumps(key)}: [\n{inner}\n]")
        else:
            lines.append(f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read(path: Path) -> Verdict:
    """The verdict of a file.

    Raises:
        StoreError: it is absent, damaged, older or newer than this version, or contradicts itself; one message.
    """
    return strict.read_file(
        path,
        Verdict,
        schema_key="verdict_schema",
        schema=VERDICT_SCHEMA,
        if_older="and lacks what that says of pairs\njudge job or runs again: python -m harness gate --base JOB",
    )


def from_json(document: Any) -> Verdict:
    """Raises strict.Unfit, a ValueError, for whatever is no verdict."""
    return strict.build(Verdict, document)
