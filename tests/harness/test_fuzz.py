"""Whatever a user or a broken disk feeds us, only the documented errors come out.

CANVASBENCH_FUZZ_CASES=1000 is the full run over overrides and over what a gate reads; one of those takes tens of
milliseconds, so fewer are the default. The other inputs always get their 1,000.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from gate_jobs import Side, write_job
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic import Scenario
from test_store import record
from verdicts import EXAMPLE

from engine.config import PRESETS, read_config, write_config
from harness.analysis import baseline, gate
from harness.analysis import candidate as candidates
from harness.analysis import verdict as verdicts
from harness.analysis.gate import against, samples
from harness.records import store, strict
from harness.records.types import Record, canonical_json, to_json
from harness.report.compared import baseline_text
from harness.report.gate.outputs import OUTPUTS
from harness.report.gate.terminal import terminal_text
from harness.spec import data
from harness.spec.check import shard_of
from harness.spec.config import ConfigError
from harness.spec.plan import build
from harness.spec.suite import compose

fuzz = settings(
    max_examples=1000, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)


def some(by_default: int) -> settings:
    """Of what takes long."""
    return settings(fuzz, max_examples=int(os.environ.get("CANVASBENCH_FUZZ_CASES", by_default)))


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from([0, -1, 2, 10**400, "", "sliding_attention", "full_attention", "\ud800", "${seed}"])
)  # fmt: skip
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=6), v, max_size=4))
GARBAGE = st.binary(max_size=60) | VALUES.map(lambda v: json.dumps(v).encode())


def refusal(
    kind: type[Exception] | tuple[type[Exception], ...], action: Callable[[], object], otherwise: str = ""
) -> str:
    """The message of the one kind of error that may come out."""
    try:
        action()
    except kind as error:
        return str(error)
    return otherwise


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where every value of a JSON document is."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for key, inside in items for p in paths_of(inside, (*path, key)))]


def value_at(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


def damaged(document: str) -> st.SearchStrategy[bytes]:
    """The document cut short, or with up to three of its values replaced, also by others of its own; or something else
    altogether.
    """
    paths = paths_of(json.loads(document))
    own = st.sampled_from(paths).map(lambda path: value_at(json.loads(document), path))

    def replaced(changes: list[tuple[tuple[Any, ...], Any]]) -> bytes:
        root = {"": json.loads(document)}
        for path, value in changes:
            inside: Any = root
            try:
                for key in ("", *path)[:-1]:
                    inside = inside[key]
                inside[("", *path)[-1]] = value
            except (KeyError, IndexError, TypeError):  # an earlier change took it away
                continue
        return json.dumps(root[""]).encode()

    edits = st.lists(st.tuples(st.sampled_from(paths), VALUES | own), min_size=1, max_size=3)
    return st.integers(0, len(document)).map(lambda n: document[:n].encode()) | edits.map(replaced) | GARBAGE


KEYS = st.sampled_from(
    ["suite", "device", "model", "protocol", "axes", "axes.batch_size", "axes.num_steps", "axes.stopping",
     "axes.prompt_tokens", "axes.weight_dtype", "seed", "eos", "shard", "exclude", "options", "options.x",
     "axes.decoding", "protocol.rounds", "device.kind", "protocol.load_timeout_s", "model.path", "device.flops_s",
     "results_dir", "device.memory_bytes.value", "hydra", "hydra.run.dir", "defaults", "_target_", "typo"]
)  # fmt: skip
WORDS = st.builds(
    "{}{}={}".format,
    st.sampled_from(["", "", "", "+", "++", "~"]),
    KEYS | st.text(max_size=6),
    VALUES.map(json.dumps) | st.text(max_size=12) | st.integers(1, 64).map("[{}]".format) | st.just("[" * 2000),
)
AXES = st.sampled_from(["batch_size", "num_steps", "block_length", "prompt_tokens", "output_tokens", "prompt_set"])
NEARLY = st.builds("axes.{}={}".format, AXES, st.lists(st.integers(-1, 2000) | SCALARS, max_size=2).map(json.dumps))


@some(200)
@given(words=st.lists(NEARLY | WORDS | st.text(max_size=12), min_size=1, max_size=2))
def test_overrides_give_a_plan_or_a_config_error(words: list[str]) -> None:
    message = refusal(ConfigError, lambda: build(compose(words, config_dir=None, backends=["reference", "fake"])))
    assert len(message.splitlines()) <= 5


@fuzz
@given(text=st.text(max_size=12) | st.from_regex(r"-?[0-9]+/[0-9]+"))
def test_a_shard_is_a_share_or_a_config_error(text: str) -> None:
    try:
        i, n = shard_of(text)
    except ConfigError:
        return
    assert 1 <= i <= n


@fuzz
@given(line=damaged(canonical_json(to_json(record()))))
def test_a_record_line_is_read_or_skipped_and_named(line: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "records-fuzz.jsonl").write_bytes(line)
    try:
        found = store.read_records(folder)
    except store.NewerSchemaError:
        return
    assert found.final is not None
    assert len(found.records) + len(found.warnings) == sum(bool(part.strip()) for part in line.split(b"\n"))


@fuzz
@given(content=damaged('{"id": "a", "text": "b"}'), more=GARBAGE)
def test_a_prompt_file_is_read_or_a_config_error(
    content: bytes, more: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "prompts" / "own.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content + b"\n" + more)
    assert "own.jsonl" in refusal(ConfigError, lambda: data.load_prompts("own", str(path.parent.parent)), "own.jsonl")


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_a_models_config_is_read_or_a_value_error(tmp_path: Path, name: str) -> None:
    write_config(PRESETS["tiny"], "float32", tmp_path)

    @fuzz
    @given(content=damaged((tmp_path / name).read_text()))
    def read(content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        assert str(tmp_path) in refusal(ValueError, lambda: read_config(tmp_path), str(tmp_path))

    read()


REFUSALS = (store.StoreError, ConfigError)
TODAY = date(2026, 6, 1)
SMALL = Scenario(observed=True, axes={"batch_size": [1], "block_length": [256], "num_steps": [8]})
STORED = ["plan.json", "records", "environment"]  # of a launch's folder, by how the name begins


def counting(operations: int) -> Side:
    """Every cell with so many operations and passes."""

    def change(found: Record) -> Record:
        rounds = tuple(replace(one, passes={"denoise": operations}) for one in found.rounds)
        return replace(found, rounds=rounds, counters={**found.counters, "torch_operations": operations})

    return Side(scenario=SMALL, change=change)


@pytest.fixture(scope="module")
def red_job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Head is worse in two counters of every cell in every launch: no three values hide that."""
    return write_job(tmp_path_factory.mktemp("red") / "job", counting(100), counting(110))


def not_green(judge: Callable[[], verdicts.Verdict]) -> None:
    """The judge refuses with one message, or its verdict is no green one."""
    found: list[verdicts.Verdict] = []
    message = refusal(REFUSALS, lambda: found.append(judge()))
    assert len(message.splitlines()) <= 5
    for one in found:
        assert not one.headline.startswith("GREEN"), one.headline
        assert verdicts.from_json(json.loads(verdicts.to_json(one))) == one, "it can be read again"
        assert terminal_text(one)


@pytest.mark.parametrize("name", ["job.json", *STORED])
def test_a_damaged_job_is_refused_or_no_green_verdict(red_job: Path, name: str) -> None:
    folder = red_job if name == "job.json" else red_job / "head" / "screen-00"
    (path,) = folder.glob(f"{name}*")
    whole = path.read_bytes()
    first, newline, rest = whole.partition(b"\n") if name == "records" else (whole, b"", b"")

    @some(15)
    @given(content=damaged(first.decode()))
    def judge(content: bytes) -> None:
        path.write_bytes(content + newline + rest)
        not_green(lambda: gate.judge(red_job))

    try:
        judge()
    finally:
        path.write_bytes(whole)


@pytest.fixture(scope="module")
def approved(red_job: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What base has, approved."""
    of_base = red_job / "base" / "screen-00"
    offered = candidates.candidate_of(samples.of_run(of_base), "a")
    folder = tmp_path_factory.mktemp("baselines")
    return baseline.approve(folder, offered, cells=(), reason="x", until=None, today=TODAY)[0]


def test_a_damaged_baseline_is_refused_or_no_green_verdict(red_job: Path, approved: Path) -> None:
    whole, head = approved.read_bytes(), samples.of_run(red_job / "head" / "screen-00")

    def judge() -> verdicts.Verdict:
        found = baseline.read(approved)
        assert baseline_text("x", found, TODAY)
        return against.judge(head, found, today=TODAY)

    @some(50)
    @given(content=damaged(whole.decode()))
    def judged(content: bytes) -> None:
        approved.write_bytes(content)
        not_green(judge)

    try:
        judged()
    finally:
        approved.write_bytes(whole)


def test_a_damaged_candidate_is_refused_or_gives_a_baseline_that_can_be_read(red_job: Path, tmp_path: Path) -> None:
    offered = candidates.candidate_of(samples.of_run(red_job / "base" / "screen-00"), "a")
    path = tmp_path / "candidate.json"

    @some(50)
    @given(content=damaged(json.dumps(strict.plain(offered))))
    def approve(content: bytes) -> None:
        shutil.rmtree(tmp_path / "baselines", ignore_errors=True)
        path.write_bytes(content)
        kinds = (*REFUSALS, baseline.NothingToApprove)
        words: dict[str, Any] = {"cells": (), "reason": "x", "until": "2026-07-01", "today": TODAY}
        if not refusal(kinds, lambda: baseline.approve(tmp_path / "baselines", candidates.read(path), **words)):
            (written,) = tmp_path.glob("baselines/*/*.json")
            assert baseline.read(written).values

    approve()


@some(50)
@given(content=damaged(EXAMPLE.read_text(encoding="utf-8")))
def test_a_damaged_verdict_is_refused_or_as_red_as_it_was(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "verdict.json"
    path.write_bytes(content)
    found: list[verdicts.Verdict] = []
    refusal(store.StoreError, lambda: found.append(verdicts.read(path)))
    for one in found:
        assert (one.exit_code, one.headline.partition(":")[0]) == (3, "RED")
        for text_of in OUTPUTS.values():
            assert text_of(one).encode()
