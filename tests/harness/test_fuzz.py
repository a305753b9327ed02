"""Whatever a user or a broken disk feeds us, only the documented errors come out.

CANVASBENCH_FUZZ_CASES=1000 is the full run over overrides; composing one takes tens of milliseconds, so fewer are the
default. The other inputs always get their 1,000.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_store import record

from engine.config import PRESETS, read_config, write_config
from harness.records import store
from harness.records.types import canonical_json, to_json
from harness.spec import data
from harness.spec.check import shard_of
from harness.spec.config import ConfigError
from harness.spec.plan import build
from harness.spec.suite import compose

fuzz = settings(
    max_examples=1000, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from([0, -1, 2, 10**400, "", "sliding_attention", "full_attention", "\ud800", "${seed}"])
)  # fmt: skip
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=6), v, max_size=4))
GARBAGE = st.binary(max_size=60) | VALUES.map(lambda v: json.dumps(v).encode())


def refusal(kind: type[Exception], action: Callable[[], object], otherwise: str = "") -> str:
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


def damaged(document: str) -> st.SearchStrategy[bytes]:
    """The document cut short, or with up to three of its values replaced; or something else altogether."""
    paths = paths_of(json.loads(document))

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

    edits = st.lists(st.tuples(st.sampled_from(paths), VALUES), min_size=1, max_size=3)
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


@settings(fuzz, max_examples=int(os.environ.get("CANVASBENCH_FUZZ_CASES", "200")))
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
