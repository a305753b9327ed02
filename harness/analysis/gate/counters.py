"""Rules that need no clock: counters that repeat exactly, tokens, and what prompts decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, isclose, log
from statistics import fmean, median
from typing import Any

import numpy as np

from harness.analysis import stats
from harness.analysis.gate.readings import Key, by_prompt, by_round
from harness.analysis.gate.samples import Samples
from harness.analysis.metrics import Metric
from harness.analysis.verdict import RuleVerdict, Stage, State
from harness.records.types import Cell, Round
from harness.spec.gate_rules import GateConfig, GateRule

OUTPUT_IDS = "output_ids"
OTHER_WORK = "no round did the same work on both sides: tokens differ"
OUTPUT_ALPHA = 0.05  # of the binomial test that says whether rows differ more often than rounding lets them
# Share of tokens that rounding leaves in place, where the rule names none. float32 resolves 2^-24, bfloat16 2^-8: near
# ties are rarer by orders of magnitude, of which one is taken.
FLOAT32_AGREEMENT, AGREEMENT = 0.995, 0.95


@dataclass(frozen=True, slots=True)
class Asked:
    """One rule on one cell."""

    name: str
    rule: GateRule
    cell: Cell
    cell_id: str
    samples: Samples

    def verdict(self, state: State, reason: str, *, unit: str, better: str, **more: Any) -> RuleVerdict:
        nothing: dict[str, Any] = dict.fromkeys(("base", "head", "ratio", "low", "high", "p", "p_adjusted", "mde"))
        return RuleVerdict(
            rule=self.name,
            metric=self.rule.metric,
            unit=unit,
            better=better,
            test=self.rule.test,
            state=state,
            reason=reason,
            **{"stages": (), **nothing, **more},
        )

    def of_metric(self, metric: Metric, state: State, reason: str, **more: Any) -> RuleVerdict:
        return self.verdict(state, reason, unit=metric.unit, better=metric.better, **more)

    def one_sided(self, has_base: bool, has_head: bool, unit: str, better: str) -> RuleVerdict | None:
        """What to say where not both sides have a value; None where neither has, and the rule says nothing."""
        lacking = 1 if has_base else 0
        if has_base != has_head and lacking in self.samples.uncounted:
            reason = f"{('base', 'head')[lacking]} has no value, for its launch that takes exact counts was lost"
            return self.verdict(State.INCONCLUSIVE, reason, unit=unit, better=better)
        if has_base and not has_head:
            return self.verdict(State.MISSING, "base has a value, head has none", unit=unit, better=better)
        if has_head and not has_base:
            return self.verdict(State.REPORTED, "only head has a value", unit=unit, better=better)
        return None


def exact(asked: Asked, metric: Metric) -> RuleVerdict | None:
    """Round by round, in those that did the same work on both sides. Red where every launch of head is worse than every
    launch of base by more than the margin, in any round; so a counter that wavers is red only beyond its wavering.
    """
    base, head = (_values(asked, metric, side) for side in (0, 1))
    if not base or not head:
        return asked.one_sided(bool(base), bool(head), metric.unit, metric.better)
    common = sorted(base.keys() & head.keys() - other_work(asked))
    if not common:
        return asked.of_metric(metric, State.REPORTED, OTHER_WORK)
    worst = max(common, key=lambda key: abs(median(head[key]) - median(base[key])) / (abs(median(base[key])) or 1))
    states = {_state(metric, base[key], head[key], asked.rule.margin) for key in common}
    state = next((one for one in (State.REGRESSED, State.IMPROVED) if one in states), State.OK)
    if state is not State.OK:
        worst = max(
            (key for key in common if _state(metric, base[key], head[key], asked.rule.margin) is state),
            key=lambda key: abs(median(head[key]) - median(base[key])),
        )
    before, after = median(base[worst]), median(head[worst])
    ratio = after / before if before > 0 and after > 0 else None
    return asked.of_metric(
        metric,
        state,
        _exact_reason(before, after, ratio, metric, asked.rule.margin, base[worst] + head[worst]),
        base=before,
        head=after,
        ratio=ratio,
        low=ratio,
        high=ratio,
    )


def _values(asked: Asked, metric: Metric, side: int) -> dict[Key, list[float]]:
    """Round -> its value in each launch."""
    values: dict[Key, list[float]] = {}
    for sample in asked.samples.of_counts(side):
        for key, value in by_round(metric, asked.cell_id, sample).items():
            values.setdefault(key, []).append(value)
    return values


def other_work(asked: Asked) -> set[Key]:
    """Rounds whose answers ended elsewhere, or whose canvases took other steps, on head than on base: within rounding
    tokens may do so, and neither counts nor times of such rounds say anything of the code.
    """
    if not depends_on_tokens(asked.cell):
        return set()
    base, head = (_works(asked, side) for side in (0, 1))
    return {key for key in base.keys() | head.keys() if base.get(key) != head.get(key)}


def depends_on_tokens(cell: Cell) -> bool:
    """Whether which tokens come out decides how much is done."""
    return cell.eos == "respect" or cell.stopping == "adaptive"


def _works(asked: Asked, side: int) -> dict[Key, Any]:
    """Round -> how much its tokens asked for: their number, and with adaptive stopping the steps they took."""
    for sample in asked.samples.of_counts(side):
        record = sample.record(asked.cell_id)
        if record is not None:
            return {(one.index, one.seed): _work(one, asked.cell) for one in record.rounds}
    return {}


def _work(one: Round, cell: Cell) -> Any:
    return (one.useful_tokens, one.steps_per_canvas if cell.stopping == "adaptive" else None)


def _state(metric: Metric, base: Sequence[float], head: Sequence[float], margin: float) -> State:
    sign = 1 if metric.better == "lower" else -1
    before, after = ([sign * value for value in values] for values in (base, head))
    if min(after) > max(before) + margin * abs(max(before)):
        return State.REGRESSED
    if max(after) < min(before) - margin * abs(min(before)):
        return State.IMPROVED
    return State.OK


def _exact_reason(
    before: float, after: float, ratio: float | None, metric: Metric, margin: float, values: Sequence[float]
) -> str:
    if before == after:
        varies = "" if len(set(values)) == 1 else ", although it differs between launches"
        return f"{before:.15g} {metric.unit} on both sides{varies}"
    change = "" if ratio is None else f" ({ratio - 1:+.2%})"
    allowed = f"; {margin:.1%} may differ" if margin else ""
    return f"{before:.15g} {metric.unit} on base, {after:.15g} on head{change}{allowed}"


def outputs(asked: Asked) -> RuleVerdict | None:
    """Tokens of the counting request: how far rows agree until they first differ.

    A kernel that rounds otherwise flips a near tie now and then, and all that follows may differ from there; so not the
    equal places are counted, but the first differences among the tokens compared until then. Up to a share of
    1 - agreement is rounding; beyond it the rows must also be too many for chance. So one row alone tells little: in
    bfloat16 it is red only where its first token differs, in float32 where one of its first ten does.
    """
    base, head = (_counted(asked, side) for side in (0, 1))
    if base is None or head is None:
        return asked.one_sided(base is not None, head is not None, "share", "higher")
    (rows, hashes), (other_rows, other_hashes) = base, head
    if len(rows) != len(other_rows):
        return asked.verdict(State.OUTPUT_CHANGED, "the sides have different rows", unit="share", better="higher")
    ends = [_first_difference(*both) for both in zip(rows, other_rows, strict=True)]
    differing = sum(end is not None for end in ends)
    compared = sum(len(row) if end is None else end + 1 for row, end in zip(rows, ends, strict=True))
    agreement = 1 - differing / compared if compared else 1.0
    same = [a == b for a, b in zip(hashes, other_hashes, strict=False)]
    if not differing:
        others = f", {same.count(False)} of all {len(same)} rows otherwise" if False in same else ""
        reason = f"the same tokens in {len(rows)} rows{others}"
        return asked.verdict(State.OK, reason, unit="share", better="higher", base=1.0, head=1.0)
    asks = asked.rule.agreement or (FLOAT32_AGREEMENT if _is_float32(asked.cell) else AGREEMENT)
    p = stats.first_difference_p(differing, compared, 1 - asks)
    changed = agreement < asks and (p < OUTPUT_ALPHA or isclose(p, OUTPUT_ALPHA))
    verb = "more than rounding does" if changed else "as rounding does"
    reason = (
        f"{differing} of {len(rows)} rows differ, {verb}: agreement {agreement:.3f} over {compared} tokens, "
        f"{asks:g} is asked"
    )
    state = State.OUTPUT_CHANGED if changed else State.OK
    return asked.verdict(state, reason, unit="share", better="higher", base=1.0, head=agreement, p=p)


def _counted(asked: Asked, side: int) -> tuple[list[list[int]], list[str]] | None:
    """Token ids of the first rows and hashes of all rows, of the first launch that counted them."""
    for sample in asked.samples.of_counts(side):
        record = sample.record(asked.cell_id)
        rows = record.counters.get(OUTPUT_IDS) if record is not None else None
        if record is not None and isinstance(rows, list) and rows and all(isinstance(row, list) for row in rows):
            return rows, [str(one) for one in record.counters.get("output_hashes") or ()]
    return None


def _is_float32(cell: Cell) -> bool:
    return {cell.weight_dtype, cell.activation_dtype, cell.kv_dtype, cell.head_dtype} == {"float32"}


def _first_difference(row: Sequence[int], other: Sequence[int]) -> int | None:
    for place, (a, b) in enumerate(zip(row, other, strict=False)):
        if a != b:
            return place
    return None if len(row) == len(other) else min(len(row), len(other))


@dataclass(frozen=True, slots=True)
class Drawn:
    """A random metric before its p-value is adjusted for the number of cells."""

    asked: Asked
    metric: Metric
    verdict: RuleVerdict
    p: float
    is_worse: bool
    change: float  # |head / base - 1|
    num_prompts: int
    sd: float  # of a prompt's change, as a share; NaN: a single prompt


def random(asked: Asked, metric: Metric, gate: GateConfig, seed: int) -> RuleVerdict | Drawn | None:
    """Paired over prompts, by the sign-flip test of the mean difference."""
    base, head = (by_prompt(metric, asked.cell_id, asked.samples.of_counts(side)) for side in (0, 1))
    if not base or not head:
        return asked.one_sided(bool(base), bool(head), metric.unit, metric.better)
    prompts = [prompt for prompt in base if prompt in head]
    if not prompts:
        return asked.of_metric(metric, State.REPORTED, "the sides answered different prompts")
    before, after = ([side[prompt] for prompt in prompts] for side in (base, head))
    sign = 1 if metric.better == "lower" else -1
    worse = [sign * (b - a) for a, b in zip(before, after, strict=True)]
    has_ratio = fmean(before) > 0
    scale = fmean(before) or fmean(after)
    values = {
        "base": fmean(before),
        "head": fmean(after),
        "stages": (Stage(name="prompts", base=tuple(before), head=tuple(after)),),
    }
    if not any(worse):
        reason = f"{fmean(before):.6g} {metric.unit} on both sides, prompt by prompt ({len(prompts)})"
        ratio = {"ratio": 1.0, "low": 1.0, "high": 1.0, "p": 1.0} if fmean(before) else {}
        return asked.of_metric(metric, State.OK, reason, **values, **ratio)
    mean = fmean(worse) / scale
    found = stats.paired(np.array([worse]) / scale)
    low, high = float(found.low[0]), float(found.high[0])
    is_worse = mean > 0
    p = stats.sign_flip_p(worse if is_worse else [-one for one in worse], seed)
    rules_out = bool(np.isfinite(high)) and high < gate.effect
    words = f"{values['base']:.4g} {metric.unit} on base, {values['head']:.4g} on head, over {len(prompts)} prompts"
    interval = f"worse by {mean:+.1%} (95 % interval {low:+.1%} to {high:+.1%})" if np.isfinite(low) else ""
    verdict = asked.of_metric(
        metric,
        State.OK if rules_out else State.INCONCLUSIVE,
        ", ".join(part for part in (words, interval) if part),
        **values,
        ratio=1 + sign * mean if has_ratio and 1 + sign * mean > 0 else None,
        low=1 + min(sign * low, sign * high) if has_ratio and np.isfinite(low) else None,
        high=1 + max(sign * low, sign * high) if has_ratio and np.isfinite(high) else None,
        p=p,
    )
    return Drawn(asked, metric, verdict, p, is_worse, abs(mean), len(prompts), float(found.sd[0]))


def adjusted(drawn: Sequence[Drawn], gate: GateConfig) -> list[RuleVerdict]:
    """The verdicts of one family, red or better where Holm's p and the rule's floor say so, in the order given."""
    found: dict[int, RuleVerdict] = {}
    for worse in (True, False):
        rows = [i for i, one in enumerate(drawn) if one.is_worse is worse]
        for i, p in zip(rows, stats.holm([drawn[i].p for i in rows]), strict=True):
            one = drawn[i]
            certain = p < gate.alpha and one.change > one.asked.rule.floor
            state = (State.REGRESSED if worse else State.IMPROVED) if certain else one.verdict.state
            mde, reason = _least_shown(one, gate.alpha / len(rows), gate), one.verdict.reason
            if state is State.INCONCLUSIVE:
                shows = "so few prompts can show none" if mde is None else f"these prompts show {mde:.1%}"
                reason += f"; a worsening by {gate.effect:.0%} is neither shown nor ruled out: {shows}"
            found[i] = replace(one.verdict, state=state, reason=reason, p_adjusted=float(p), mde=mde)
    return [found[i] for i in range(len(drawn))]


def _least_shown(one: Drawn, alpha: float, gate: GateConfig) -> float | None:
    """The least worsening, as a share, that so many prompts show in gate.power of the cases. None: they can show none,
    for even if all of them were worse, a coin's flips would be so often.
    """
    if 0.5**one.num_prompts >= alpha:
        return None
    share = stats.least_shown(one.num_prompts, one.sd, alpha, one.asked.rule.floor, gate.power)
    return share if np.isfinite(share) else None


def ratio_of(mean_log: float | None, better: str) -> float | None:
    """head / base of a log ratio whose sign says worse."""
    return None if mean_log is None else exp(mean_log if better == "lower" else -mean_log)


def worse_log(ratio: float, better: str) -> float:
    """log(head / base), above 0 where head is worse; NaN where there is none."""
    return log(ratio) if better == "lower" else -log(ratio)
