"""Launches whose times do not count: what no clock decides is judged, and nothing is red or green for them."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import pytest
from gate_jobs import Side, write_job
from synthetic import Scenario

import harness.analysis.gate.samples as samples
from harness import cli
from harness.analysis import candidate, gate
from harness.analysis.verdict import State, Verdict
from harness.records import job as jobs
from harness.records.job import Launch
from harness.records.types import Record

SMALL = Scenario(observed=True, wobble=0.001, axes={"batch_size": [4], "block_length": [256], "num_steps": [8]})


def counted_in_the_first_pair(operations: int) -> Callable[[Record], Record]:
    """As jobs have it: exact counts and tokens are of pair 0 alone."""

    def change(record: Record) -> Record:
        counters = (
            {"torch_operations": operations, "output_ids": [[1, 2, 3]]} if record.run_id.endswith("-screen-00") else {}
        )
        return replace(record, counters=counters)

    return change


def of_pair_0(launch: Launch) -> bool:
    return (launch.stage, launch.pair) == (jobs.SCREEN, 0)


def judged(
    tmp_path: Path,
    dropped: Collection[str],
    why: str = "throttled",
    operations: int = 100,
    lost: Callable[[Launch], bool] = of_pair_0,
    scenario: Scenario = SMALL,
) -> Verdict:
    """With these launches of these sides dropped. scenario, operations: of head."""
    sides = [(SMALL, 100), (scenario, operations)]
    base, head = (Side(scenario=one, change=counted_in_the_first_pair(count)) for one, count in sides)
    job_dir = write_job(tmp_path, base, head)
    job = jobs.read(job_dir)
    launches = tuple(replace(one, dropped=why) if one.side in dropped and lost(one) else one for one in job.launches)
    jobs.write(job_dir, replace(job, launches=launches))
    return gate.judge(job_dir)


def states(verdict: Verdict, rule: str) -> set[State]:
    return {one.state for cell in verdict.cells for one in cell.rules if one.rule == rule}


@pytest.mark.parametrize("dropped", [["base"], ["head"], ["base", "head"]])
def test_counts_of_a_launch_whose_times_were_disturbed_are_judged(tmp_path: Path, dropped: list[str]) -> None:
    same = judged(tmp_path / "same", dropped)
    assert (same.counts, states(same, "outputs"), states(same, "operations")) == ({"OK": 2}, {State.OK}, {State.OK})
    more = judged(tmp_path / "more", dropped, operations=101)
    assert (states(more, "operations"), more.exit_code) == ({State.REGRESSED}, 1)


def test_counts_of_a_launch_whose_times_were_disturbed_are_offered_for_approval(tmp_path: Path) -> None:
    judged(tmp_path, ["head"], operations=101)
    offered = candidate.candidate_of(samples.of_job(tmp_path), "job").values
    assert [one.value for one in offered if one.rule == "operations"] == [101.0, 101.0]
    assert {one.num_launches for one in offered if one.test == "time"} == {2}, "its times are not"


@pytest.mark.parametrize("dropped", [["base"], ["head"], ["base", "head"]])
def test_a_counter_that_got_worse_is_red_although_every_launch_was_disturbed(
    tmp_path: Path, dropped: list[str]
) -> None:
    verdict = judged(tmp_path, dropped, operations=101, lost=lambda launch: True)
    assert (verdict.counts, verdict.exit_code) == ({"REGRESSED": 2}, 1)
    assert states(verdict, "wall_time") == {State.INCONCLUSIVE}


def test_a_cell_without_a_whole_pair_is_inconclusive_although_each_side_has_launches_that_count(tmp_path: Path) -> None:
    verdict = judged(tmp_path, ["base", "head"], lost=lambda launch: (launch.side == jobs.BASE) == (launch.pair == 1))
    assert verdict.counts == {"INCONCLUSIVE": 2}
    assert states(verdict, "operations") == {State.OK}


@pytest.mark.parametrize(("status", "state"), [("error", State.BROKEN), ("oom", State.INCONCLUSIVE)])
def test_an_error_in_every_disturbed_launch_is_broken_and_what_a_neighbour_may_cause_is_not(
    tmp_path: Path, status: str, state: State
) -> None:
    fails = replace(SMALL, outcome=lambda cell, _: status if cell.block_length else "ok")
    verdict = judged(tmp_path, ["head"], lost=lambda launch: True, scenario=fails)
    assert {str(cell.state) for cell in verdict.cells if cell.axes["block_length"]} == {state}


@pytest.mark.parametrize("why", [jobs.INTERRUPTED, f"{jobs.CRASHED} with exit status 1", jobs.MEMORY_ERROR])
@pytest.mark.parametrize("dropped", ["base", "head"])
def test_counts_that_one_side_lost_with_a_launch_are_inconclusive_and_not_missing(
    tmp_path: Path, dropped: str, why: str
) -> None:
    verdict = judged(tmp_path, [dropped], why)
    assert states(verdict, "operations") == states(verdict, "outputs") == {State.INCONCLUSIVE}
    assert verdict.counts == {"INCONCLUSIVE": 2}
    assert any(f"no launch of {dropped} ended well in the first pair" in warning for warning in verdict.warnings)


def test_counts_that_both_sides_lost_are_a_warning(tmp_path: Path) -> None:
    verdict = judged(tmp_path, ["base", "head"], jobs.INTERRUPTED)
    assert not states(verdict, "operations")
    assert sum("ended well in the first pair" in warning for warning in verdict.warnings) == 2


@pytest.mark.parametrize(("policy", "code"), [("warn", 0), ("fail", 5)])
def test_a_side_that_was_disturbed_in_every_launch_is_inconclusive_with_a_verdict(
    tmp_path: Path, policy: str, code: int
) -> None:
    job_dir = write_job(tmp_path, Side(scenario=SMALL), Side(scenario=SMALL))
    job = jobs.read(job_dir)
    launches = tuple(replace(one, dropped="throttled" if one.side == "head" else None) for one in job.launches)
    jobs.write(job_dir, replace(job, launches=launches))
    assert cli.main(["gate", "--base", str(job_dir), "--inconclusive", policy, "-q"]) == code
    verdict = json.loads((job_dir / "verdict.json").read_text(encoding="utf-8"))
    assert verdict["counts"] == {"INCONCLUSIVE": 2}


def test_heads_error_is_said_although_base_was_disturbed_in_every_launch(tmp_path: Path) -> None:
    fails = replace(SMALL, outcome=lambda cell, _: "error" if cell.block_length else "ok")
    job_dir = write_job(tmp_path, Side(scenario=SMALL), Side(scenario=fails))
    job = jobs.read(job_dir)
    launches = tuple(replace(one, dropped="throttled" if one.side == "base" else None) for one in job.launches)
    jobs.write(job_dir, replace(job, launches=launches))
    assert gate.judge(job_dir).counts == {"BROKEN": 1, "INCONCLUSIVE": 1}


def tear(run_dir: Path) -> None:
    """The last record line of a run, as a kill leaves it."""
    path = next(run_dir.glob("records-*.jsonl"))
    path.write_text(path.read_text(encoding="utf-8") + '{"record_schema": 1, "cell_', encoding="utf-8")


def test_what_the_readers_of_the_runs_stumbled_over_is_a_warning_of_the_verdict(tmp_path: Path) -> None:
    job_dir = write_job(tmp_path / "job", Side(scenario=SMALL), Side(scenario=SMALL))
    assert not gate.judge(job_dir).warnings
    tear(job_dir / "head" / "screen-01")
    (warning,) = gate.judge(job_dir).warnings
    assert warning.startswith("head/screen-01: ")
    assert "torn" in warning

    base, head = job_dir / "base" / "screen-00", job_dir / "head" / "screen-01"
    (warning,) = gate.judge_samples(samples.of_runs(base, head, ("a", "b"))).warnings
    assert warning.startswith("b: ")
