"""Approved values: small, reviewable, ended by a date, and refused where they are damaged."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.analysis import baseline
from harness.analysis import candidate as candidates
from harness.analysis.baseline import changes
from harness.analysis.candidate import Candidate, Value
from harness.records import strict
from harness.records.locked import locked
from harness.records.store import NewerSchemaError, StoreError
from harness.spec.config import ConfigError

TODAY = date(2026, 6, 1)
IDENTITY = {"gpu": {"name": "Made-up GPU"}, "num_gpus": 1, "cpu": "made-up"}


def value(label: str = "BD", *, rule: str = "passes", of: float = 100.0, test: Any = "exact", **changes: Any) -> Value:
    plain = Value(
        cell_id=label.lower(),
        label=label,
        rule=rule,
        metric="passes",
        test=test,
        value=of,
        low=None,
        high=None,
        num_launches=1,
        worsening=None,
    )
    return replace(plain, **changes)


def candidate(*values: Value, run_id: str = "a") -> Candidate:
    return Candidate(
        candidate_schema=3,
        suite="made_up",
        identity=IDENTITY,
        stack={"packages": {"torch": "2.13.0"}},
        question={"seed": "0"},
        run_id=run_id,
        records_sha256="0" * 64,
        values=values or (value(), value("AR")),
    )


def approve(folder: Path, offered: Candidate, **changes: Any) -> tuple[Path, list[baseline.Change]]:
    words: dict[str, Any] = {"cells": (), "reason": "why not", "until": None, "today": TODAY, **changes}
    return baseline.approve(folder, offered, **words)


def expire(path: Path, **words: Any) -> list[baseline.Change]:
    return baseline.expire([path], **words)[path]


def test_what_is_approved_is_read_again(tmp_path: Path) -> None:
    path, changes = approve(tmp_path, candidate())
    assert path == tmp_path / baseline.folder_of(IDENTITY) / "made_up.json"
    found = baseline.read(path)
    assert [one.value for one in found.values] == sorted(candidate().values, key=lambda one: one.label)
    assert [(one.old, one.new) for one in changes] == [(None, 100.0)] * 2


def test_a_diff_shows_the_lines_of_the_cells_that_changed(tmp_path: Path) -> None:
    path, _ = approve(tmp_path, candidate())
    before = path.read_text().splitlines()
    approve(tmp_path, candidate(value("BD", of=90.0), run_id="b"))
    after = path.read_text().splitlines()
    gone, come = set(before) - set(after), set(after) - set(before)
    assert len([line for line in gone if '"label"' in line]) == 1
    assert len([line for line in come if '"label"' in line]) == 1


def test_only_the_named_cells_are_approved(tmp_path: Path) -> None:
    path, _ = approve(tmp_path, candidate(), cells=["BD"])
    assert [one.value.label for one in baseline.read(path).values] == ["BD"]


CELLS = ["AR b1 mix", "AR b16 mix", "BD L32 b1 mix", "BD L32 b16 mix"]


def labelled(number: int) -> Value:
    return value(CELLS[number], cell_id=f"{number}0a1b2c3d4e5f607")


@pytest.mark.parametrize(
    ("cells", "taken"),
    [
        (["b1"], [0, 2]),
        (["b1", "b16"], [0, 1, 2, 3]),
        (["BD b1"], [2]),
        (["b1  BD"], [2]),
        (["AR b16 mix"], [1]),
        (["30a1b2c3d4e5f607"], [3]),
        (["30a1b2c3"], [3]),
    ],
)
def test_a_cell_is_named_by_its_id_or_by_whole_words_of_its_label(
    tmp_path: Path, cells: list[str], taken: list[int]
) -> None:
    path, _ = approve(tmp_path, candidate(*map(labelled, range(4))), cells=cells)
    assert [one.value.label for one in baseline.read(path).values] == [CELLS[number] for number in taken]


@pytest.mark.parametrize("name", ["", " ", "b", "B1", "1", "BD L3", "30a1b2c", "b1 b16", "*"])
@pytest.mark.parametrize("others", [[], ["b1"]])
def test_a_name_that_is_empty_or_names_no_cell_is_refused_and_changes_nothing(
    tmp_path: Path, name: str, others: list[str]
) -> None:
    path, _ = approve(tmp_path, candidate(*map(labelled, range(4))))
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="--cells"):
        approve(tmp_path, candidate(*map(labelled, range(4))), cells=[*others, name])
    with pytest.raises(ConfigError, match="--cells"):
        expire(path, cells=[*others, name], today=TODAY)
    assert path.read_bytes() == before


def test_a_rule_that_is_one_of_another_metric_now_is_no_worsening(tmp_path: Path) -> None:
    approve(tmp_path, candidate(value(of=1.0)))
    _, (change,) = approve(tmp_path, candidate(value(of=2.0, metric="torch_bytes")))
    assert (change.old, change.unit) == (None, "bytes")


def test_what_is_better_needs_no_end(tmp_path: Path) -> None:
    approve(tmp_path, candidate())
    path, changes = approve(tmp_path, candidate(value(of=90.0)))
    assert [one.worsening for one in changes] == [None]
    assert baseline.read(path).accepted(TODAY) == {}


def test_what_is_worse_needs_an_end_and_is_accepted_until_then(tmp_path: Path) -> None:
    approve(tmp_path, candidate())
    with pytest.raises(ConfigError, match="worse"):
        approve(tmp_path, candidate(value(of=110.0)))
    path, _ = approve(tmp_path, candidate(value(of=110.0)), until="2026-07-01")
    found = baseline.read(path)
    assert found.accepted(date(2026, 7, 1))["bd", "passes"].up_to == pytest.approx(0.1)
    assert found.accepted(date(2026, 7, 2)) == {}


def test_an_issue_has_no_date_and_ends_when_somebody_says_so(tmp_path: Path) -> None:
    approve(tmp_path, candidate())
    path, _ = approve(tmp_path, candidate(value(of=110.0)), until="https://example.org/issues/1")
    assert baseline.read(path).accepted(date(2999, 1, 1))
    assert expire(path, cells=(), today=date(2999, 1, 1)) == []
    assert len(expire(path, cells=["BD"], today=TODAY)) == 1
    assert baseline.read(path).accepted(TODAY) == {}


def test_expire_ends_what_is_over_and_keeps_every_value(tmp_path: Path) -> None:
    approve(tmp_path, candidate())
    path, _ = approve(tmp_path, candidate(value(of=110.0)), until="2026-07-01")
    before = [one.value.value for one in baseline.read(path).values]
    assert expire(path, cells=(), today=date(2026, 6, 30)) == []
    assert len(expire(path, cells=(), today=date(2026, 7, 2))) == 1
    assert [one.value.value for one in baseline.read(path).values] == before


@pytest.mark.parametrize("until", ["", " ", "2026-05-31", "20260701", "2026-02-30", "https://", "https://a b"])
def test_an_end_that_is_over_or_none_is_refused(tmp_path: Path, until: str) -> None:
    path, _ = approve(tmp_path, candidate())
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="--until"):
        approve(tmp_path, candidate(value(of=110.0)), until=until)
    assert path.read_bytes() == before


@pytest.mark.parametrize(("better", "old", "new"), [("higher", 1.0, 0.0), ("lower", 0.0, 1.0)])
def test_from_or_to_nothing_is_a_worsening_too(tmp_path: Path, better: str, old: float, new: float) -> None:
    unit = {"rule": "steps", "metric": "passes"} if better == "lower" else {"rule": "quality", "metric": "exact_match"}
    approve(tmp_path, candidate(value(of=old, test="random", **unit)))
    with pytest.raises(ConfigError, match="--until"):
        approve(tmp_path, candidate(value(of=new, test="random", **unit)))


def test_what_is_accepted_stays_so_when_it_is_approved_again_and_ends_when_it_recovers(tmp_path: Path) -> None:
    def accepted(of: float, **changes: Any) -> tuple[float, str, str] | None:
        path, _ = approve(tmp_path, candidate(value(of=of)), **changes)
        one = baseline.read(path).accepted(TODAY).get(("bd", "passes"))
        return None if one is None else (round(one.up_to, 9), one.reason, one.until)

    assert accepted(100.0) is None
    assert accepted(120.0, until="2026-07-01", reason="a new sampler") == (0.2, "a new sampler", "2026-07-01")
    assert accepted(120.0) == (0.2, "a new sampler", "2026-07-01")
    assert accepted(110.0) == (0.1, "a new sampler", "2026-07-01"), "it recovered in part"
    assert accepted(121.0, until="2026-08-01") == (0.21, "why not", "2026-08-01"), "of the value before any acceptance"
    assert accepted(121.0, today=date(2026, 8, 2)) is None, "its end is over"
    assert accepted(133.1, until="2026-08-01") == (0.1, "why not", "2026-08-01")
    assert accepted(120.0) is None, "it recovered"


def test_a_time_of_another_job_is_called_neither_worse_nor_better(tmp_path: Path) -> None:
    approve(tmp_path, candidate(value(test="time", of=1.0)))
    _, changes = approve(tmp_path, candidate(value(test="time", of=2.0)))
    assert [one.worsening for one in changes] == [None]


def test_a_job_says_how_much_worse_a_time_has_become(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--until"):
        approve(tmp_path, candidate(value(test="time", worsening=0.08)))


def test_approvals_of_two_processes_at_once_are_both_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has read the file before the other one writes it, unless it waits."""
    write, fork = changes._write, multiprocessing.get_context("fork")

    def write_late(*words: Any) -> None:
        time.sleep(0.1)
        write(*words)

    monkeypatch.setattr(changes, "_write", write_late)
    begin = fork.Barrier(2)

    def approve_one(name: str) -> None:
        begin.wait(10)
        approve(tmp_path, candidate(value(name), run_id=name))

    both = [fork.Process(target=approve_one, args=(name,)) for name in ("a", "b")]
    for process in both:
        process.start()
    for process in both:
        process.join(20)
    assert [process.exitcode for process in both] == [0, 0]
    (path,) = tmp_path.glob("*/*")
    found = baseline.read(path)
    assert sorted(one.run_id for one in found.approvals) == ["a", "b"]
    assert found.num_cells == 2


def test_a_baseline_that_another_process_changes_is_waited_for_and_then_refused(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(StoreError, match="another process"), locked(tmp_path, wait_s=0.1):
        pass
    with locked(tmp_path, wait_s=0):
        assert list(tmp_path.iterdir()) == [], "the lock leaves no file"


def test_approvals_that_no_value_needs_are_dropped(tmp_path: Path) -> None:
    approve(tmp_path, candidate(run_id="a"))
    path, _ = approve(tmp_path, candidate(run_id="b"))
    assert [one.run_id for one in baseline.read(path).approvals] == ["b"]


def test_machines_of_one_name_have_folders_of_their_own() -> None:
    other = {**IDENTITY, "cpu": "another"}
    assert baseline.folder_of(IDENTITY) != baseline.folder_of(other)
    assert baseline.folder_of(IDENTITY).startswith("made-up-gpu-")


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "", ".hidden", "a\nb"])
def test_a_suites_name_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError):
        baseline.path_of(tmp_path, IDENTITY, name)


def damaged(change: Callable[[dict[str, Any]], Any]) -> Callable[[str], str]:
    def apply(text: str) -> str:
        document = json.loads(text)
        return json.dumps(change(document) or document)

    return apply


def of_value(**changes: Any) -> dict[str, Any]:
    return {"values.0.value": changes}


def of_approval(**changes: Any) -> dict[str, Any]:
    return {"approvals.0": changes}


# What stands where -> in place of what an approval writes. Values of a candidate are read by the same class.
CONTRADICTIONS: dict[str, dict[str, Any]] = {
    "a metric that is none": of_value(metric="useful_tok"),
    "a unit that the registry does not know": of_value(unit="miles"),
    "another direction than the metric's": of_value(better="higher"),
    "a test that is none": of_value(test="always"),
    "a negative counter": of_value(value=-1.0),
    "a number that no ratio holds": of_value(value=1e200),
    "an interval beside its value": of_value(low=101.0, high=102.0),
    "an interval upside down": of_value(low=101.0, high=99.0),
    "no launch": of_value(num_launches=0),
    "more launches than there can be": of_value(num_launches=10**9),
    "a negative worsening": of_value(worsening=-0.5),
    "an absurd worsening": of_value(worsening=1e9),
    "no label": of_value(label=" "),
    "the number 0": of_approval(number=0),
    "an endless number": of_approval(number=10**18),
    "no reason": of_approval(reason="\n"),
    "records without a hash": of_approval(records_sha256="0" * 63 + "g"),
    "a day that is none": of_approval(approved_on="2026-02-30"),
    "a day before there were approvals": of_approval(approved_on="0001-01-01"),
    "an end in another age": of_approval(until="9999-12-31"),
    "an end before its beginning": of_approval(until="2026-05-31"),
    "an endless address": of_approval(until="https://a/" + "b" * 500),
    "levels without end": of_approval(stack=json.loads('{"a": ' * 40 + "1" + "}" * 40)),
}


def with_changes(changes: dict[str, Any]) -> Callable[[str], str]:
    def apply(document: dict[str, Any]) -> None:
        for path, fields in changes.items():
            inside: Any = document
            for key in path.split("."):
                inside = inside[int(key) if key.isdigit() else key]
            inside.update(fields)

    return damaged(apply)


DAMAGES: dict[str, Callable[[str], str]] = {
    **{name: with_changes(changes) for name, changes in CONTRADICTIONS.items()},
    "an approval twice": damaged(lambda doc: doc["approvals"].append(doc["approvals"][0])),
    "a key twice": lambda text: text.replace('"reason":', '"reason": "seen", "reason":', 1),
    "empty": lambda text: "",
    "half of it": lambda text: text[: len(text) // 2],
    "no JSON": lambda text: "<html>",
    "a list": lambda text: "[]",
    "NaN": lambda text: text.replace("100.0", "NaN"),
    "infinite": lambda text: text.replace("100.0", "1e999"),
    "endless integer": lambda text: text.replace("100.0", "9" * 5000),
    "deep": lambda text: "[" * 100_000,
    "not UTF-8": lambda text: text.replace("BD", "\udcff"),
    "no schema": damaged(lambda doc: doc.pop("baseline_schema") and None),
    "schema as text": damaged(lambda doc: doc.update(baseline_schema="1")),
    "a field more": damaged(lambda doc: doc.update(more=1)),
    "a field less": damaged(lambda doc: doc.pop("approvals") and None),
    "a value as text": damaged(lambda doc: doc["values"][0]["value"].update(value="100")),
    "a flag for a number": damaged(lambda doc: doc["values"][0]["value"].update(value=True)),
    "an unknown field of a value": damaged(lambda doc: doc["values"][0]["value"].update(extra=1)),
    "a cell twice": damaged(lambda doc: doc["values"].append(doc["values"][0])),
    "an approval that is not there": damaged(lambda doc: doc["values"][0].update(approval=9)),
    "an end that is none": damaged(lambda doc: doc["approvals"][0].update(until="never")),
    "another suite's": damaged(lambda doc: doc.update(suite="other")),
    "another machine's": damaged(lambda doc: doc.update(identity={})),
}


@pytest.mark.parametrize("name", sorted(DAMAGES))
def test_a_damaged_baseline_is_refused_with_one_message(tmp_path: Path, name: str) -> None:
    path, _ = approve(tmp_path, candidate())
    text = DAMAGES[name](path.read_text())
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(StoreError) as refused:
        baseline.read(path)
    assert str(path) in str(refused.value)
    assert len(str(refused.value).splitlines()) <= 5
    assert len(str(refused.value)) < 600 + len(str(path))
    with pytest.raises((StoreError, ConfigError)):
        approve(tmp_path, candidate())
    assert path.read_bytes() == text.encode("utf-8", "surrogateescape"), "a refused file is left as it is"


@pytest.mark.parametrize("name", [name for name, where in CONTRADICTIONS.items() if "values.0.value" in where])
def test_a_candidates_values_are_read_as_strictly(tmp_path: Path, name: str) -> None:
    document = strict.plain(candidate())
    document["values"][0].update(CONTRADICTIONS[name]["values.0.value"])
    (tmp_path / "artifact.json").write_text(json.dumps(document))
    with pytest.raises(StoreError, match=r"is damaged: values\[0\]"):
        candidates.read(tmp_path / "artifact.json")


def test_a_candidate_with_two_values_of_one_rule_is_refused(tmp_path: Path) -> None:
    document = strict.plain(candidate())
    (tmp_path / "artifact.json").write_text(json.dumps({**document, "values": document["values"] * 2}))
    with pytest.raises(StoreError, match="a cell has a rule twice"):
        candidates.read(tmp_path / "artifact.json")


def test_a_newer_baseline_asks_for_an_upgrade(tmp_path: Path) -> None:
    path, _ = approve(tmp_path, candidate())
    path.write_text(path.read_text().replace('"baseline_schema": 3', '"baseline_schema": 4'))
    with pytest.raises(NewerSchemaError, match="upgrade"):
        baseline.read(path)


@pytest.mark.parametrize("schema", [1, 2])
def test_an_older_baseline_asks_to_be_approved_again(tmp_path: Path, schema: int) -> None:
    path, _ = approve(tmp_path, candidate())
    document = json.loads(path.read_text())
    del document["values"][0]["value"]["metric"]
    path.write_text(json.dumps({**document, "baseline_schema": schema}))
    with pytest.raises(StoreError, match="approve a run again"):
        baseline.read(path)


def test_a_file_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    path, _ = approve(tmp_path, candidate())
    with path.open("r+b") as file:
        file.truncate(2**32)  # a hole: it takes no room
    with pytest.raises(StoreError, match="larger"):
        baseline.read(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=200)
@given(key=st.sampled_from(["suite", "identity", "approvals", "values"]), content=JSON)
def test_whatever_stands_in_a_field_is_either_read_or_refused(key: str, content: Any) -> None:
    document = {"baseline_schema": 3, "suite": "x", "identity": {}, "approvals": [], "values": [], key: content}
    refused = ""
    try:
        assert strict.plain(strict.build(baseline.Baseline, document)) == document
    except strict.Unfit as error:
        refused = str(error)
    assert len(refused) < 400
