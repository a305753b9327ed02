"""From samples of two sides to one verdict: which cells may be compared, each rule on them, and the exit code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import harness.analysis.gate.comparable as comparable
import harness.analysis.gate.counters as counters
import harness.analysis.gate.timed as timed
from harness.analysis.acceptance import share_worse, words_of
from harness.analysis.gate.counters import Asked, Drawn
from harness.analysis.gate.headline import headline_of
from harness.analysis.gate.presence import bare, cells_of, incomparable, presence
from harness.analysis.gate.readings import mean_over_rounds
from harness.analysis.gate.samples import Samples
from harness.analysis.gate.timed import Row
from harness.analysis.gate.times import Screened
from harness.analysis.metrics import METRICS, check_metrics
from harness.analysis.verdict import (
    JOB,
    MEASURED_SD,
    VERDICT_SCHEMA,
    WORST_FIRST,
    CellVerdict,
    GroupVerdict,
    RuleVerdict,
    State,
    Verdict,
    counts_of,
    exit_code_of,
    worst_first,
    worst_of,
)
from harness.records import strict
from harness.records.types import Cell
from harness.spec.config import ConfigError
from harness.spec.gate_rules import GateConfig, GateRule, of_plan

_ROUNDING = 1e-9  # of means and ratios

Rules = dict[str, list[RuleVerdict]]  # cell_id -> its rules' verdicts


@dataclass(frozen=True, kw_only=True, slots=True)
class Acceptance:
    """A regression that somebody approved."""

    up_to: float  # the worsening, as a share
    reason: str
    until: str  # ISO date, or an issue's address
    value: float | None = None  # that was approved, in the rule's unit; None: not known, so up_to alone counts


Accepted = Mapping[tuple[str, str], Acceptance]  # (cell_id, rule) -> what is approved and has not expired


@dataclass(kw_only=True, slots=True)
class _Found:
    """What the rules found of the cells that may be compared."""

    rules: Rules = field(default_factory=dict)
    timed: list[Row] = field(default_factory=list)  # gated here
    shown: list[tuple[Row, str]] = field(default_factory=list)  # not gated, and why
    drawn: list[Drawn] = field(default_factory=list)


def settings_of(samples: Samples) -> GateConfig:
    """The `gate:` of head's suite; defaults where an older version planned it.

    Raises:
        ConfigError: it cannot be read, or a rule names no metric.
    """
    given = samples.of_side(1)[0].run.plan.get("gate")
    try:
        gate = of_plan(given)
    except ValueError as error:
        raise ConfigError(f"plan.json of head: {error}") from None
    check_metrics(gate)
    return gate


def judge(
    samples: Samples,
    *,
    inconclusive: str | None = None,
    declared: Iterable[str] = (),
    accepted: Accepted | None = None,
) -> Verdict:
    """The verdict of a job or of two stored runs.

    Raises:
        ConfigError: no cell is on both sides, or the suite's rules cannot be applied.
    """
    gate = settings_of(samples)
    cells = cells_of(samples)
    differences = comparable.differences(samples, [*gate.declared, *declared])
    refused = [one for one in differences if one.effect == comparable.REFUSED]
    groups: list[GroupVerdict] = []
    pair_sds: dict[str, float] = {}
    if refused:
        verdicts = [incomparable(cell_id, cell, refused) for cell_id, cell in cells.items()]
    else:
        settled = {cell_id: bare for cell_id in cells if (bare := presence(samples, cell_id, cells[cell_id]))}
        compared = {cell_id: cell for cell_id, cell in cells.items() if cell_id not in settled}
        found = _apply(samples, gate, compared)
        pair_sds = _judge_times(found, gate)
        groups = timed.groups(found.timed or [row for row, _ in found.shown], gate, samples.whole)
        verdicts = [
            settled[cell_id]
            if cell_id in settled
            else cell_verdict(cell_id, cell, found.rules[cell_id], accepted or {}, samples, gate)
            for cell_id, cell in cells.items()
        ]
    verdicts.sort(key=worst_first)
    states = [cell.state for cell in verdicts]
    policy = inconclusive or gate.inconclusive
    exit_code = exit_code_of(states, policy, gate.broken_both_budget)
    return Verdict(
        verdict_schema=VERDICT_SCHEMA,
        suite=samples.suite,
        mode=samples.mode,
        inconclusive=policy,
        base=samples.sides[0],
        head=samples.sides[1],
        headline=headline_of(verdicts, exit_code, gate.effect, differences, samples.mode),
        exit_code=exit_code,
        counts=counts_of(states),
        pairs_per_cell=_pairs_per_cell(samples, cells) if samples.mode == JOB else None,
        cells=tuple(verdicts),
        groups=tuple(groups),
        differences=tuple(differences),
        warnings=samples.warnings,
        settings={**strict.plain(gate), MEASURED_SD: pair_sds},
    )


def kept(samples: Samples, gate: GateConfig) -> tuple[list[str], dict[str, tuple[Screened, float]]]:
    """Cells that the screen keeps for confirmation, in plan order; and each family's screen and its lowest floor."""
    cells = cells_of(samples)
    compared = {cell_id: cell for cell_id, cell in cells.items() if presence(samples, cell_id, cell) is None}
    found = _apply(samples, gate, compared)
    keep: set[str] = set()
    screens: dict[str, tuple[Screened, float]] = {}
    for family, rows in _families(found.timed):
        screen = timed.screened(rows, gate)
        screens[family] = (screen, min(row.asked.rule.floor for row in rows))
        keep |= {row.asked.cell_id for row, is_kept in zip(rows, screen.kept, strict=True) if is_kept}
    return [cell_id for cell_id in cells if cell_id in keep], screens


def _apply(samples: Samples, gate: GateConfig, cells: Mapping[str, Cell]) -> _Found:
    """Every rule on every cell; times are read and not yet judged."""
    found = _Found()
    rules = gate.rules
    order = sorted(rules, key=lambda name: rules[name].test != "output")  # tokens first: they decide about times
    seed = int(samples.of_side(1)[0].run.plan.get("seed") or 0)
    for cell_id, cell in cells.items():
        own = found.rules.setdefault(cell_id, [])
        for name in order:
            if rules[name].applies_to(cell):
                _apply_one(Asked(name, rules[name], cell, cell_id, samples), found, own, gate, seed)
    for _, drawn in _by_family((one.asked, one) for one in found.drawn):
        for one, verdict in zip(drawn, counters.adjusted(drawn, gate), strict=True):
            found.rules[one.asked.cell_id].append(verdict)
    return found


def _apply_one(asked: Asked, found: _Found, own: list[RuleVerdict], gate: GateConfig, seed: int) -> None:
    rule = asked.rule
    verdict: RuleVerdict | Drawn | None
    if rule.test == "output":
        verdict = counters.outputs(asked)
    elif rule.test == "exact":
        verdict = counters.exact(asked, METRICS[rule.metric])
    elif rule.test == "random":
        verdict = counters.random(asked, METRICS[rule.metric], gate, seed)
    else:
        _read_times(asked, found, own)
        return
    if isinstance(verdict, Drawn):
        found.drawn.append(verdict)
    elif verdict is not None:
        own.append(verdict)


def _read_times(asked: Asked, found: _Found, own: list[RuleVerdict]) -> None:
    if any(one.state is State.OUTPUT_CHANGED for one in own):
        return  # faster and different is no improvement
    row = timed.row_of(asked, METRICS[asked.rule.metric])
    kind, devices = asked.samples.device_kind, asked.rule.devices
    if not any(pair for pairs in row.stages.values() for pair in pairs):
        verdict = timed.unpaired(row, is_judged=asked.samples.mode == JOB and kind in (devices or [kind]))
        own += [verdict] if verdict is not None else []
    elif asked.samples.mode != JOB:
        found.shown.append((row, "times of two stored runs are shown and not judged: the machine's state lies between"))
    elif devices and kind not in devices:
        found.shown.append((row, f"shown, and not judged on a device of kind {kind}"))
    else:
        found.timed.append(row)


def _judge_times(found: _Found, gate: GateConfig) -> dict[str, float]:
    """Adds the verdicts of times; family -> the standard deviation of one pair."""
    pair_sds = {}
    for family, rows in _families(found.timed):
        for row, verdict in zip(rows, timed.judged(rows, gate), strict=True):
            found.rules[row.asked.cell_id].append(verdict)
        sd = timed.screened(rows, gate).pair_sd
        if sd == sd:  # not NaN, which one pair alone gives
            pair_sds[family] = sd
    for row, why in found.shown:
        found.rules[row.asked.cell_id].append(timed.reported(row, why))
    return pair_sds


def _families(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    return _by_family((row.asked, row) for row in rows)


def _by_family(members: Iterable[tuple[Asked, Any]]) -> Iterator[tuple[str, list[Any]]]:
    families: dict[str, list[Any]] = {}
    for asked, member in members:
        families.setdefault(_family(asked.rule), []).append(member)
    yield from families.items()


def _family(rule: GateRule) -> str:
    return rule.family or rule.test


def cell_verdict(
    cell_id: str,
    cell: Cell,
    rules: Sequence[RuleVerdict],
    accepted: Accepted,
    samples: Samples | None = None,
    gate: GateConfig | None = None,
) -> CellVerdict:
    """The worst of its rules, with what is approved. samples: None: its rules have the values that are approved."""
    own: list[RuleVerdict] = []
    for one in rules:
        acceptance = accepted.get((cell_id, one.rule)) if one.state is State.REGRESSED else None
        values: tuple[float | None, ...] = (one.base, one.head)
        if samples is not None and acceptance is not None and one.test != "time":
            values = tuple(mean_over_rounds(METRICS[one.metric], cell_id, samples.of_counts(side)) for side in (0, 1))
        margin = gate.rules[one.rule].margin if gate is not None and one.rule in gate.rules else 0.0
        own.append(_with_acceptance(one, acceptance, values, margin))
    own.sort(key=lambda one: WORST_FIRST.index(one.state))
    if not own:
        return bare(cell_id, cell, State.INCONCLUSIVE, "no rule of the suite has a value here")
    state = worst_of(one.state for one in own)
    reasons = [f"{one.rule}: {one.reason}" for one in own if one.state is state]
    reason = "" if state in (State.OK, State.REPORTED) else "; ".join(reasons)
    return bare(cell_id, cell, state, reason, own)


def _with_acceptance(
    verdict: RuleVerdict, acceptance: Acceptance | None, values: tuple[float | None, ...], margin: float
) -> RuleVerdict:
    """values: of base and of head, as they are approved."""
    worsening = verdict.worsening
    if verdict.state is not State.REGRESSED or acceptance is None or worsening is None:
        return verdict
    if why := _beyond(acceptance, worsening, values, verdict, margin):
        return replace(verdict, reason=f"{verdict.reason}; {why}")
    why = f"approved up to {words_of(acceptance.up_to)} until {acceptance.until}: {acceptance.reason}"
    return replace(verdict, state=State.ACCEPTED, reason=f"{verdict.reason}; {why}")


def _beyond(
    acceptance: Acceptance, worsening: float, values: tuple[float | None, ...], verdict: RuleVerdict, margin: float
) -> str | None:
    """Why the worsening is not what was approved; None: it is. What is approved is a step and no slope: it holds for a
    base from before the step, and what no clock decides has to stay at the value that was approved.

    Times of another job say little, so a base counts as one from after the step if it lies nearer to the approved value
    than to the one that this was approved against.
    """
    base, head = values
    if worsening > acceptance.up_to + margin + _ROUNDING:
        return f"only {words_of(acceptance.up_to)} is approved"
    if acceptance.value is None or base is None or head is None:
        return None
    half_way = (1 + acceptance.up_to) ** 0.5 - 1
    if share_worse(base, acceptance.value, verdict.better) < half_way:
        return f"base has the approved {words_of(acceptance.up_to)} already"
    if verdict.test != "time" and share_worse(acceptance.value, head, verdict.better) > margin + _ROUNDING:
        return f"only {acceptance.value:.6g} {verdict.unit} is approved"
    return None


def _pairs_per_cell(samples: Samples, cells: Mapping[str, Cell]) -> float:
    """Pairs of launches that each cell was measured in, on average."""
    both = [pair for pairs in samples.stages.values() for pair in pairs if pair[0] is not None and pair[1] is not None]
    return sum(all(one and one.record(cell_id) for one in pair) for pair in both for cell_id in cells) / len(cells)
