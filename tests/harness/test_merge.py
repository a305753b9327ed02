"""Parts of one plan become one run directory; nothing measured is rewritten, and what does not belong is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_cli import harness

from harness.records.merge import NotComparable, merge
from harness.records.store import StoreError, read_records

WORDS = ("backend=fake", "axes.batch_size=[1,2,4,8]", "axes.block_length=[16]", "axes.num_steps=[2,4]")
WORDS = (*WORDS, "protocol.launches=2", "reports_dir=null")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The suite measured whole, and in three shards with a results folder each, as three machines have."""
    found = {}
    for name, words in {"whole": (), **{str(i): (f"shard={i}/3",) for i in (1, 2, 3)}}.items():
        folder = tmp_path_factory.mktemp(name)
        done = harness("run", *WORDS, *words, folder=folder)
        assert done.returncode == 0, done.stderr
        (found[name],) = folder.glob("results/smoke/*")
    return found


@pytest.fixture
def parts(measured: dict[str, Path], tmp_path: Path) -> list[Path]:
    """Copies of the three shards, to damage."""
    return [
        Path(shutil.copytree(measured[str(i)], tmp_path / f"machine {i}" / measured[str(i)].name)) for i in (1, 2, 3)
    ]


def change_plan(part: Path, change: Callable[[dict[str, Any]], object]) -> None:
    plan = json.loads((part / "plan.json").read_text())
    change(plan)
    (part / "plan.json").write_text(json.dumps(plan))


def answers(run_dir: Path) -> dict[tuple[str, int], object]:
    """What does not depend on when and where a cell was measured."""
    return {
        key: (
            record.status,
            record.seed,
            record.counters,
            [(r.index, r.seed, r.passes, r.steps_per_canvas, r.useful_tokens, r.raw_tokens) for r in record.rounds],
        )
        for key, record in read_records(run_dir).final.items()
    }


def test_three_shards_merged_equal_the_unsharded_run(
    measured: dict[str, Path], parts: list[Path], tmp_path: Path
) -> None:
    merged = merge(parts, tmp_path / "merged")
    assert answers(tmp_path / "merged") == answers(measured["whole"])
    assert (merged.missing, merged.failed, merged.num_duplicates, merged.warnings) == (0, 0, 0, ())


def test_report_of_the_merged_run_equals_the_unsharded_one_in_coverage(
    measured: dict[str, Path], parts: list[Path], tmp_path: Path
) -> None:
    done = harness("merge", *map(str, parts), "-o", "merged", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    pages = [harness("report", str(one), "--json", folder=tmp_path) for one in ("merged", measured["whole"])]
    assert [page.returncode for page in pages] == [0, 0]
    documents = [json.loads(page.stdout) for page in pages]
    assert documents[0]["coverage"] == documents[1]["coverage"]
    own, whole = [[w for w in one["warnings"] if "(doctor: " not in w] for one in documents]  # the load may differ
    assert own == whole


def test_records_files_are_copied_byte_for_byte(parts: list[Path], tmp_path: Path) -> None:
    merge(parts, tmp_path / "merged")
    before = sorted(path.read_bytes() for part in parts for path in part.glob("records-*"))
    assert sorted(path.read_bytes() for path in (tmp_path / "merged").glob("records-*")) == before


def test_workers_of_one_name_on_two_machines_keep_both_files(parts: list[Path], tmp_path: Path) -> None:
    num_files = 0
    for part in parts:
        for number, path in enumerate(sorted(part.glob("records-*"))):  # one a launch
            path.rename(part / f"records-7-{number}.jsonl")
            num_files += 1
    assert merge(parts, tmp_path / "merged").missing == 0
    assert len(list((tmp_path / "merged").glob("records-*"))) == num_files


def test_the_merged_plan_and_config_have_no_shard(parts: list[Path], tmp_path: Path) -> None:
    merged = merge(parts, tmp_path / "merged")
    plan = json.loads((tmp_path / "merged" / "plan.json").read_text())
    assert (plan["shard"], plan["run_id"]) == ("1/1", merged.run_id)
    assert [one["shard"] for one in plan["merged_from"]] == ["1/3", "2/3", "3/3"]
    assert "shard: 1/1\n" in (tmp_path / "merged" / "config.yaml").read_text()


def test_the_order_of_the_parts_does_not_change_the_run_id(parts: list[Path], tmp_path: Path) -> None:
    assert merge(parts, tmp_path / "a").run_id == merge(parts[::-1], tmp_path / "b").run_id


def test_merging_the_same_parts_again_changes_nothing(parts: list[Path], tmp_path: Path) -> None:
    merge(parts, tmp_path / "merged")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "merged").iterdir()}
    merge(parts, tmp_path / "merged")
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "merged").iterdir()} == before


def test_a_part_that_is_left_out_is_missing(parts: list[Path], tmp_path: Path) -> None:
    done = harness("merge", *map(str, parts[:2]), "-o", "merged", "--json", folder=tmp_path)
    assert done.returncode == 3
    assert json.loads(done.stdout)["missing"] > 0


def test_a_cell_that_two_parts_measured_is_kept_twice_and_reported(
    measured: dict[str, Path], parts: list[Path], tmp_path: Path
) -> None:
    merged = merge([*parts, measured["whole"]], tmp_path / "merged")
    assert merged.num_duplicates == len(answers(measured["whole"]))
    assert any("recorded twice" in warning for warning in merged.warnings)


def test_a_torn_line_is_reported_and_copied(parts: list[Path], tmp_path: Path) -> None:
    path = min(parts[0].glob("records-*"))
    path.write_bytes(path.read_bytes()[:-30])
    merged = merge(parts, tmp_path / "merged")
    assert merged.missing == 1
    assert any("torn" in warning for warning in merged.warnings)


def test_rounds_of_an_unfinished_cell_are_pointed_out(parts: list[Path], tmp_path: Path) -> None:
    (parts[1] / "rounds-9.jsonl").write_text("{}\n")
    assert any("not done" in warning for warning in merge(parts, tmp_path / "merged").warnings)


DIFFERENT: dict[str, Callable[[dict[str, Any]], object]] = {
    "suite": lambda plan: plan.update(suite="another"),
    "cells": lambda plan: plan["cells"].pop(),
    "protocol": lambda plan: plan["protocol"].update(rounds=99),
    "seed": lambda plan: plan.update(seed=1),
    "prompts": lambda plan: plan["prompts"].update(code="0"),
    "device": lambda plan: plan["device"].update(name="h100"),
    "weights_hash": lambda plan: plan["provenance"].update(weights_hash="0"),
    "source_hash": lambda plan: plan["provenance"].update(source_hash="0"),
}


@pytest.mark.parametrize("key", DIFFERENT)
def test_parts_that_were_asked_something_else_are_refused_by_the_key(
    parts: list[Path], tmp_path: Path, key: str
) -> None:
    change_plan(parts[2], DIFFERENT[key])
    with pytest.raises(NotComparable, match=f": {key} differ"):
        merge(parts, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_machines_may_differ_and_keep_their_model_elsewhere(parts: list[Path], tmp_path: Path) -> None:
    change_plan(parts[2], lambda plan: plan["model"].update(path="elsewhere"))
    change_plan(parts[2], lambda plan: plan["provenance"].update(identity={"cpu": "another"}))
    assert merge(parts, tmp_path / "merged").missing == 0


def test_a_folder_with_other_content_is_refused_and_left_alone(parts: list[Path], tmp_path: Path) -> None:
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "thesis.txt").write_text("mine")
    with pytest.raises(StoreError, match="holds something else"):
        merge(parts, tmp_path / "merged")
    assert [path.name for path in (tmp_path / "merged").iterdir()] == ["thesis.txt"]


def test_a_part_of_a_newer_version_leaves_no_folder(parts: list[Path], tmp_path: Path) -> None:
    (parts[0] / "records-new.jsonl").write_text('{"record_schema": 99}\n')
    with pytest.raises(StoreError, match="newer"):
        merge(parts, tmp_path / "merged")
    assert {path.name for path in tmp_path.iterdir()} == {"machine 1", "machine 2", "machine 3"}


def test_a_part_named_twice_is_refused(parts: list[Path], tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="named twice"):
        merge([parts[0], parts[0]], tmp_path / "merged")


ERRORS = [
    (2, ["merge"], "required"),
    (2, ["merge", "nowhere"], "-o/--output"),
    (2, ["merge", "nowhere", "-o", "merged"], "no run by that name"),
    (2, ["merge", "PART", "PART", "-o", "merged"], "named twice"),
    (2, ["merge", "PART", "-o", "full"], "holds something else"),
    (2, ["merge", "PART", "-o", "/proc/merged"], "cannot be written"),
    (4, ["merge", "PART", "OTHER", "-o", "merged"], "seed differ"),
]


@pytest.mark.parametrize(("code", "words", "message"), ERRORS, ids=[" ".join(e[1]) for e in ERRORS])
def test_an_error_is_one_short_message_with_its_exit_code(
    parts: list[Path], tmp_path: Path, code: int, words: list[str], message: str
) -> None:
    change_plan(parts[1], lambda plan: plan.update(seed=1))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    named = {"PART": str(parts[0]), "OTHER": str(parts[1])}
    done = harness(*(named.get(word, word) for word in words), folder=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert 1 <= len(done.stderr.strip().splitlines()) <= 5
    assert "Traceback" not in done.stderr


def test_help_says_what_merge_takes(tmp_path: Path) -> None:
    done = harness("merge", "--help", folder=tmp_path)
    assert done.returncode == 0
    assert "-o DIR" in done.stdout
