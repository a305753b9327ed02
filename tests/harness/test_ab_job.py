"""Base and head in turn: which launch comes when, what is dropped and repeated, what stays when a job ends early."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
from ab_stub import CELLS, Repository, judge_of, measure

from harness.measuring.ab import checkout, disturbed
from harness.measuring.ab.side import SideError
from harness.records import job as jobs
from harness.records import store


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    repository = Repository(tmp_path)
    monkeypatch.setattr(checkout, "ROOT", repository.root)
    monkeypatch.setenv("STUB_NOTES", str(repository.notes))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return repository


def test_pairs_alternate_which_side_comes_first(repository: Repository) -> None:
    _, job = measure(repository, "HEAD", judge=judge_of(screen=4))
    assert "".join(one.side[0] for one in job.launches) == "bhhbbhhb"
    assert [one.order for one in job.launches] == list(range(8))
    assert [one.pair for one in job.launches] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_each_side_runs_the_code_of_its_own_tree(repository: Repository) -> None:
    head = repository.commit({"device": "cuda"})
    measure(repository, repository.first, head)
    base_tree, head_tree = (one["tree"] for one in repository.launches)
    assert base_tree != head_tree
    assert not {base_tree, head_tree} & {str(repository.root)}


def test_the_working_tree_is_head_as_it_is(repository: Repository) -> None:
    (repository.root / "template.json").write_text((repository.root / "template.json").read_text() + "\n")
    _, job = measure(repository, "HEAD")
    assert (job.base.dirty, job.head.dirty) == (False, True)
    assert repository.launches[1]["tree"] == str(repository.root)
    assert job.head.commit == job.base.commit == repository.first


def test_both_launches_of_a_pair_have_one_seed_and_one_order_of_cells_and_pairs_differ(repository: Repository) -> None:
    measure(repository, "HEAD", judge=judge_of(screen=6))
    words = [one["words"] for one in repository.launches]
    assert {one["seed"] for one in words} == {"7"}
    orders = [one["cells"] for one in words]
    assert orders[::2] == orders[1::2]
    assert len(set(orders)) > 1
    assert all(sorted(order.strip("[]").split(",")) == sorted(f"'{cell}'" for cell in CELLS) for order in orders)


def test_only_kept_cells_are_confirmed_with_pairs_of_their_own(repository: Repository) -> None:
    job_dir, job = measure(repository, "HEAD", judge=judge_of(screen=1, confirm=2, kept=CELLS[:1]))
    confirm = [one for one in job.launches if one.stage == jobs.CONFIRM]
    assert [one.run_dir for one in confirm] == [
        "base/confirm-00",
        "head/confirm-00",
        "head/confirm-01",
        "base/confirm-01",
    ]
    for one in confirm:
        assert [record.cell_id for record in store.read_records(job_dir / one.run_dir).records] == CELLS[:1]


def test_nothing_is_confirmed_where_the_screen_keeps_no_cell(repository: Repository) -> None:
    _, job = measure(repository, "HEAD", judge=judge_of(screen=1, confirm=5))
    assert {one.stage for one in job.launches} == {jobs.SCREEN}


def test_cells_that_only_one_side_has_are_measured_on_that_side(repository: Repository) -> None:
    base = repository.commit({"lacks": CELLS[:1]})
    head = repository.commit({})
    measure(repository, base, head)
    assert [len(one["words"]["cells"].split(",")) for one in repository.launches] == [len(CELLS) - 1, len(CELLS)]


def test_an_old_base_is_given_only_words_that_it_knows(repository: Repository) -> None:
    base = repository.commit({"is_old": True})
    head = repository.commit({})
    measure(repository, base, head)
    old, new = (one["words"] for one in repository.launches)
    assert "cells" not in old
    assert old["reports_dir"] != "null"
    assert new["reports_dir"] == "null"


def test_how_launches_are_judged_is_said_to_head_alone(repository: Repository) -> None:
    measure(repository, "HEAD", words=["gate.screen_pairs=2", "seed=3"])
    base, head = (one["words"] for one in repository.launches)
    assert ("gate.screen_pairs" in base, "gate.screen_pairs" in head) == (False, True)


def test_on_a_cpu_both_sides_are_loaded_at_once_and_have_one_thread(repository: Repository) -> None:
    commit = repository.commit({"device": "cpu", "sleep_s": 0.3})
    _, job = measure(repository, commit, commit)
    first, second = (set(one["turns"].split(":")) for one in repository.launches)
    assert first == second
    assert len(first) == 2
    assert {one["threads"] for one in repository.launches} == {"1"}
    assert [one.dropped for one in job.launches] == [None, None]


def test_on_a_gpu_launches_come_one_after_the_other(repository: Repository) -> None:
    measure(repository, "HEAD")
    assert [one["turns"] for one in repository.launches] == [None, None]
    assert [one["threads"] for one in repository.launches] == [None, None]


def test_a_throttled_cell_is_dropped_with_its_reason_and_measured_again_alone(repository: Repository) -> None:
    head = repository.commit({"hot": {"0": CELLS[1:2]}})
    job_dir, job = measure(repository, repository.first, head)
    first, again = (one for one in job.launches if one.side == jobs.HEAD)
    assert first.dropped is None
    assert first.dropped_cells == {CELLS[1]: "throttled (hw_thermal_slowdown)"}
    assert (again.attempt, again.dropped_cells) == (1, {})
    assert [record.cell_id for record in store.read_records(job_dir / again.run_dir).records] == CELLS[1:2]


def test_a_cell_that_stays_throttled_is_repeated_twice_and_then_noted(repository: Repository) -> None:
    head = repository.commit({"hot": {str(number): CELLS[:1] for number in range(9)}})
    said: list[str] = []
    _, job = measure(repository, repository.first, head, said=said)
    attempts = [one for one in job.launches if one.side == jobs.HEAD]
    assert [one.attempt for one in attempts] == [0, 1, 2]
    assert all(one.dropped_cells for one in attempts)
    assert [line.rsplit("; ")[-1] for line in said if "throttled" in line] == ["repeated", "repeated", "noted"]


def test_a_launch_at_another_clock_is_dropped_and_repeated(repository: Repository) -> None:
    base = repository.commit({"clocks": {str(number): 1500 for number in range(9)}})
    head = repository.commit({"clocks": {"0": 1500, "1": 1400, "2": 1490, "3": 1500}})
    _, job = measure(repository, base, head, judge_of(screen=3))
    dropped = [(one.side, one.pair, one.dropped) for one in job.launches if one.dropped]
    assert dropped == [(jobs.HEAD, 1, "the SM clock was 1400 MHz, beside 1500 MHz in other launches")]
    assert len(job.counting(jobs.SCREEN, jobs.HEAD)) == 3


def test_an_odd_first_clock_does_not_condemn_all_that_follow() -> None:
    assert disturbed.off_clock(1500, [1300])
    assert disturbed.off_clock(1500, [1300, 1500]) is None
    assert disturbed.off_clock(1300, [1300, 1500, 1500])


def test_a_launch_whose_process_dies_is_dropped_and_repeated(repository: Repository) -> None:
    head = repository.commit({"codes": {"0": 3, "1": 137}})  # 3: a cell failed, which is a result
    _, job = measure(repository, repository.first, head, judge_of(screen=2))
    assert [one.dropped for one in job.launches if one.side == jobs.HEAD] == [
        None,
        "its process ended with exit status 137",
        None,
    ]


def test_a_dead_launch_takes_the_one_that_it_took_turns_with_along(repository: Repository) -> None:
    base = repository.commit({"device": "cpu"})
    head = repository.commit({"device": "cpu", "codes": {"0": 137}})
    _, job = measure(repository, base, head)
    assert [(one.side, one.attempt, one.dropped is None) for one in job.launches] == [
        (jobs.BASE, 0, False), (jobs.HEAD, 0, False), (jobs.BASE, 1, True), (jobs.HEAD, 1, True)
    ]  # fmt: skip
    assert "took turns" in (job.launches[0].dropped or "")


def test_a_side_that_never_ends_well_ends_the_job_and_says_its_own_last_words(repository: Repository) -> None:
    base = repository.commit({"codes": {str(number): 1 for number in range(9)}})
    head = repository.commit({})
    with pytest.raises(SideError, match="the stub was told to end badly") as raised:
        measure(repository, base, head)
    assert raised.value.side == jobs.BASE
    assert repository.worktrees == 0


def test_a_usage_error_is_not_repeated(repository: Repository) -> None:
    base = repository.commit({"codes": {"0": 2}})
    with pytest.raises(SideError):
        measure(repository, base, repository.first)
    assert len(repository.launches) == 1


def test_a_source_that_changes_while_the_job_runs_ends_it_and_the_launch_does_not_count(
    repository: Repository,
) -> None:
    head = repository.commit({"sources": {"1": "other"}})
    with pytest.raises(SideError, match="changed while it was measured"):
        measure(repository, repository.first, head, judge_of(screen=3))
    (job_dir,) = (repository.root.parent / "results").glob("*/gates/*")
    assert [one.dropped is None for one in jobs.read(job_dir).launches] == [True, True, False]


def test_a_memory_error_of_the_gpu_drops_the_launch_that_it_fell_into(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter([0, 0, 0, 5, 5, 5, 5, 5])
    monkeypatch.setattr(disturbed, "ecc_errors", lambda: next(counts))
    _, job = measure(repository, "HEAD")
    assert [(one.side, one.dropped is None) for one in job.launches] == [
        (jobs.BASE, True), (jobs.HEAD, False), (jobs.HEAD, True)
    ]  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_interrupted_job_leaves_no_worktree_and_no_process_and_keeps_what_ended(
    repository: Repository, number: signal.Signals, device: str
) -> None:
    commit = repository.commit({"device": device, "sleep_s": 60})

    def interrupt_when_it_runs() -> None:
        while not repository.launches:
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt_when_it_runs)
    thread.start()
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        measure(repository, commit, commit, said=said)
    thread.join()
    assert repository.worktrees == 0
    assert not any(psutil.pid_exists(one["pid"]) for one in repository.launches)
    (job_dir,) = (repository.root.parent / "results").glob("*/gates/*")
    assert {one.dropped for one in jobs.read(job_dir).launches} == {"interrupted"}
    assert str(job_dir) in said[-1]


def test_two_jobs_of_the_same_commits_have_folders_of_their_own(repository: Repository) -> None:
    first, _ = measure(repository, "HEAD")
    second, _ = measure(repository, "HEAD")
    assert first != second
    assert first.name == f"{repository.first[:7]}-{repository.first[:7]}"


def test_a_launch_keeps_its_log_and_leaves_nothing_else_beside_its_run(repository: Repository) -> None:
    job_dir, _ = measure(repository, "HEAD")
    assert sorted(path.relative_to(job_dir).as_posix() for path in job_dir.rglob("*") if path.is_file()) == sorted(
        ["job.json", *(f"{side}/screen-00/{name}" for side in ("base", "head") for name in
                       ("launch.log", "plan.json", "records-1.jsonl"))]
    )  # fmt: skip
