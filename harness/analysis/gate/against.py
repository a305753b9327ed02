"""A stored run against approved values: counters are judged, everything else is shown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Any

import harness.analysis.gate.comparable as comparable
import harness.analysis.gate.counters as counters
from harness.analysis.baseline import Approved, Baseline
from harness.analysis.candidate import Value, candidate_of
from harness.analysis.gate.headline import headline_of
from harness.analysis.gate.judge import Accepted, cell_verdict, settings_of
from harness.analysis.gate.presence import bare
from harness.analysis.gate.samples import ABSENT, OK, Samples
from harness.analysis.summary import ENOUGH_LAUNCHES
from harness.analysis.verdict import (
    BASELINE,
    VERDICT_SCHEMA,
    CellVerdict,
    Difference,
    RuleVerdict,
    Side,
    State,
    Verdict,
    counts_of,
    exit_code_of,
    worst_first,
)
from harness.records import strict
from harness.records.types import FAILED_STATUSES, Cell
from harness.spec.config import ConfigError
from harness.spec.gate_rules import GateConfig

_NO_OUTPUTS = "a baseline has no tokens, so outputs are not compared: only a run as --base, or a revision, shows those"


def judge(
    samples: Samples,
    baseline: Baseline | None,
    *,
    today: date,
    inconclusive: str | None = None,
    declared: Iterable[str] = (),
) -> Verdict:
    """baseline: None: there is none for this machine and suite, which no cell survives.

    Raises:
        ConfigError: head has no cell of the baseline.
    """
    gate = settings_of(samples)
    _check_common(samples, baseline)
    differences = _differences(samples, baseline, [*gate.declared, *declared])
    of = _Judged(
        gate=gate,
        baseline=baseline,
        found={(one.cell_id, one.rule): one for one in candidate_of(samples, "").values},
        refused={number: _words(refused) for number, one in differences.items() if (refused := _refused(one))},
        accepted=baseline.accepted(today) if baseline is not None else {},
    )
    verdicts = [_cell(samples, cell_id, planned.cell, of) for cell_id, planned in samples.planned(1).items()]
    verdicts += _missing(samples, baseline)
    verdicts.sort(key=worst_first)
    states = [cell.state for cell in verdicts]
    policy = inconclusive or gate.inconclusive
    exit_code = exit_code_of(states, policy, gate.broken_both_budget)
    all_differences = dict.fromkeys(one for each in differences.values() for one in each)
    shown = sorted(all_differences, key=lambda one: one.effect != comparable.REFUSED)
    return Verdict(
        verdict_schema=VERDICT_SCHEMA,
        suite=samples.suite,
        mode=BASELINE,
        inconclusive=policy,
        base=Side(revision="baseline", commit=None, dirty=None, environment_ids=()),
        head=samples.sides[1],
        headline=headline_of(verdicts, exit_code, gate.effect, shown, BASELINE),
        exit_code=exit_code,
        counts=counts_of(states),
        pairs_per_cell=None,
        cells=tuple(verdicts),
        groups=(),
        differences=tuple(shown),
        warnings=(*samples.warnings, *([_NO_OUTPUTS] if baseline is not None else []), *_too_few(baseline)),
        settings=strict.plain(gate),
    )


def _check_common(samples: Samples, baseline: Baseline | None) -> None:
    if baseline is not None and not any(one.value.cell_id in samples.planned(1) for one in baseline.values):
        raise ConfigError(
            f"the baseline and head have no cell in common ({baseline.num_cells} and {len(samples.planned(1))} cells), "
            "so nothing can be compared\na suite's model, options and axes are part of its cells; approve a run of the "
            "suite as it is now"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Judged:
    """What every cell is judged with."""

    gate: GateConfig
    baseline: Baseline | None
    found: dict[tuple[str, str], Value]  # head's, by cell and rule
    refused: dict[int, str]  # an approval's number -> why its values are not compared
    accepted: Accepted


def _differences(samples: Samples, baseline: Baseline | None, declared: list[str]) -> dict[int, list[Difference]]:
    """Approval -> in what its stack and question are not head's; the machine's identity decides which file is read."""
    head = samples.of_side(1)[0].run
    return {
        one.number: comparable.of_approval(dict(comparable.flat(one.stack)), one.question, head, declared)
        for one in (baseline.approvals if baseline is not None else ())
    }


def _refused(differences: list[Difference]) -> list[Difference]:
    return [one for one in differences if one.effect == comparable.REFUSED]


def _words(refused: list[Difference]) -> str:
    """Why the values of an approval are not compared."""
    listed = ", ".join(f"{one.key} ({one.base}, {one.head} on head)" for one in refused[:3])
    return f"it was approved with another {listed}{' ...' if len(refused) > 3 else ''}"


def _cell(samples: Samples, cell_id: str, cell: Cell, of: _Judged) -> CellVerdict:
    if of.baseline is None:
        return bare(cell_id, cell, State.NO_BASELINE, "there is no approved baseline for this machine and suite")
    status, why = samples.status(1, cell_id)
    own = {name: one for (of_cell, name), one in of.baseline.by_key.items() if of_cell == cell_id}
    if status == ABSENT:
        return bare(cell_id, cell, State.MISSING, "it is in head's plan, and there is no record of it")
    if status in FAILED_STATUSES or (own and status != OK):
        return bare(cell_id, cell, State.BROKEN, f"head {why}{'' if own else '; the baseline does not have it'}")
    if not own:
        return bare(cell_id, cell, State.NEW, "the baseline does not have it: listed, not compared")
    reasons = {reason for one in own.values() if (reason := of.refused.get(one.approval))}
    if all(one.approval in of.refused for one in own.values()):
        return bare(cell_id, cell, State.INCOMPARABLE, "; ".join(sorted(reasons)))
    rules = [
        _rule(name, cell, of.gate, one, of.found.get((cell_id, name)), of.refused.get(one.approval))
        for name, one in own.items()
    ]
    return cell_verdict(cell_id, cell, rules, of.accepted)


def _rule(
    name: str, cell: Cell, gate: GateConfig, approved: Approved, value: Value | None, refused: str | None
) -> RuleVerdict:
    of, rule = approved.value, gate.rules.get(name)
    if rule is not None and not rule.applies_to(cell):
        rule = None
    base, head = of.value, value.value if value is not None else None
    ratio = head / base if of.is_compared and head is not None and base > 0 and head > 0 else None
    state, reason = State.REPORTED, "shown, and not judged against stored values"
    if rule is None:
        reason = "the suite has this rule no longer, or not for this cell"
    elif (rule.metric, rule.test) != (of.metric, of.test):
        state, head, ratio = State.INCOMPARABLE, None, None
        reason = f"approved is {of.metric} by {of.test}, and the rule is one of {rule.metric} by {rule.test} now"
    elif refused is not None:
        state, reason, ratio = State.INCOMPARABLE, refused, None
    elif head is None:
        state, reason = State.MISSING, f"approved is {base:.15g} {of.unit}, and head has no value"
    elif not of.is_compared:
        reason = f"not compared: approved from {of.num_launches} of the {ENOUGH_LAUNCHES} launches that a time needs"
    elif rule.test == "exact":
        worse = (head - base) * (1 if of.better == "lower" else -1)
        beyond = abs(head - base) > rule.margin * abs(base)
        state = State.OK if not beyond else State.REGRESSED if worse > 0 else State.IMPROVED
        reason = f"{base:.15g} {of.unit} approved, {head:.15g} on head"
        if beyond and counters.depends_on_tokens(cell):
            reason += "; tokens that rounding changed may do that: only a run or a revision as --base tells"
    numbers: dict[str, Any] = dict.fromkeys(("low", "high", "p", "p_adjusted", "mde"))
    return RuleVerdict(
        rule=name,
        metric=of.metric,
        unit=of.unit,
        better=of.better,
        test=of.test,
        state=state,
        reason=reason,
        stages=(),
        base=base,
        head=head,
        ratio=ratio,
        **numbers,
    )


def _too_few(baseline: Baseline | None) -> list[str]:
    few = baseline.too_few_launches if baseline is not None else []
    if not few:
        return []
    cells = len({one.cell_id for one in few})
    return [
        f"times of {cells} of the baseline's cells are not compared: they were approved from fewer than "
        f"{ENOUGH_LAUNCHES} launches; approve a run of protocol.launches={ENOUGH_LAUNCHES}"
    ]


def _missing(samples: Samples, baseline: Baseline | None) -> list[CellVerdict]:
    planned = samples.planned(1)
    absent = {one.value.cell_id: one.value for one in (baseline.values if baseline else ())}
    return [
        CellVerdict(
            cell_id=cell_id,
            label=of.label,
            axes={},
            state=State.MISSING,
            reason="the baseline has it, head does not",
            rules=(),
        )
        for cell_id, of in absent.items()
        if cell_id not in planned
    ]
