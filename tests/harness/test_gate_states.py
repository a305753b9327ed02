"""What a gate says of every situation that is not "measured on both sides and as fast as before", and its exit code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from gate_jobs import Side, repeated, verdict_of, write_job
from synthetic import ENVIRONMENT, Scenario

from harness.analysis import gate
from harness.analysis.verdict import CellVerdict, State, Verdict
from harness.records import job as jobs
from harness.records.store import read_records
from harness.records.types import Cell, Environment, Record, Round
from harness.spec.config import ConfigError

AXES: dict[str, list[Any]] = {"batch_size": [1, 4], "block_length": [256], "num_steps": [8]}
SMALL = Scenario(observed=True, wobble=0.001, axes=AXES)


def side(**changes: Any) -> Side:
    scenario = changes.pop("scenario", SMALL)
    return Side(scenario=scenario, **changes)


def ends(status: str, batch_size: int = 4) -> Scenario:
    """Block diffusion at this batch size ends so."""
    return replace(SMALL, outcome=lambda cell, _: status if is_target(cell, batch_size) else "ok")


def is_target(cell: Cell, batch_size: int = 4) -> bool:
    return cell.block_length is not None and cell.batch_size == batch_size


def target(verdict: Verdict) -> CellVerdict:
    return next(c for c in verdict.cells if c.axes["block_length"] is not None and c.axes["batch_size"] == 4)


def others(verdict: Verdict) -> set[State]:
    return {cell.state for cell in verdict.cells if cell is not target(verdict)}


def test_nothing_changed_is_ok(tmp_path: Path) -> None:
    verdict = verdict_of(tmp_path, side(), side())
    assert verdict.counts == {"OK": 4}
    assert verdict.exit_code == 0
    assert verdict.headline.startswith("GREEN")


@pytest.mark.parametrize(
    ("base", "head", "state", "code"),
    [
        (SMALL, ends("error"), State.BROKEN, 3),
        (SMALL, ends("timeout"), State.BROKEN, 3),
        (SMALL, ends("oom"), State.BROKEN, 3),
        (ends("error"), SMALL, State.FIXED, 0),
        (ends("oom"), SMALL, State.FIXED, 0),
        (ends("error"), ends("timeout"), State.BROKEN_BOTH, 3),  # 1 cell of 4 is beyond the budget of 2 %
        (ends("oom"), ends("oom"), State.REPORTED, 0),  # a result
        (ends("oom"), ends("error"), State.BROKEN, 3),
        (ends("unsupported"), ends("timeout"), State.BROKEN, 3),
        (ends("absent"), ends("error"), State.BROKEN, 3),
        (SMALL, ends("absent"), State.MISSING, 3),
        (ends("absent"), SMALL, State.NEW, 0),
    ],
)
def test_a_cell_that_fails_or_is_absent(
    tmp_path: Path, base: Scenario, head: Scenario, state: State, code: int
) -> None:
    verdict = verdict_of(tmp_path, side(scenario=base), side(scenario=head))
    assert (target(verdict).state, verdict.exit_code) == (state, code)
    assert others(verdict) == {State.OK}
    assert not target(verdict).rules, "what failed has no times to compare"


def test_few_cells_that_fail_on_both_sides_are_within_the_budget(tmp_path: Path) -> None:
    plan = {"gate": {"broken_both_budget": 0.3}}
    verdict = verdict_of(tmp_path, side(scenario=ends("error")), side(scenario=ends("error"), plan=plan))
    assert (target(verdict).state, verdict.exit_code) == (State.BROKEN_BOTH, 0)


def test_a_cell_that_only_heads_suite_has_is_new(tmp_path: Path) -> None:
    wider = replace(SMALL, axes={**AXES, "batch_size": [1, 4, 8]})
    verdict = verdict_of(tmp_path, side(), side(scenario=wider))
    assert verdict.counts == {"NEW": 2, "OK": 4}
    assert verdict.exit_code == 0


@pytest.mark.parametrize(
    ("status", "state"), [("error", "BROKEN"), ("timeout", "BROKEN"), ("oom", "NEW"), ("absent", "MISSING")]
)
def test_a_new_cell_that_fails_is_broken_and_one_that_was_planned_and_never_measured_is_missing(
    tmp_path: Path, status: str, state: str
) -> None:
    wider = replace(ends(status, 8), axes={**AXES, "batch_size": [1, 4, 8]})
    verdict = verdict_of(tmp_path, side(), side(scenario=wider))
    new = next(cell for cell in verdict.cells if cell.axes["batch_size"] == 8 and cell.axes["block_length"] is not None)
    assert new.state == state
    assert verdict.exit_code == (0 if state == "NEW" else 3)


def test_a_cell_that_heads_suite_gave_up_is_shown_and_no_failure(tmp_path: Path) -> None:
    narrower = replace(SMALL, axes={**AXES, "batch_size": [1]})
    verdict = verdict_of(tmp_path, side(), side(scenario=narrower))
    assert verdict.counts == {"OK": 2, "REPORTED": 2}
    assert "removes it" in target(verdict).reason


def test_sides_without_a_common_cell_are_an_error(tmp_path: Path) -> None:
    elsewhere = replace(SMALL, axes={**AXES, "batch_size": [2]})
    with pytest.raises(ConfigError, match="no cell in common"):
        verdict_of(tmp_path, side(), side(scenario=elsewhere))


def elsewhere(layer: str, **changes: Any) -> Environment:
    return replace(ENVIRONMENT, **{layer: {**getattr(ENVIRONMENT, layer), **changes}})


@pytest.mark.parametrize(
    "environment",
    [
        elsewhere("identity", gpu={"name": "Another GPU", "memory_bytes": 80_000_000_000}),
        elsewhere("stack", driver="2.0"),
        elsewhere("stack", packages={"torch": "2.1"}),
    ],
    ids=["other machine", "other driver", "other torch"],
)
def test_another_machine_or_stack_is_refused(tmp_path: Path, environment: Environment) -> None:
    verdict = verdict_of(tmp_path, side(), side(environment=environment))
    assert verdict.counts == {"INCOMPARABLE": 4}
    assert verdict.exit_code == 4
    assert verdict.differences[0].effect == "refused"
    assert verdict.headline.startswith("NOT COMPARABLE")


def test_another_stack_is_compared_where_that_is_the_question(tmp_path: Path) -> None:
    environment = elsewhere("stack", packages={"torch": "2.1"})
    verdict = verdict_of(tmp_path, side(), side(environment=environment), declared=["packages"])
    assert verdict.counts == {"OK": 4}
    assert [(one.key, one.effect) for one in verdict.differences] == [("packages.torch", "declared")]


def test_no_declaration_lets_another_machine_pass(tmp_path: Path) -> None:
    environment = elsewhere("identity", cpu="another")
    verdict = verdict_of(tmp_path, side(), side(environment=environment), declared=["cpu", "identity"])
    assert verdict.exit_code == 4


def test_the_commit_is_what_is_judged_and_no_difference(tmp_path: Path) -> None:
    environment = elsewhere("stack", project_commit="facade", project_dirty=True)
    verdict = verdict_of(tmp_path, side(), side(environment=environment))
    assert (verdict.counts, verdict.differences) == ({"OK": 4}, ())


def test_another_circumstance_is_noted(tmp_path: Path) -> None:
    environment = elsewhere("circumstance", affinity_cpus=4)
    verdict = verdict_of(tmp_path, side(), side(environment=environment))
    assert (verdict.exit_code, [one.effect for one in verdict.differences]) == (0, ["noted"])


@pytest.mark.parametrize(
    "change", [{"seed": 7}, {"prompts": {"random": "0123"}}, {"provenance": {"weights_hash": "x"}}]
)
def test_another_question_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    assert verdict_of(tmp_path, side(), side(plan=change)).exit_code == 4


def slow(share: float, batch_size: int = 4) -> Callable[[Cell], float]:
    return lambda cell: 1 + share if is_target(cell, batch_size) else 1.0


def test_a_slowdown_is_red_and_a_speed_up_is_not(tmp_path: Path) -> None:
    slower = verdict_of(tmp_path / "slower", side(), side(slowdown=slow(0.1)))
    faster = verdict_of(tmp_path / "faster", side(slowdown=slow(0.1)), side())
    assert (target(slower).state, slower.exit_code) == (State.REGRESSED, 1)
    assert (target(faster).state, faster.exit_code) == (State.IMPROVED, 0)
    assert others(slower) == others(faster) == {State.OK}


def test_swapping_base_and_head_flips_every_sign(tmp_path: Path) -> None:
    def changed(record: Record) -> Record:
        return replace(
            record, counters={**record.counters, "torch_operations": 100 + 5 * (record.cell.batch_size == 4)}
        )

    def plain(record: Record) -> Record:
        return replace(record, counters={**record.counters, "torch_operations": 100})

    base, head = side(change=plain), side(slowdown=slow(0.1), change=changed)
    straight = gate.judge(write_job(tmp_path / "straight", base, head))
    swapped = gate.judge(write_job(tmp_path / "swapped", base, head, swapped=True))
    flipped = {State.REGRESSED: State.IMPROVED, State.IMPROVED: State.REGRESSED}
    by_id = {cell.cell_id: cell for cell in swapped.cells}
    for cell in straight.cells:
        other = by_id[cell.cell_id]
        assert other.state is flipped.get(cell.state, cell.state)
        for rule, mirrored in zip(cell.rules, other.rules, strict=True):
            assert mirrored.state is flipped.get(rule.state, rule.state), rule.rule
            if rule.ratio is not None and mirrored.ratio is not None and rule.state is not State.REPORTED:
                assert mirrored.ratio == pytest.approx(1 / rule.ratio)
    for group, mirror in zip(straight.groups, swapped.groups, strict=True):
        assert mirror.ratio == pytest.approx(1 / group.ratio)


def test_all_cells_slower_by_2_percent_is_no_red_cell_and_plain_in_the_geometric_mean(tmp_path: Path) -> None:
    verdict = verdict_of(tmp_path, side(), side(slowdown=lambda cell: 1.02))
    assert verdict.counts == {"OK": 4}
    whole = next(group for group in verdict.groups if not group.axes)
    assert (whole.shift, whole.num_cells) == ("slower", 4)
    assert whole.low > 1.01


def test_one_throttled_launch_is_repeated_and_leaves_no_trace_but_a_note(tmp_path: Path) -> None:
    job_dir = write_job(tmp_path, side(), side(launch=lambda stage, pair: 1.5 if pair == 1 else 1.0))
    job = jobs.read(job_dir)
    hit = next(one for one in job.launches if (one.side, one.pair) == ("head", 1))
    again = repeated(job_dir, hit, "base/screen-01")
    launches = tuple(
        replace(one, dropped="throttled (hw_thermal_slowdown)") if one is hit else one for one in job.launches
    )
    jobs.write(job_dir, replace(job, launches=(*launches, again)))
    verdict = gate.judge(job_dir)
    assert verdict.counts == {"OK": 4}
    assert any("throttled" in warning for warning in verdict.warnings)


def test_a_launch_that_stays_throttled_makes_cells_inconclusive(tmp_path: Path) -> None:
    verdict = verdict_of(
        tmp_path, side(), side(dropped=lambda stage, pair: "throttled" if pair > 0 else None), inconclusive="fail"
    )
    assert verdict.counts == {"INCONCLUSIVE": 4}
    assert verdict.exit_code == 5


def test_a_cell_that_was_disturbed_in_every_launch_is_inconclusive(tmp_path: Path) -> None:
    job_dir = write_job(tmp_path, side(), side())
    job = jobs.read(job_dir)
    cell_id = target(gate.judge(job_dir)).cell_id
    launches = tuple(replace(one, dropped_cells={cell_id: "beside a foreign process"}) for one in job.launches)
    jobs.write(job_dir, replace(job, launches=launches))
    verdict = gate.judge(job_dir)
    assert (target(verdict).state, others(verdict), verdict.exit_code) == (State.INCONCLUSIVE, {State.OK}, 0)
    assert "foreign process" in target(verdict).reason


def test_a_repeat_with_the_lost_cells_alone_counts_for_them(tmp_path: Path) -> None:
    job_dir = write_job(tmp_path, side(), side())
    job = jobs.read(job_dir)
    cell_id = target(gate.judge(job_dir)).cell_id
    lost = next(one for one in job.launches if one.side == "head")
    again = repeated(job_dir, lost, "head/screen-01")
    launches = tuple(replace(one, dropped_cells={cell_id: "throttled"}) if one is lost else one for one in job.launches)
    jobs.write(job_dir, replace(job, launches=(*launches, again)))
    verdict = gate.judge(job_dir)
    assert verdict.counts == {"OK": 4}
    assert next(len(one.stages[0].base) for one in target(verdict).rules if one.test == "time") == 3


def test_rounds_are_compared_with_their_equals_and_not_median_with_median(tmp_path: Path) -> None:
    """The second of three rounds, whose time is the median, takes a tenth longer on head; the others do not."""

    def unlike(record: Record, second: float = 1.0) -> Record:
        def scaled(round: Round) -> Round:
            factor = (1, 2 * second, 4)[round.index]
            return replace(round, wall_s=factor * round.wall_s, cpu_s=factor * (round.cpu_s or round.wall_s))

        return replace(record, rounds=tuple(map(scaled, record.rounds)))

    head = side(change=lambda record: unlike(record, 1.1) if is_target(record.cell) else unlike(record))
    found = target(verdict_of(tmp_path, side(change=unlike), head))
    assert found.state is State.OK
    times = next(one for one in found.rules if one.test == "time" and one.state is State.OK)
    assert times.base is not None and times.head is not None
    assert times.head / times.base == pytest.approx(1.1, abs=0.03)
    for folder, ratio in zip(("screen-00", "screen-01", "screen-02"), times.stages[0].ratio, strict=True):
        base, head_ = (
            next(record for record in read_records(tmp_path / name / folder).records if is_target(record.cell)).rounds
            for name in ("base", "head")
        )
        by_hand = median((after.cpu_s or 0) / (before.cpu_s or 1) for before, after in zip(base, head_, strict=True))
        assert ratio == pytest.approx(by_hand)


@pytest.mark.parametrize("seed", range(4))
def test_launches_that_fall_into_two_modes_are_never_red(tmp_path: Path, seed: int) -> None:
    def modes(side: str) -> Callable[[str, int], float]:
        dice = np.random.default_rng([seed, len(side), ord(side[0])])
        slow = {(stage, pair): bool(dice.random() < 0.3) for stage in ("screen", "confirm") for pair in range(20)}
        return lambda stage, pair: 1.2 if slow[stage, pair] else 1.0

    verdict = verdict_of(tmp_path, side(launch=modes("base")), side(launch=modes("head")))
    assert set(verdict.counts) <= {"OK", "INCONCLUSIVE"}
    assert verdict.exit_code == 0


@pytest.mark.parametrize(("policy", "code"), [("warn", 0), ("fail", 5), (None, 0)])
def test_inconclusive_warns_or_fails_as_asked(tmp_path: Path, policy: str | None, code: int) -> None:
    loud = side(launch=lambda stage, pair: [1.0, 1.3, 0.8, 1.2, 0.9][pair % 5])
    verdict = verdict_of(tmp_path, side(), loud, inconclusive=policy)
    assert "INCONCLUSIVE" in verdict.counts
    assert verdict.exit_code == code


def test_incomplete_is_said_before_a_regression(tmp_path: Path) -> None:
    verdict = verdict_of(tmp_path, side(), side(scenario=ends("error", 1), slowdown=slow(0.1)))
    assert verdict.counts == {"BROKEN": 1, "REGRESSED": 1, "OK": 2}
    assert verdict.exit_code == 3
