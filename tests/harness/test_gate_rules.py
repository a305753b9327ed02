"""Rules that no clock decides: counters, tokens, and what prompts decide; and rules that a suite adds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gate_jobs import Side, verdict_of
from synthetic import Scenario

from harness.analysis.verdict import RuleVerdict, State, Verdict
from harness.records.types import Record, Round
from harness.spec.config import ConfigError
from harness.spec.gate_rules import GateConfig
from harness.spec.suite import compose

AXES: dict[str, list[Any]] = {"batch_size": [4], "block_length": [256], "num_steps": [8]}
SMALL = Scenario(observed=True, wobble=0.001, axes=AXES)
Change = Callable[[Record], Record]


def of_diffusion(change: Change) -> Change:
    return lambda record: record if record.cell.block_length is None else change(record)


def counting(**counters: Any) -> Change:
    return lambda record: replace(record, counters={**record.counters, **counters})


def rounds(change: Callable[[Round], Round]) -> Change:
    return lambda record: replace(record, rounds=tuple(map(change, record.rounds)))


def judged(tmp_path: Path, base: Change, head: Change, scenario: Scenario = SMALL, **plan: Any) -> Verdict:
    sides = [Side(scenario=scenario, change=of_diffusion(one), plan={"gate": plan}) for one in (base, head)]
    return verdict_of(tmp_path, *sides)


def rule(verdict: Verdict, name: str) -> RuleVerdict:
    return next(one for cell in verdict.cells for one in cell.rules if one.rule == name and cell.axes["block_length"])


@pytest.mark.parametrize(
    ("before", "after", "state", "code"),
    [(100, 100, State.OK, 0), (100, 101, State.REGRESSED, 1), (100, 99, State.IMPROVED, 0)],
)
def test_a_counter_is_compared_exactly(tmp_path: Path, before: int, after: int, state: State, code: int) -> None:
    verdict = judged(tmp_path, counting(torch_operations=before), counting(torch_operations=after))
    assert (rule(verdict, "operations").state, verdict.exit_code) == (state, code)


@pytest.mark.parametrize(("after", "state"), [(1009, State.OK), (1011, State.REGRESSED)])
def test_memory_may_differ_by_its_margin(tmp_path: Path, after: int, state: State) -> None:
    verdict = judged(tmp_path, counting(peak_tensor_bytes=1000), counting(peak_tensor_bytes=after))
    assert rule(verdict, "peak_tensors").state is state


def test_one_forward_more_is_red(tmp_path: Path) -> None:
    verdict = judged(tmp_path, counting(forwards=8), counting(forwards=9))
    assert rule(verdict, "forwards").reason == "8 passes on base, 9 on head (+12.50%)"
    assert verdict.exit_code == 1


def test_a_pass_more_in_one_round_alone_is_red(tmp_path: Path) -> None:
    def more(one: Round) -> Round:
        return replace(one, passes={**one.passes, "denoise": one.passes["denoise"] + (one.index == 1)})

    verdict = judged(tmp_path, rounds(lambda one: one), rounds(more))
    assert rule(verdict, "passes").state is State.REGRESSED


def test_a_counter_is_never_inconclusive_however_noisy_the_clock(tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    loud: Change = rounds(lambda one: replace(one, wall_s=one.wall_s * float(np.exp(0.5 * dice.standard_normal()))))
    verdict = judged(tmp_path, loud, loud)
    states = {
        one.test: {r.state for c in verdict.cells for r in c.rules if r.test == one.test}
        for one in verdict.cells[0].rules
    }
    assert states["exact"] == {State.OK}
    assert states["time"] & {State.INCONCLUSIVE}


def test_a_counter_that_head_lost_is_missing_and_not_green(tmp_path: Path) -> None:
    verdict = judged(tmp_path, counting(torch_operations=5), counting())
    assert (rule(verdict, "operations").state, verdict.exit_code) == (State.MISSING, 3)


def test_a_counter_that_only_head_has_is_shown(tmp_path: Path) -> None:
    verdict = judged(tmp_path, counting(), counting(torch_operations=5))
    assert (rule(verdict, "operations").state, verdict.exit_code) == (State.REPORTED, 0)


def tokens(*rows: list[int]) -> Change:
    return counting(output_ids=[list(row) for row in rows])


ROW = list(range(64))


def other_from(place: int) -> list[int]:
    return ROW[:place] + [-1] * (64 - place)


@pytest.mark.parametrize(
    ("rows", "state"),
    [
        ([ROW, ROW, ROW, ROW], State.OK),
        ([ROW, ROW, ROW, other_from(40)], State.OK),  # one near tie fell the other way, and the rest followed
        ([[*ROW[:5], -1, *ROW[6:]], ROW, ROW, ROW], State.OK),  # one place alone
        ([other_from(0)] * 4, State.OUTPUT_CHANGED),
        ([other_from(3), other_from(2), other_from(8), other_from(5)], State.OUTPUT_CHANGED),
        ([ROW[:1], ROW[:2], ROW[:1], ROW[:1]], State.OUTPUT_CHANGED),  # it ends at once
        ([ROW, ROW, ROW], State.OUTPUT_CHANGED),  # a row is gone
    ],
)
def test_tokens_may_change_as_rounding_changes_them_and_no_more(
    tmp_path: Path, rows: list[list[int]], state: State
) -> None:
    verdict = judged(tmp_path, tokens(ROW, ROW, ROW, ROW), tokens(*rows))
    assert rule(verdict, "outputs").state is state
    assert verdict.exit_code == (3 if state is State.OUTPUT_CHANGED else 0)


def in_float32(scenario: Scenario) -> Scenario:
    names = ("weight_dtype", "activation_dtype", "kv_dtype", "head_dtype")
    return replace(scenario, axes={**scenario.axes, **{name: ["float32"] for name in names}})


@pytest.mark.parametrize(
    ("scenario", "rows", "state"),
    [
        (SMALL, [other_from(0)], State.OUTPUT_CHANGED),  # p is 1 in 20 itself
        (SMALL, [other_from(1)], State.OK),
        (SMALL, [other_from(12)] * 4, State.OK),
        (in_float32(SMALL), [other_from(12)] * 4, State.OUTPUT_CHANGED),
        (in_float32(SMALL), [other_from(9)], State.OUTPUT_CHANGED),
        (in_float32(SMALL), [other_from(10)], State.OK),
        (in_float32(SMALL), [ROW, ROW, ROW, other_from(40)], State.OK),  # rounding
    ],
)
def test_fewer_rows_show_a_change_in_float32_whose_near_ties_are_rarer(
    tmp_path: Path, scenario: Scenario, rows: list[list[int]], state: State
) -> None:
    verdict = judged(tmp_path, tokens(*[ROW] * len(rows)), tokens(*rows), scenario)
    assert rule(verdict, "outputs").state is state


def test_an_agreement_that_the_suite_names_is_asked_in_every_dtype(tmp_path: Path) -> None:
    own = {"rules": {**GATE["rules"], "outputs": {**GATE["rules"]["outputs"], "agreement": 0.5}}}
    verdict = judged(tmp_path, tokens(*[ROW] * 4), tokens(*[other_from(12)] * 4), in_float32(SMALL), **own)
    assert rule(verdict, "outputs").state is State.OK


def test_faster_with_other_tokens_is_no_improvement(tmp_path: Path) -> None:
    fast: Change = lambda record: tokens(*[other_from(0)] * 4)(  # noqa: E731
        rounds(lambda one: replace(one, wall_s=one.wall_s / 2))(record)
    )
    verdict = judged(tmp_path, tokens(*[ROW] * 4), fast)
    changed = next(cell for cell in verdict.cells if cell.axes["block_length"])
    assert changed.state is State.OUTPUT_CHANGED
    assert not [one for one in changed.rules if one.test == "time"]


def test_rounds_whose_answers_differ_in_length_are_not_held_against_a_counter(tmp_path: Path) -> None:
    """Tokens within rounding end an answer elsewhere, so its batch takes another number of passes."""
    respecting = replace(SMALL, eos="respect")

    def longer(one: Round) -> Round:
        return replace(
            one,
            useful_tokens=tuple(useful - 1 for useful in one.useful_tokens) if one.index == 0 else one.useful_tokens,
            passes={**one.passes, "denoise": one.passes["denoise"] + 8 * (one.index == 0)},
        )

    verdict = judged(tmp_path, rounds(lambda one: one), rounds(longer), respecting)
    assert rule(verdict, "passes").state is State.OK


ADAPTIVE = Scenario(
    observed=True,
    wobble=0.001,
    eos="respect",
    rounds=12,
    axes={**AXES, "stopping": ["adaptive"], "prompt_set": ["code"], "block_length": [128]},
    quality=lambda cell: 0.7,
)


def more_steps(share: float) -> Change:
    """That share of the rows takes three steps more."""

    def change(one: Round) -> Round:
        rows = [
            tuple(steps + 3 if steps and (row + one.index) % 10 < 10 * share else steps for steps in canvases)
            for row, canvases in enumerate(one.steps_per_canvas)
        ]
        return replace(one, steps_per_canvas=tuple(rows))

    return rounds(change)


def test_more_steps_until_canvases_converge_are_red(tmp_path: Path) -> None:
    verdict = judged(tmp_path, more_steps(0), more_steps(0.5), ADAPTIVE)
    found = rule(verdict, "steps")
    assert (found.state, verdict.exit_code) == (State.REGRESSED, 1)
    assert found.p_adjusted is not None
    assert found.p_adjusted < 0.05


def test_fewer_steps_are_an_improvement(tmp_path: Path) -> None:
    assert rule(judged(tmp_path, more_steps(0.5), more_steps(0), ADAPTIVE), "steps").state is State.IMPROVED


def test_equal_steps_prompt_by_prompt_are_ok(tmp_path: Path) -> None:
    found = rule(judged(tmp_path, more_steps(0), more_steps(0), ADAPTIVE), "steps")
    assert (found.state, found.ratio, found.p) == (State.OK, 1.0, 1.0)


def test_fewer_tokens_a_step_are_red_although_the_steps_are_as_many(tmp_path: Path) -> None:
    """The mean over prompts of each row's own tokens by its own steps, whatever its batch executes for others."""

    def shorter(one: Round) -> Round:
        return replace(one, useful_tokens=tuple(useful - 100 for useful in one.useful_tokens))

    seen: list[Record] = []
    verdict = judged(tmp_path, lambda record: seen.append(record) or record, rounds(shorter), ADAPTIVE)
    found = rule(verdict, "token_acceptance")
    assert (found.state, rule(verdict, "steps").state, verdict.exit_code) == (State.REGRESSED, State.OK, 1)
    by_prompt: dict[str, list[float]] = {}
    for one in seen[0].rounds:
        for prompt, useful, steps in zip(one.prompt_ids or (), one.useful_tokens, one.steps_per_canvas, strict=True):
            by_prompt.setdefault(prompt, []).append(useful / sum(steps))
    assert found.base == pytest.approx(np.mean([np.mean(values) for values in by_prompt.values()]))


def wrong_answers(share: float) -> Change:
    def change(one: Round) -> Round:
        exact = tuple(
            int(right and (7 * row + one.index) % 10 >= 10 * share) for row, right in enumerate(one.exact or ())
        )
        return replace(one, exact=exact)

    return rounds(change)


def test_more_wrong_answers_are_red_and_a_few_are_not(tmp_path: Path) -> None:
    many = rule(judged(tmp_path / "many", wrong_answers(0), wrong_answers(0.6), ADAPTIVE), "quality")
    few = rule(judged(tmp_path / "few", wrong_answers(0), wrong_answers(0.1), ADAPTIVE), "quality")
    assert many.state is State.REGRESSED
    assert few.state in (State.INCONCLUSIVE, State.OK)
    assert few.worsening is not None
    assert few.worsening > 0
    assert few.mde is not None
    assert (f"these prompts show {few.mde:.1%}" in few.reason) == (few.state is State.INCONCLUSIVE)


def test_too_few_prompts_say_that_they_can_show_nothing(tmp_path: Path) -> None:
    lone = replace(ADAPTIVE, rounds=1, axes={**ADAPTIVE.axes, "batch_size": [4]})
    found = rule(judged(tmp_path, wrong_answers(0), wrong_answers(0.9), lone), "quality")
    assert (found.state, found.mde) == (State.INCONCLUSIVE, None)
    assert found.reason.endswith("so few prompts can show none")


def test_a_time_that_head_lost_is_missing_and_not_green(tmp_path: Path) -> None:
    own = {"rules": {**GATE["rules"], "on_device": {**GATE["rules"]["wall_time"], "metric": "device_s"}}}
    without = rounds(lambda one: replace(one, device_s=None))
    verdict = judged(tmp_path, rounds(lambda one: one), without, **own)
    assert (rule(verdict, "on_device").state, verdict.exit_code) == (State.MISSING, 3)


RESPECTING = replace(SMALL, eos="respect", rounds=11)


@pytest.mark.parametrize(("num_longer", "state"), [(6, State.OK), (11, State.INCONCLUSIVE)])
def test_times_are_compared_of_rounds_whose_answers_are_as_long_as_before(
    tmp_path: Path, num_longer: int, state: State
) -> None:
    """Tokens within rounding end an answer later, and its request takes longer, though no pass does."""

    def longer(one: Round) -> Round:
        useful = tuple(useful + 1 for useful in one.useful_tokens)
        return replace(one, useful_tokens=useful, wall_s=1.25 * one.wall_s) if one.index < num_longer else one

    found = rule(judged(tmp_path, rounds(lambda one: one), rounds(longer), RESPECTING), "wall_time")
    assert found.state is state
    assert ("no round did the same work" in found.reason) == (state is State.INCONCLUSIVE)


def test_three_lines_of_yaml_add_a_rule(tmp_path: Path) -> None:
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite" / "mine.yaml").write_text(
        "# @package _global_\n"
        "defaults: [{override /device: cpu}, {override /model: mini}, {override /protocol: quick}]\n"
        "axes: {block_length: [32], num_steps: [4], prompt_set: [mini_mix], prompt_tokens: [48], output_tokens: [32]}\n"
        "gate:\n"
        "  rules:\n"
        "    first_block:\n"
        "      metric: ttfb_s\n"
        "      test: time\n"
        "    outputs: {agreement: 0.9}\n"
    )
    gate = compose(["suite=mine"], config_dir=str(tmp_path), backends=["reference"]).gate
    assert (gate.rules["first_block"].metric, gate.rules["first_block"].test) == ("ttfb_s", "time")
    assert gate.rules["outputs"].agreement == 0.9
    assert gate.rules.keys() > GateConfig().rules.keys()


def test_a_rule_of_the_suite_is_applied(tmp_path: Path) -> None:
    own = {"rules": {**GATE["rules"], "first_block": {**GATE["rules"]["wall_time"], "metric": "ttfb_s"}}}
    late: Change = rounds(lambda one: replace(one, ttfb_s=1.2 * one.ttfb_s))
    verdict = judged(tmp_path, rounds(lambda one: one), late, **own)
    assert rule(verdict, "first_block").state is State.REGRESSED
    assert rule(verdict, "wall_time").state is State.OK


def test_a_rule_can_be_switched_off_or_kept_to_some_cells(tmp_path: Path) -> None:
    rules = {
        **GATE["rules"],
        "operations": {**GATE["rules"]["operations"], "enabled": False},
        "peak_tensors": {**GATE["rules"]["peak_tensors"], "where": {"decoding": ["autoregressive"]}},
    }
    worse = counting(torch_operations=9, peak_tensor_bytes=9000)
    verdict = judged(tmp_path, counting(torch_operations=5, peak_tensor_bytes=5000), worse, rules=rules)
    assert verdict.exit_code == 0


GATE: dict[str, Any] = {"rules": {name: dict(vars(rule)) for name, rule in GateConfig().rules.items()}}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("gate.rules.outputs.agreement=1.5", "agreement"),
        ("gate.rules.steps.metric=steps_per_canvass", "nearest valid: steps_per_canvas"),
        ("gate.rules.steps.test=vibes", "exact, random, time, output"),
        ("gate.rules.steps.where.batch=[1]", "batch"),
        ("gate.alpha=0", "gate.alpha"),
        ("gate.screen_pairs=1", "at least 2"),
        ("gate.inconclusive=maybe", "warn or fail"),
        ("gate.groups=[[batch]]", "gate.groups"),
        ("gate.alfa=0.1", "nearest valid: alpha"),
    ],
)
def test_a_gate_that_makes_no_sense_is_refused_in_one_message(word: str, message: str) -> None:
    from harness.analysis.metrics import check_metrics

    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        check_metrics(compose(["suite=smoke", word], backends=["reference"]).gate)
