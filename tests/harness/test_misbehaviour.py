"""Backends that hang, die, leak or lie: each costs its own cells, which say so, and the others are measured."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_supervisor import reasons, statuses, supervise

from harness.measuring import leaks
from harness.records import store

MIB = 2**20


@pytest.mark.parametrize(
    ("fail", "status", "reason"),
    [
        ("error", "error", "told to fail"),
        ("oom", "oom", "out of memory"),
        ("unsupported", "unsupported", "told to not support"),
        ("device", "error", "break its device"),
        ("exit", "error", "ended again (exit status 3) in warmup"),
        ("kill", "error", "ended again (SIGKILL) in warmup"),
        ("hang", "timeout", "no answer for 1 s in warmup"),
        ("few_tokens", "error", "self-check: 95 useful tokens with eos ignored, expected 96"),
        ("backwards", "error", "self-check: its events run backwards"),
    ],
)
def test_however_a_cell_ends_it_is_a_row_and_the_others_are_measured(
    tmp_path: Path, fail: str, status: str, reason: str
) -> None:
    words = (f"options.fail={fail}", "options.fail_batch=2", "protocol.request_timeout_s=1", "eos=ignore")
    progress = supervise(tmp_path, *words)
    assert statuses(tmp_path) == {"ok": 3, status: 3}
    assert all(reason in said for said in reasons(tmp_path, status))
    assert len(progress.cells) == progress.todo == 6
    assert not list(tmp_path.glob("rounds-*")) + list(tmp_path.glob("heartbeat-*"))


def test_a_leak_is_a_warning_of_the_cell_that_leaks(tmp_path: Path) -> None:
    words = ("options.fail=leak", "options.fail_batch=2", "protocol.rounds=4")
    supervise(tmp_path, *words)
    records = store.read_records(tmp_path).records
    assert statuses(tmp_path) == {"ok": 6}
    said = {r.cell.batch_size: [w for w in r.warnings if w.startswith("a leak: ")] for r in records}
    assert not said[1] and said[2]


def test_after_a_leak_no_group_shares_its_process(tmp_path: Path) -> None:
    supervise(tmp_path, "options.fail=leak", "options.fail_batch=1", "protocol.rounds=4", "axes.batch_size=[1,2,4]")
    batches_by_worker: dict[str, set[int]] = {}
    for record in store.read_records(tmp_path).records:
        batches_by_worker.setdefault(record.worker, set()).add(record.cell.batch_size)
    assert sorted(batches_by_worker.values(), key=min) == [{1}, {2}, {4}]


def test_a_host_without_memory_is_out_of_memory(tmp_path: Path) -> None:
    supervise(tmp_path, "options.fail=host_memory", "options.fail_batch=2")
    assert statuses(tmp_path) == {"ok": 3, "oom": 3}
    assert reasons(tmp_path, "oom") == {"the host has no memory left"}


@pytest.mark.parametrize(
    ("resident", "allocated", "words"),
    [
        ([2 * MIB] * 3, [None] * 3, ["the host's memory grows by 2 MiB"]),
        ([0] * 4, [5 * MIB, 8 * MIB, 11 * MIB, 14 * MIB], ["the device's memory grows by 3 MiB"]),
        ([40 * MIB, 0, 0, 0], [5 * MIB, 9 * MIB, 9 * MIB, 9 * MIB], []),
        ([2 * MIB] * 2, [None] * 2, []),
        ([MIB] * 9, [None] * 9, []),
    ],
    ids=["host", "device", "an allocator that grows once", "too few rounds", "too little"],
)
def test_what_grows_in_the_median_round_leaks(
    resident: list[int], allocated: list[int | None], words: list[str]
) -> None:
    found = leaks.warnings_of(resident, allocated)
    assert len(found) == len(words)
    assert all(word in said for word, said in zip(words, found, strict=True))
