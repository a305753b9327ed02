"""A supervisor and its workers: what is due, what outlives a death, what signals do. The model is a fake."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from apart import ENVIRONMENT, ROOT

from harness.measuring import environment, progress
from harness.measuring.runner import Supervisor
from harness.records import store
from harness.records.types import AUTOREGRESSIVE, Record
from harness.spec.plan import PlannedCell, build, identified, work_of
from harness.spec.suite import compose

TINY = ("backend=fake", "axes.batch_size=[1,2]", "axes.block_length=[16]", "axes.num_steps=[2,4]")


class Silent:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.cells: list[tuple[str, str]] = []

    def start(self, plan: object, todo: Sequence[PlannedCell], run_dir: Path) -> None:
        self.todo = len(todo)

    def round_done(self, planned: PlannedCell) -> None: ...

    def cell_done(self, planned: PlannedCell, status: str, what: str) -> None:
        self.cells.append((planned.cell.cell_id, status))

    def group_begun(self, group: object) -> None: ...

    def stopping(self) -> None: ...

    def stop(self) -> None: ...


def supervise(folder: Path, *words: str) -> Silent:
    words = (*TINY, *words)
    plan = identified(build(compose(list(words), backends=["fake"])), {})
    progress = Silent()
    here = environment.collect()
    Supervisor(plan=plan, words=words, run_dir=folder, environment=here, progress=progress).run()
    return progress


def statuses(folder: Path) -> dict[str, int]:
    counts: dict[str, int] = {}
    for record in store.read_records(folder).final.values():
        counts[record.status] = counts.get(record.status, 0) + 1
    return counts


def reasons(folder: Path, status: str) -> set[str]:
    return {r.reason or "" for r in store.read_records(folder).final.values() if r.status == status}


def test_every_planned_cell_and_launch_has_one_record(tmp_path: Path) -> None:
    progress = supervise(tmp_path, "protocol.launches=2")
    assert statuses(tmp_path) == {"ok": 12}
    assert len(progress.cells) == progress.todo == 12


def test_every_launch_is_a_process_of_its_own(tmp_path: Path) -> None:
    supervise(tmp_path, "protocol.launches=2")
    workers = {(r.launch, r.worker) for r in store.read_records(tmp_path).records}
    assert len(workers) == len({worker for _, worker in workers}) == 2


def test_the_same_command_again_starts_no_worker_and_changes_nothing(tmp_path: Path) -> None:
    supervise(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert supervise(tmp_path).todo == 0
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_run_leaves_records_and_a_log_and_nothing_of_its_workers(tmp_path: Path) -> None:
    supervise(tmp_path)
    assert {p.name.split("-")[0] for p in tmp_path.iterdir()} == {"records", "run.log"}


@pytest.mark.parametrize(("fail", "again"), [("error", 3), ("hang", 3), ("oom", 0), ("unsupported", 0)])
def test_retry_failed_repeats_errors_and_timeouts_and_nothing_else(tmp_path: Path, fail: str, again: int) -> None:
    words = (f"options.fail={fail}", "options.fail_batch=2", "protocol.request_timeout_s=1")
    supervise(tmp_path, *words)
    assert supervise(tmp_path, *words).todo == 0
    retried = supervise(tmp_path, *words, "retry_failed=true")
    assert sum(status != "ok" for _, status in retried.cells) == again


def test_a_group_that_goes_on_measures_its_anchor_again(tmp_path: Path) -> None:
    supervise(tmp_path, "axes.batch_size=[1]")
    (path,) = tmp_path.glob("records-*.jsonl")
    kept = [line for line in path.read_text().splitlines() if json.loads(line)["cell"]["num_steps"] != 4]
    path.write_text("\n".join(kept) + "\n")
    supervise(tmp_path, "axes.batch_size=[1]")
    records = store.read_records(tmp_path).records
    anchors = sorted((r for r in records if r.cell.decoding == AUTOREGRESSIVE), key=lambda r: r.attempt)
    assert [r.attempt for r in anchors] == [1, 2]
    assert {r.worker for r in records if r.cell.num_steps == 4} == {anchors[1].worker}


def test_rounds_of_a_dead_worker_become_a_record_and_the_cell_is_measured_again(tmp_path: Path) -> None:
    supervise(tmp_path, "axes.batch_size=[1]")
    (path,) = tmp_path.glob("records-*.jsonl")
    first = json.loads(path.read_text().splitlines()[0])
    journal = {key: first[key] for key in ("cell", "launch", "attempt", "worker", "seed", "started_at")}
    (tmp_path / "rounds-dead.jsonl").write_text(json.dumps({**journal, "rounds": first["rounds"][:1]}) + '\n{"torn')
    path.unlink()
    supervise(tmp_path, "axes.batch_size=[1]")
    records = [r for r in store.read_records(tmp_path).records if r.cell_id == first["cell_id"]]
    assert [(r.attempt, r.is_interrupted, len(r.rounds)) for r in sorted(records, key=lambda r: r.attempt)] == [
        (1, True, 1),
        (2, False, 3),
    ]


def command(folder: Path, *words: str) -> list[str]:
    places = (f"results_dir={folder}/results", "reports_dir=null")
    return [sys.executable, "-m", "harness", "run", *TINY, *places, *words]


def started(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(folder, *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, cwd=folder
    )


def wait_for(folder: Path, pattern: str, limit_s: float = 60) -> None:
    end = time.monotonic() + limit_s
    while not [p for p in folder.glob(pattern) if p.stat().st_size]:
        assert time.monotonic() < end, f"{pattern} did not appear"
        time.sleep(0.02)


SLOW = ("options.request_s=0.05", "protocol.rounds=5")


def test_ctrl_c_once_finishes_the_group_and_says_how_to_go_on(tmp_path: Path) -> None:
    process = started(tmp_path, *SLOW)
    wait_for(tmp_path, "results/*/*/rounds-*.jsonl")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.search(
        r"finishing the group .*: 3 cells, \d+ of 21 requests done, about 0:0\d left\nCtrl-C again", stderr
    )
    resume = re.search(r"^go on with: (python -m harness run .*)$", stderr, re.MULTILINE)
    assert resume
    assert shlex.split(resume[1])[1:] == command(tmp_path, *SLOW)[1:]
    (run_dir,) = tmp_path.glob("results/*/*")
    assert statuses(run_dir) == {"ok": 3}


def test_ctrl_c_twice_stops_at_once_and_keeps_the_finished_rounds(tmp_path: Path) -> None:
    process = started(tmp_path, "-q", "options.request_s=0.5", "protocol.rounds=100")
    wait_for(tmp_path, "results/*/*/rounds-*.jsonl")
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert "finishing the group" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "go on with: python -m harness run" in stderr
    (run_dir,) = tmp_path.glob("results/*/*")
    records = store.read_records(run_dir).records
    assert records
    assert all(r.is_interrupted and 1 <= len(r.rounds) < 100 for r in records)


def test_ctrl_c_before_the_first_request_has_nothing_to_finish(tmp_path: Path) -> None:
    process = started(tmp_path, *SLOW)
    assert process.stderr is not None
    assert "6 cells" in process.stderr.readline()  # said once the signal is handled, before the worker is started
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.startswith("error: interrupted; all that was measured is kept\ngo on with: python -m harness run")
    assert not list(tmp_path.glob("results/*/*/r*s-*.jsonl"))


def test_what_is_left_of_a_group_is_estimated_from_its_own_pace_else_from_the_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    plan = build(compose([*TINY, "protocol.rounds=3"], backends=["fake"]))
    first, second = plan.own_groups
    watcher = progress.PlainProgress()
    watcher.start(plan, [*first, *second], Path("here"))
    watcher.group_begun(first)
    assert watcher.group_left() == "how long that takes is not known yet"
    for planned in first:  # the first of five requests of each: warm-up, three rounds, counters
        watcher.round_done(planned)
        now += 1
    assert watcher.group_left() == "about 0:12 left"
    watcher.group_begun(second)
    assert watcher.group_left() == "about 0:15 left"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_end_stops_at_once_and_keeps_the_finished_rounds(tmp_path: Path, number: signal.Signals) -> None:
    process = started(tmp_path, *SLOW)
    wait_for(tmp_path, "results/*/*/rounds-*.jsonl")
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 130
    (run_dir,) = tmp_path.glob("results/*/*")
    records = store.read_records(run_dir).records
    assert records
    assert all(r.is_interrupted and r.rounds for r in records)
    assert not list(run_dir.glob("rounds-*"))


def test_a_closed_stderr_does_not_end_the_run(tmp_path: Path) -> None:
    process = started(tmp_path)
    assert process.stderr is not None
    process.stderr.close()
    process.stderr = None
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_the_time_left_is_that_of_the_cells_that_are_due(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    plan = build(compose([*TINY, "protocol.rounds=3"], backends=["fake"]))
    longest = max(plan.cells, key=work_of)
    watcher = progress.PlainProgress()
    watcher.start(plan, [longest], Path("here"))
    watcher.round_done(longest)
    now += 1
    assert watcher.clock() == "0:01 elapsed, ~0:04 left"


def test_two_runs_at_once_leave_one_final_record_a_cell(tmp_path: Path) -> None:
    both = [started(tmp_path, *SLOW) for _ in range(2)]
    for process in both:
        process.communicate(timeout=120)
        assert process.returncode == 0
    (run_dir,) = tmp_path.glob("results/*/*")
    assert statuses(run_dir) == {"ok": 6}


def rounds_on_disk(folder: Path) -> set[str]:
    """Every finished round in any file, by what identifies it."""
    found = set()
    for path in folder.glob("results/*/*/r*s-*.jsonl"):
        for line in path.read_bytes().split(b"\n") if path.exists() else []:
            try:
                data = json.loads(line)
            except ValueError:
                continue
            for one in data["rounds"]:
                where = [data["worker"], data["cell"], data["launch"], data["attempt"]]
                found.add(json.dumps([*where, one["index"], one["wall_s"]], sort_keys=True))
    return found


def kill(process: subprocess.Popen[str], who: str) -> None:
    """kill -9 the supervisor, its workers, or both."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    victims = [*map(int, children if who != "supervisor" else []), *([process.pid] if who != "workers" else [])]
    for pid in victims:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


@pytest.mark.timeout(600)
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds a process's children through Linux's /proc")
def test_nothing_finished_is_lost_over_fifty_kills_at_random_moments(tmp_path: Path) -> None:
    rng = random.Random(0)
    words = ("axes.batch_size=[1,2,4,8]", "options.request_s=0.01", "protocol.rounds=4", "protocol.launches=2")
    known: set[str] = set()
    kills = 0
    while kills < 50:
        process = started(tmp_path, *words)
        time.sleep(rng.uniform(0.3, 1.5))
        if process.poll() is None:
            known |= rounds_on_disk(tmp_path)
            who = rng.choice(["supervisor", "workers", "both"])
            kill(process, who)
            kills += 1
            if who == "workers":  # the supervisor starts another one; end it as well, at some later moment
                time.sleep(rng.uniform(0, 0.3))
                process.kill()
        _, stderr = process.communicate(timeout=60)
        assert process.returncode in (0, 3, -signal.SIGKILL), stderr
        assert known <= rounds_on_disk(tmp_path)
        if process.returncode in (0, 3) and kills < 50:  # all done before the next kill: begin again
            shutil.rmtree(tmp_path / "results")
            known = set()
    last = started(tmp_path, *words)
    last.communicate(timeout=300)
    assert known <= rounds_on_disk(tmp_path)
    (run_dir,) = tmp_path.glob("results/*/*")
    planned = {
        (c["cell_id"], launch) for c in json.loads((run_dir / "plan.json").read_text())["cells"] for launch in (0, 1)
    }
    final: dict[tuple[str, int], Record] = store.read_records(run_dir).final
    assert set(final) == planned
    assert not any(record.is_interrupted for record in final.values())
    assert not list(run_dir.glob("rounds-*"))


def test_a_git_that_is_killed_once_does_not_open_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    before = environment.collect().stack
    run, calls = subprocess.run, []

    def killed_first(*args: object, **kwargs: object) -> object:
        calls.append(args)
        if len(calls) == 1:
            return subprocess.CompletedProcess(args, -signal.SIGKILL, "", "")
        return run(*args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", killed_first)
    assert environment.collect().stack == before
    assert calls or not (ROOT / ".git").exists()
