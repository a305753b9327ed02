"""Records on disk: nothing is lost, and nothing strange is believed."""

from __future__ import annotations

import json
import os
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

from harness.records import store
from harness.records.parse import record_from_json
from harness.records.types import RECORD_SCHEMA, Cell, Environment, Record, Round, to_json
from harness.records.upgrades import UPGRADES

CELL = Cell(
    backend="fake", model="m", decoding="block_diffusion", batch_size=1, prompt_set="code", prompt_tokens=8,
    output_tokens=8, eos="ignore", block_length=8, num_steps=2, stopping="fixed", weight_dtype="float32",
    activation_dtype="float32", kv_dtype="float32", head_dtype="float32", routing="model", device="cpu",
    protocol="p", options={"a": [1]},
)  # fmt: skip
ROUND = Round(
    index=0, seed=0, wall_s=0.5, cpu_s=0.4, device_s=None, ttfb_s=0.1, block_s=(0.1, 0.4), step_s=(0.05, 0.06),
    passes={"prefill": 1, "denoise": 4}, row_passes={"prefill": 1, "denoise": 4}, steps_per_canvas=((2, 2),),
    useful_tokens=(8,), raw_tokens=16, stop_reason="length", resolved={}, prompt_ids=("code-1",),
    categories=("code",), exact=(None,), token_accuracy=(0.5,), throttle_reasons=None, missing={"device_s": "no GPU"},
)  # fmt: skip


def record(**changes: object) -> Record:
    given = {
        "run_id": "r", "cell": CELL, "cell_id": CELL.cell_id, "launch": 0, "attempt": 1, "worker": "w", "status": "ok",
        "reason": None, "rounds": (ROUND,), "counters": {"expert_hits": [[1]]}, "discarded": (), "warnings": ("x",),
        "environment_id": "e", "started_at": "2026-01-01T00:00:00+00:00", "seed": 0,
    }  # fmt: skip
    return Record(**{**given, **changes})  # type: ignore[arg-type]


def written(folder: Path, *records: Record, worker: str = "w") -> Path:
    writer = store.RecordWriter(folder, worker)
    for one in records:
        writer.append(one)
    writer.close()
    return folder


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    assert store.read_records(written(tmp_path, record())).records == [record()]


def test_a_record_is_one_line(tmp_path: Path) -> None:
    written(tmp_path, record(reason="two\nlines\u2028three"))
    assert (tmp_path / "records-w.jsonl").read_bytes().count(b"\n") == 1


def test_records_that_came_to_be_together_cost_one_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    writer = store.RecordWriter(tmp_path, "w")
    writer.append(*(record(launch=launch) for launch in range(3)))
    writer.close()
    assert synced == [(tmp_path / "records-w.jsonl").stat().st_size]
    assert [r.launch for r in store.read_records(tmp_path).records] == [0, 1, 2]


def test_rounds_are_those_of_their_own_line_whenever_one_looks(tmp_path: Path) -> None:
    rounds = [tuple(replace(ROUND, index=i, wall_s=launch + i) for i in range(2)) for launch in range(3)]
    written(tmp_path, *(record(launch=launch, rounds=own) for launch, own in enumerate(rounds)))
    found = store.read_records(tmp_path).records
    assert [tuple(r.rounds) for r in reversed(found)] == rounds[::-1]
    assert [(len(r.rounds), r.rounds[1].wall_s, r.rounds[:1]) for r in found] == [
        (2, own[1].wall_s, own[:1]) for own in rounds
    ]


def test_rounds_and_counters_are_those_that_were_read_whatever_becomes_of_the_file(tmp_path: Path) -> None:
    counted = record(counters={"expert_hits": [[3, 4]], "settled_steps": [[[1, 2]]]})
    (found,) = store.read_records(written(tmp_path, counted)).records
    (tmp_path / "records-w.jsonl").write_text("{}\n")
    assert found == counted


def test_without_a_folder_for_temporary_files_reading_rounds_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, record())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    with pytest.raises(store.StoreError, match="temporary files"):
        store.read_records(tmp_path)


def test_a_document_has_a_line_for_each_item_and_reads_back(tmp_path: Path) -> None:
    document = {"name": "a\nb", "cells": [{"cell_id": "x"}, {"cell_id": "y"}], "skipped": [], "seed": 0}
    store.write_atomic(tmp_path / "x", store.json_lines(document))
    assert store.read_json(tmp_path / "x") == document
    assert '{"cell_id": "y"}' in (tmp_path / "x").read_text().splitlines()


def test_a_torn_last_line_is_skipped_and_named(tmp_path: Path) -> None:
    path = written(tmp_path, record(), record(launch=1)) / "records-w.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    found = store.read_records(tmp_path)
    assert [r.launch for r in found.records] == [0]
    assert "records-w.jsonl:2" in found.warnings[0]


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[]",
        "{}",
        '{"record_schema": 1}',
        '{"record_schema": 1, "rounds": [1]}',
        '{"record_schema": "1"}',
        "\x00\x00",
        "[" * 5000,
    ],
)
def test_a_foreign_line_is_skipped_and_named(tmp_path: Path, line: str) -> None:
    path = written(tmp_path, record()) / "records-w.jsonl"
    path.write_text(line + "\n" + path.read_text())
    found = store.read_records(tmp_path)
    assert len(found.records) == len(found.warnings) == 1


def test_a_file_of_records_that_cannot_be_read_is_one_clear_error(tmp_path: Path) -> None:
    written(tmp_path, record())
    (tmp_path / "records-x.jsonl").mkdir()
    with pytest.raises(store.StoreError, match=r"records-x\.jsonl: cannot be read"):
        store.read_records(tmp_path)


def test_a_record_whose_cell_was_edited_is_not_believed(tmp_path: Path) -> None:
    path = written(tmp_path, record()) / "records-w.jsonl"
    path.write_text(path.read_text().replace('"batch_size":1', '"batch_size":2'))
    assert not store.read_records(tmp_path).records


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, record()) / "records-w.jsonl"
    path.write_text(
        path.read_text().replace(f'"record_schema":{RECORD_SCHEMA}', f'"record_schema":{RECORD_SCHEMA + 1}')
    )
    with pytest.raises(store.NewerSchemaError, match="upgrade canvasbench"):
        store.read_records(tmp_path)


def test_a_record_of_schema_1_is_read_and_says_what_it_lacks(tmp_path: Path) -> None:
    line = (Path(__file__).parent / "fixtures" / "record_schema_1.jsonl").read_text()
    (tmp_path / "records-old.jsonl").write_text(line)
    found = store.read_records(tmp_path)
    assert found.warnings == []
    (old,) = found.records
    for round, kept in zip(old.rounds, json.loads(line)["rounds"], strict=True):
        new = json.loads(json.dumps(to_json(round)))
        for name in ("prompt_ids", "categories", "exact", "token_accuracy", "gpu"):
            assert new.pop(name) is None
            assert new["missing"].pop(name) == f"not kept by record_schema {2 if name == 'gpu' else 1}"
        assert new.pop("row_passes") == {kind: 2 * count for kind, count in kept["passes"].items()}  # a batch of two
        assert new == kept


def test_a_record_of_schema_2_is_read_and_knows_nothing_of_its_launch(tmp_path: Path) -> None:
    line = (Path(__file__).parent / "fixtures" / "record_schema_2.jsonl").read_text()
    (tmp_path / "records-old.jsonl").write_text(line)
    (old,) = store.read_records(tmp_path).records
    new = json.loads(json.dumps(to_json(old)))
    for round in new["rounds"]:
        assert round.pop("gpu") is None
        assert round["missing"].pop("gpu") == "not kept by record_schema 2"
        assert round.pop("row_passes") == round["passes"]  # a batch of one row
    assert new == {**json.loads(line), "course": {}, "energy": {}, "record_schema": RECORD_SCHEMA}


def test_a_record_of_schema_3_is_read_and_every_pass_ran_for_its_two_rows(tmp_path: Path) -> None:
    line = (Path(__file__).parent / "fixtures" / "record_schema_3.jsonl").read_text()
    (tmp_path / "records-old.jsonl").write_text(line)
    (old,) = store.read_records(tmp_path).records
    new = json.loads(json.dumps(to_json(old)))
    for round in new["rounds"]:
        assert round.pop("row_passes") == {"prefill": 2, "denoise": 16, "commit": 2, "decode": 0}
    assert new == {**json.loads(line), "record_schema": RECORD_SCHEMA}


@pytest.mark.parametrize("schema", sorted(UPGRADES))
def test_an_upgrade_leaves_what_it_is_given_as_it_was(schema: int) -> None:
    line = json.loads((Path(__file__).parent / "fixtures" / f"record_schema_{schema}.jsonl").read_text())
    before = json.dumps(line)
    UPGRADES[schema](line)
    assert json.dumps(line) == before


def test_the_latest_attempt_is_final(tmp_path: Path) -> None:
    written(tmp_path, record(attempt=2, status="ok"), worker="b")
    written(tmp_path, record(attempt=1, status="error", reason="x", rounds=()), worker="a")
    final = store.read_records(tmp_path).final
    assert final[(CELL.cell_id, 0)].attempt == 2


def test_a_clock_that_jumps_back_changes_nothing_about_which_attempt_is_final(tmp_path: Path) -> None:
    written(tmp_path, record(attempt=1, status="error", reason="x", started_at="2030-01-01T00:00:00"), worker="a")
    written(tmp_path, record(attempt=2, started_at="1970-01-01T00:00:00"), worker="b")
    assert store.read_records(tmp_path).final[(CELL.cell_id, 0)].attempt == 2


def test_the_same_attempt_twice_is_kept_apart(tmp_path: Path) -> None:
    written(tmp_path, record(worker="a"), worker="a")
    written(tmp_path, record(worker="b"), worker="b")
    found = store.read_records(tmp_path)
    assert len(found.records) == 2
    assert len(found.final) == len(found.duplicates) == 1


def test_a_worker_never_writes_into_anothers_file(tmp_path: Path) -> None:
    written(tmp_path, record())
    with pytest.raises(store.StoreError):
        store.RecordWriter(tmp_path, "w")


def test_a_writer_without_records_leaves_no_file(tmp_path: Path) -> None:
    assert not list(written(tmp_path).glob("records-*"))


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    store.write_atomic(tmp_path / "x", "one")
    store.write_atomic(tmp_path / "x", "two")
    assert (tmp_path / "x").read_text() == "two"
    assert len(list(tmp_path.iterdir())) == 1


def test_an_environment_comes_back_under_its_id(tmp_path: Path) -> None:
    environment = Environment(identity={"cpu": "x"}, stack={}, circumstance={"load_1min": 1.0})
    store.write_environment(tmp_path, environment)
    assert store.read_environments(tmp_path) == {environment.environment_id: environment}


def test_circumstance_is_not_part_of_an_environments_id() -> None:
    one = Environment(identity={"cpu": "x"}, stack={}, circumstance={"load_1min": 1.0})
    other = Environment(identity={"cpu": "x"}, stack={}, circumstance={"load_1min": 9.0})
    assert one.environment_id == other.environment_id


def test_fresh_opens_a_new_directory_and_the_next_run_goes_on_there(tmp_path: Path) -> None:
    names = [store.open_run_dir(tmp_path, "s", "abc", fresh=fresh).name for fresh in (False, False, True, True, False)]
    assert names == ["abc", "abc", "abc-2", "abc-3", "abc-3"]


def test_a_run_is_found_by_directory_by_id_and_by_suite(tmp_path: Path) -> None:
    run_dir = store.open_run_dir(tmp_path, "smoke", "abc", fresh=False)
    store.write_atomic(run_dir / "plan.json", "{}")
    assert {store.find_run(name, tmp_path) for name in (str(run_dir), "smoke/abc", "smoke")} == {run_dir}


def test_an_unknown_run_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    store.write_atomic(store.open_run_dir(tmp_path, "smoke", "abc", fresh=False) / "plan.json", "{}")
    with pytest.raises(store.StoreError, match="smoke/abc"):
        store.find_run("smok", tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        {"rounds": 1},
        {"cell": None},
        {"status": "fine"},
        {"extra": 1},
        {"rounds": [{"index": 0}]},
        *(
            {"rounds": [{**to_json(ROUND), **one}]}
            for one in (
                {"wall_s": 10**400},
                {"step_s": [0.1, float("nan")]},
                {"step_s": [float("inf"), 0.1, float("-inf")]},
                {"step_s": ["0.1"]},
                {"useful_tokens": [8.5]},
                {"steps_per_canvas": [2, [2]]},
            )
        ),
    ],
)
def test_a_damaged_record_names_its_field(damage: dict[str, object]) -> None:
    data = json.loads(json.dumps(to_json(record()))) | damage
    with pytest.raises(ValueError, match=r"record|round|cell"):
        record_from_json(data)


def test_numbers_whose_sum_no_float_holds_are_no_times() -> None:
    largest = replace(ROUND, step_s=(sys.float_info.max, sys.float_info.max))
    with pytest.raises(ValueError, match=r"step_s has 1.797.* which no clock gives"):
        record_from_json(json.loads(json.dumps(to_json(record(rounds=(largest,))))))


def test_rounds_whose_events_run_backwards_are_kept_of_a_failed_cell_alone() -> None:
    backwards = replace(ROUND, step_s=(-0.1, 0.2))
    failed = record(rounds=(backwards,), status="error", reason="self-check: its events run backwards")
    assert record_from_json(json.loads(json.dumps(to_json(failed)))) == failed
    with pytest.raises(ValueError, match=r"step_s has -0.1 to 0.2, which no clock gives"):
        record_from_json(json.loads(json.dumps(to_json(replace(failed, status="ok", reason=None)))))


def test_records_alone_hold_neither_rounds_nor_counters_in_memory(tmp_path: Path) -> None:
    long = replace(ROUND, step_s=tuple(0.1 + i for i in range(100_000)))
    tracemalloc.start()
    try:
        (found,) = store.read_records(written(tmp_path, record(rounds=(long,)))).records
        held_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held_bytes < sys.getsizeof(long.step_s)
    assert found.rounds[0] == long
