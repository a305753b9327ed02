"""isolation=process: every cell has a process of its own, so its memory figures are its own and it has no twin."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic import Scenario, write_run
from test_supervisor import statuses, supervise

from harness.analysis.analyse import analyse
from harness.analysis.run_data import load_run
from harness.measuring.launch.inline import InlineWorker
from harness.records import store


def test_with_process_isolation_every_cell_has_a_process_of_its_own(tmp_path: Path) -> None:
    progress = supervise(tmp_path, "isolation=process", "axes.batch_size=[1]")
    records = store.read_records(tmp_path).records
    assert statuses(tmp_path) == {"ok": 3}
    assert len({record.worker for record in records}) == len(records) == progress.todo == 3


def test_without_it_a_launch_is_one_process(tmp_path: Path) -> None:
    supervise(tmp_path, "axes.batch_size=[1]")
    assert len({record.worker for record in store.read_records(tmp_path).records}) == 1


def test_a_group_that_goes_on_does_not_measure_its_anchor_again(tmp_path: Path) -> None:
    words = ("isolation=process", "axes.batch_size=[1]")
    supervise(tmp_path, *words)
    (first, *rest) = sorted(tmp_path.glob("records-*.jsonl"))
    first.unlink()
    assert supervise(tmp_path, *words).todo == 1
    assert len(store.read_records(tmp_path).records) == len(rest) + 1


def test_the_supervisor_waits_for_a_process_without_asking_it_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    next_event = InlineWorker.next_event

    def counted(self: InlineWorker, timeout_s: float) -> object:
        asked.append(timeout_s)
        return next_event(self, timeout_s)

    monkeypatch.setattr(InlineWorker, "next_event", counted)
    supervise(tmp_path, "isolation=process", "axes.batch_size=[1]", "axes.num_steps=[2]", "options.request_s=0.05")
    # two processes; of each: group, load, begin and end of 1 warm-up, 3 rounds and the counters, record, its end
    assert len(asked) == 2 * (2 + 2 * 5 + 1 + 1)
    assert min(asked) >= 600


def test_speed_ups_are_refused_because_twins_share_no_process(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path, Scenario(), plan_changes={"isolation": "process"})
    rows = [row for row in analyse([load_run(run_dir)]).rows if not row.is_autoregressive]
    assert rows
    for row in rows:
        assert "speedup_vs_ar" not in row.metrics
        assert "isolation=process" in row.missing["speedup_vs_ar"]
