"""From launches on disk to the arrays that times.py judges, and back to one verdict a rule and cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import expm1
from statistics import median
from typing import Any

import numpy as np

import harness.analysis.gate.times as times
from harness.analysis import stats
from harness.analysis.gate.counters import OTHER_WORK, Asked, other_work, ratio_of, worse_log
from harness.analysis.gate.readings import Paired, by_round, paired
from harness.analysis.gate.samples import DROPPED
from harness.analysis.gate.times import Screened, TimeResult
from harness.analysis.metrics import Metric
from harness.analysis.stats import Floats
from harness.analysis.verdict import GroupVerdict, RuleVerdict, Stage, State
from harness.records.job import CONFIRM, SCREEN
from harness.spec.gate_rules import GateConfig


@dataclass(frozen=True, slots=True)
class Row:
    """A time rule on a cell, with each stage's pairs of launches; None: not measured."""

    asked: Asked
    metric: Metric
    stages: dict[str, list[Paired | None]]

    def logs(self, stage: str) -> list[float]:
        """Of each pair, above 0 where head is worse; NaN where it was not measured."""
        pairs = self.stages.get(stage, [])
        return [float("nan") if pair is None else worse_log(pair.ratio, self.metric.better) for pair in pairs]

    def stage_values(self) -> tuple[Stage, ...]:
        return tuple(
            Stage(
                name=name,
                base=tuple(pair.base for pair in there),
                head=tuple(pair.head for pair in there),
                ratio=tuple(pair.ratio for pair in there) if all(pair.ratio > 0 for pair in there) else (),
            )
            for name, pairs in self.stages.items()
            if (there := [pair for pair in pairs if pair is not None])
        )

    def medians(self, stage: str) -> dict[str, float]:
        there = [pair for pair in self.stages.get(stage, []) if pair is not None]
        if not there:
            return {}
        return {"base": median(pair.base for pair in there), "head": median(pair.head for pair in there)}


def row_of(asked: Asked, metric: Metric) -> Row:
    left_out = other_work(asked)
    stages = {
        name: [paired(metric, asked.cell_id, pair, left_out) for pair in pairs]
        for name, pairs in asked.samples.stages.items()
    }
    return Row(asked, metric, stages)


def screened(rows: Sequence[Row], gate: GateConfig) -> Screened:
    return times.screened(_array(rows, SCREEN), gate)


def judged(rows: Sequence[Row], gate: GateConfig) -> list[RuleVerdict]:
    """The rows of one family, of one job."""
    if not rows:
        return []
    screen = screened(rows, gate)
    confirm = _array(rows, CONFIRM)
    confirm[~screen.kept] = np.nan  # measured for another row's sake
    floors = np.array([row.asked.rule.floor for row in rows])
    results = times.judged(screen, confirm, floors, gate)
    return [_verdict(row, result, gate) for row, result in zip(rows, results, strict=True)]


def unpaired(row: Row, is_judged: bool) -> RuleVerdict | None:
    """What to say where no pair of launches has the metric on both sides; None where nothing is to be said."""
    asked = row.asked
    base, head = (
        {key for one in asked.samples.of_counts(side) for key in by_round(row.metric, asked.cell_id, one)}
        for side in (0, 1)
    )
    if not base or not head:
        is_missing = base and is_judged
        return asked.of_metric(row.metric, State.MISSING, "base has a value, head has none") if is_missing else None
    whys = [why for side in (0, 1) for status, why in [asked.samples.status(side, asked.cell_id)] if status == DROPPED]
    why = "no pair of launches counts on both sides"
    if not base & head - other_work(asked):
        why = OTHER_WORK
    elif whys:
        why = f"disturbed in every launch: {whys[0]}"
    if not is_judged:
        return asked.of_metric(row.metric, State.REPORTED, why)
    return asked.of_metric(row.metric, State.INCONCLUSIVE, f"{why}; so no slowdown could be shown")


def reported(row: Row, why: str) -> RuleVerdict:
    """What is shown and not judged: median against median, with Welch's interval over the launches."""
    there = [pair for pairs in row.stages.values() for pair in pairs if pair is not None]
    base, head = [pair.base for pair in there], [pair.head for pair in there]
    values: dict[str, Any] = {}
    if min([*base, *head], default=0) > 0:
        low, high = stats.ratio_interval(base, head)
        values = {"base": median(base), "head": median(head), "ratio": median(head) / median(base)}
        values |= {"low": low, "high": high} if low is not None else {}
    return row.asked.of_metric(row.metric, State.REPORTED, why, stages=row.stage_values(), **values)


def _array(rows: Sequence[Row], stage: str) -> Floats:
    logs = [row.logs(stage) for row in rows]
    width = max(map(len, logs), default=0)
    return np.array([one + [np.nan] * (width - len(one)) for one in logs], dtype=float).reshape(len(rows), width)


def _verdict(row: Row, result: TimeResult, gate: GateConfig) -> RuleVerdict:
    better = row.metric.better
    ends = sorted(one for one in (ratio_of(result.low, better), ratio_of(result.high, better)) if one is not None)
    return row.asked.of_metric(
        row.metric,
        result.state,
        _reason(row, result, gate),
        stages=row.stage_values(),
        ratio=ratio_of(result.mean, better),
        low=ends[0] if ends else None,
        high=ends[1] if ends else None,
        p=result.p,
        p_adjusted=result.p_adjusted,
        mde=result.mde,
        **row.medians(result.stage),
    )


def _reason(row: Row, result: TimeResult, gate: GateConfig) -> str:
    if result.mean is None or result.low is None or result.high is None:
        return f"too few pairs of launches count in the {result.stage}, so no slowdown could be shown"
    pairs = sum(pair is not None for pair in row.stages.get(result.stage, []))
    mean, low, high = (expm1(one) for one in (result.mean, result.low, result.high))
    verb = "slower" if mean > 0 else "faster"
    words = f"{abs(mean):.1%} {verb} (95 % interval of the slowdown {low:+.1%} to {high:+.1%}, {pairs} pairs)"
    if result.state in (State.REGRESSED, State.IMPROVED):
        return f"{words}, Holm-adjusted p {result.p_adjusted:.2g}"
    if result.state is State.OK:
        return f"{words}; a slowdown of {gate.effect:.0%} is ruled out"
    shown = "so few pairs can show none" if result.mde is None else f"these pairs show {result.mde:.1%}"
    return f"{words}; a slowdown of {gate.effect:.0%} is neither shown nor ruled out: {shown}"


def groups(rows: Sequence[Row], gate: GateConfig, stage: str) -> list[GroupVerdict]:
    """Geometric means over the cells that agree in some axes, pair by pair; groups of one cell are left out."""
    found = []
    for metric, rule in dict.fromkeys((row.metric.name, row.asked.name) for row in rows):
        own = [row for row in rows if row.asked.name == rule]
        seen: set[tuple[str, ...]] = set()
        for axes in gate.groups:
            for values in dict.fromkeys(tuple(str(getattr(row.asked.cell, axis)) for axis in axes) for row in own):
                members = [row for row in own if tuple(str(getattr(row.asked.cell, axis)) for axis in axes) == values]
                key = tuple(row.asked.cell_id for row in members)
                if len(members) < 2 or key in seen:
                    continue
                seen.add(key)
                labels = {axis: getattr(members[0].asked.cell, axis) for axis in axes}
                found += _group(members, labels, rule, metric, stage)
    return found


def _group(members: Sequence[Row], axes: dict[str, Any], rule: str, metric: str, stage: str) -> list[GroupVerdict]:
    logs = _array(members, stage)
    logs = logs[:, ~np.isnan(logs).all(axis=0)]
    whole = logs[~np.isnan(logs).any(axis=1)]  # a cell that lost a pair would move the pair's mean by its absence
    if len(whole) < 2 or whole.shape[1] < 2:
        return []
    of = stats.paired(whole.mean(axis=0)[None, :])
    mean, low, high = float(of.mean[0]), float(of.low[0]), float(of.high[0])
    better = members[0].metric.better
    ends = sorted((ratio_of(low, better) or 0.0, ratio_of(high, better) or 0.0))
    return [
        GroupVerdict(
            axes=axes,
            rule=rule,
            metric=metric,
            num_cells=len(whole),
            num_pairs=whole.shape[1],
            ratio=ratio_of(mean, better) or 0.0,
            low=ends[0],
            high=ends[1],
            shift="slower" if low > 0 else "faster" if high < 0 else "none",
        )
    ]
