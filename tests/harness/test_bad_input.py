"""Bad input of every kind, as a user meets it: one clear message, the stated exit code, nothing lost."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from apart import ENVIRONMENT, ROOT
from safetensors.torch import load_file, save_file

from engine import api, tokenizer, weights
from engine.config import ModelConfig
from harness import cli
from harness.records.types import RECORD_SCHEMA

ONE_PAIR = (
    "axes.batch_size=[1]", "axes.block_length=[16]", "axes.num_steps=[1]", "axes.prompt_tokens=[8]",
    "axes.output_tokens=[16]", "protocol.rounds=1", "protocol.warmup_rounds=0", "protocol.counters=false",
)  # fmt: skip
FAKE = (*ONE_PAIR, "backend=fake", "reports_dir=null")
SHAPE = ModelConfig(
    hidden_size=32, intermediate_size=32, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=16, global_num_kv_heads=1,
    global_head_dim=16, sliding_window=16, num_experts=2, top_k_experts=1, moe_intermediate_size=16, vocab_size=300,
    canvas_length=16, max_position_embeddings=256,
)  # fmt: skip
NORM = "model.decoder.norm.weight"


def harness(*words: str, folder: Path, **env: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "harness", *words]
    return subprocess.run(command, capture_output=True, cwd=folder, env=ENVIRONMENT | env, timeout=300)


def records(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("records-*.jsonl")}


def refused(folder: Path, code: int, message: str, *words: str, **env: str) -> None:
    """The command ends with this code and one short message, and every record from before is as it was."""
    before = records(folder)
    done = harness(*words, folder=folder, **env)
    stderr = done.stderr.decode()
    assert done.returncode == code, stderr
    assert message in stderr
    assert 1 <= len(stderr.strip().splitlines()) <= 5, stderr
    assert "Traceback" not in stderr
    assert "this is a bug" not in stderr
    assert done.stdout == b""
    assert before.items() <= records(folder).items()


def works(folder: Path, *words: str, **env: str) -> str:
    """The command measures and reports without a word about an error; what it says."""
    done = harness(*words, folder=folder, **env)
    stderr = done.stderr.decode(errors="replace")
    assert done.returncode == 0, stderr
    assert "error" not in stderr
    return stderr + done.stdout.decode(errors="replace")


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a run has ended well, to be copied."""
    folder = tmp_path_factory.mktemp("untouched")
    works(folder, "run", *FAKE)
    assert records(folder)
    return folder


@pytest.fixture(scope="module")
def measured(untouched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, in which other runs may fail."""
    return shutil.copytree(untouched, tmp_path_factory.mktemp("measured"), dirs_exist_ok=True)


WORDS = {
    "key": (2, "nearest valid: batch_size", ["axes.batchsize=[1]"]),
    "top-level key": (2, "nearest valid: retry_failed", ["retry_faild=true"]),
    "new key": (2, "unknown key 'typo'", ["+typo=1"]),
    "value": (2, "nearest valid: fixed", ["axes.stopping=[fixd]"]),
    "suite": (2, "nearest valid: smoke", ["suite=smok"]),
    "device": (2, "nearest valid: h100", ["device=h10"]),
    "model": (2, "nearest valid: mini", ["model=minni"]),
    "protocol": (2, "nearest valid: quick", ["protocol=quik"]),
    "empty axis": (2, "no cell", ["axes.batch_size=[]"]),
    "everything excluded": (4, "all cells are skipped", ["exclude=[{batch_size: [1, 4, 16]}]"]),
    "negative": (2, "from 1 to", ["axes.batch_size=[-1]"]),
    "huge": (2, "from 1 to", ["axes.num_steps=[1000000000]"]),
    "beyond 64 bits": (2, "from 1 to", ["axes.prompt_tokens=[99999999999999999999999]"]),
    "huge digits": (2, "axes.batch_size", [f"axes.batch_size=[{'9' * 5000}]"]),
    "not whole": (2, "axes.batch_size", ["axes.batch_size=[1.5]"]),
    "not a number": (2, "axes.batch_size", ["axes.batch_size=[nan]"]),
    "list in a list": (2, "axes.batch_size", ["axes.batch_size=[[1]]"]),
    "null": (2, "axes.batch_size", ["axes.batch_size=[null]"]),
    "null list": (2, "axes.batch_size", ["axes.batch_size=null"]),
    "negative timeout": (2, "protocol.request_timeout_s", ["protocol.request_timeout_s=-1"]),
    "timeout that is no number": (2, "protocol.request_timeout_s", ["protocol.request_timeout_s=nan"]),
    "interpolation": (2, "seed", ["seed=${nowhere}"]),
    "block length over the largest": (2, "from 1 to 1024", ["axes.block_length=[1025]"]),
    "block length over the context": (4, "positions", ["axes.prompt_tokens=[8190]", "axes.block_length=[1024]"]),
    "no CUDA device": (4, "no GPU", ["suite=h100"]),
    "no checkpoint": (2, "nowhere", ["model.path=nowhere"]),
}


@pytest.mark.parametrize(("code", "message", "words"), WORDS.values(), ids=WORDS)
def test_a_wrong_word_is_refused(measured: Path, code: int, message: str, words: list[str]) -> None:
    refused(measured, code, message, "run", *words)


def _no(name: str) -> Callable[[Path], Any]:
    return lambda directory: (directory / name).unlink()


def _with(name: str, text: str) -> Callable[[Path], Any]:
    return lambda directory: (directory / name).write_text(text)


def _tensor(name: str, value: torch.Tensor) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        path = directory / "model.safetensors"
        save_file(load_file(path) | {name: value}, path)

    return damage


def _truncate(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _pickle_only(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def _ids_beyond_vocabulary(directory: Path) -> None:
    path = directory / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["model"]["vocab"] = {t: i + 1000 * (i > 3) for t, i in content["model"]["vocab"].items()}
    path.write_text(json.dumps(content))


def _no_token_known(directory: Path) -> None:
    path = directory / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["model"]["vocab"] = {t: i for t, i in content["model"]["vocab"].items() if i < 4}
    path.write_text(json.dumps(content))
    for name in ("config.json", "generation_config.json"):
        (directory / name).write_text(
            (directory / name).read_text().replace('"bos_token_id": 2', '"bos_token_id": null')
        )


# One of each way in which a run learns of it; the other damages are in tests/engine/test_broken_directories.py.
CHECKPOINTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no tokenizer": (_no("tokenizer.json"), "has no tokenizer.json"),
    "truncated": (_truncate, "model.safetensors"),
    "empty weights": (_with("model.safetensors", ""), "model.safetensors"),
    "wrong shape": (_tensor(NORM, torch.ones(31)), "shape (31,), expected (32,)"),
    "another architecture": (_with("config.json", '{"model_type": "llama"}'), "model_type is 'llama'"),
    "pickle": (_pickle_only, "pytorch_model.bin is a pickle, which is never read"),
    "ids beyond the vocabulary": (_ids_beyond_vocabulary, "does not fit"),
    "no token known": (_no_token_known, "does not fit"),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = weights.random_model(SHAPE, torch.device("cpu"), torch.float32, 0)
    model.tokenizer = tokenizer.byte_level()
    api.save(model, directory := tmp_path_factory.mktemp("checkpoint"))
    return directory


@pytest.mark.parametrize(("damage", "message"), CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_a_checkpoint_that_cannot_be_used_is_refused(
    measured: Path, checkpoint: Path, tmp_path: Path, damage: Callable[[Path], Any], message: str
) -> None:
    shutil.copytree(checkpoint, tmp_path / "model")
    damage(tmp_path / "model")
    refused(measured, 2, message, "run", *ONE_PAIR, f"model.path={tmp_path / 'model'}")


PROMPTS = {
    "broken JSON": (2, "own.jsonl:2: is not JSON", '{"id": "a", "text": "b"}\n{"id": \n'),
    "not UTF-8": (2, "cannot be read as UTF-8", b'{"text": "\xff"}\n'),
    "a misspelt key": (
        2,
        "'patern' is not one of id, text, category, answer, pattern; nearest valid: pattern",
        '{"text": "b", "patern": "c"}\n',
    ),
    "no prompt": (2, "holds no prompt", "\n"),
    "too few": (4, "needs more than the 1 prompts of own", '{"id": "a", "text": "b"}\n'),
}


@pytest.mark.parametrize(("code", "message", "content"), PROMPTS.values(), ids=PROMPTS)
def test_a_prompt_file_that_cannot_be_used_is_refused(
    measured: Path, tmp_path: Path, code: int, message: str, content: str | bytes
) -> None:
    path = tmp_path / "prompts" / "own.jsonl"
    path.parent.mkdir()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    words = ("axes.prompt_set=[own]", "axes.batch_size=[2]", "--config-dir", str(tmp_path))
    refused(measured, code, message, "run", *FAKE[1:], *words)


@contextlib.contextmanager
def tmpfs(folder: Path, options: str) -> Iterator[Path]:
    """A file system of its own on the folder."""
    folder.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]).returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_results_that_cannot_be_a_folder_are_refused(measured: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(measured, 2, "cannot be written", "run", *FAKE, f"results_dir={tmp_path / 'file'}")


def test_read_only_results_are_refused(measured: Path, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "results", "ro") as results:
        refused(measured, 2, "Read-only file system", "run", *FAKE, f"results_dir={results}")


def test_a_disk_that_is_full_at_the_start_is_refused(measured: Path, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "results", "size=4k") as results:
        refused(measured, 2, "No space left", "run", *FAKE, f"results_dir={results}")


def test_a_disk_that_fills_up_leaves_whole_records_and_the_same_command_goes_on(tmp_path: Path) -> None:
    words = ("run", *FAKE, "-q", "axes.batch_size=[1,2,4,8]", "protocol.rounds=40")
    with tmpfs(tmp_path / "results", "size=192k") as results:
        refused(tmp_path, 3, "No space left", *words)
        kept = records(tmp_path)
        subprocess.run(["mount", "-o", "remount,size=4m", str(results)], check=True)
        works(tmp_path, *words)
        assert kept.items() <= records(tmp_path).items()


def _append(folder: Path, line: str) -> None:
    (path,) = records(folder)
    path.write_bytes(path.read_bytes() + line.encode())


def test_torn_and_foreign_record_lines_are_named_and_skipped(untouched: Path, tmp_path: Path) -> None:
    shutil.copytree(untouched, tmp_path, dirs_exist_ok=True)
    lines = ['{"not": "ours"}', "\x00\x00\x00", '{"record_schema": 1, "cel']
    _append(tmp_path, "\n".join(lines))
    before = records(tmp_path)
    works(tmp_path, "run", *FAKE)
    assert records(tmp_path) == before
    assert works(tmp_path, "report", "smoke", "--json").count("skipped a torn or foreign line") == len(lines)


@pytest.mark.parametrize("verb", [("run", *FAKE), ("report", "smoke")], ids=["run", "report"])
def test_a_record_of_a_newer_version_is_refused(untouched: Path, tmp_path: Path, verb: tuple[str, ...]) -> None:
    shutil.copytree(untouched, tmp_path, dirs_exist_ok=True)
    _append(tmp_path, f'{{"record_schema": {RECORD_SCHEMA + 1}}}\n')
    refused(tmp_path, 2, "upgrade canvasbench", *verb)


@pytest.fixture
def gpu_named(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """An environment in which NVML sees one GPU of this name."""

    def stub(name: str) -> dict[str, str]:
        lines = ("class NVMLError(Exception): ...", "NVMLError_NotSupported = NVMLError_FunctionNotFound = NVMLError",
                 "nvmlInit = nvmlShutdown = lambda: None",
                 "nvmlDeviceGetCount = lambda: 1", "nvmlDeviceGetHandleByIndex = lambda index: index",
                 f"nvmlDeviceGetName = lambda handle: {name!r}")  # fmt: skip
        (tmp_path / "stub").mkdir()
        (tmp_path / "stub" / "pynvml.py").write_text("\n".join(lines))
        return {"PYTHONPATH": f"{tmp_path / 'stub'}:{ROOT}"}

    return stub


def test_the_wrong_gpu_is_refused_with_the_device_that_fits(
    measured: Path, gpu_named: Callable[[str], dict[str, str]]
) -> None:
    refused(measured, 4, "add device=h200", "run", "suite=h100", **gpu_named("NVIDIA H200"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a GPU here")
def test_a_gpu_that_torch_cannot_use_is_refused(measured: Path, gpu_named: Callable[[str], dict[str, str]]) -> None:
    refused(measured, 2, "no CUDA GPU", "run", "suite=h100", **gpu_named("NVIDIA H100 80GB HBM3"))


NO_UTF_8 = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_a_run_needs_neither_a_locale_with_utf_8_nor_a_home(tmp_path: Path) -> None:
    works(tmp_path, "run", *ONE_PAIR, **NO_UTF_8)  # the environment of these tests has no HOME


def test_text_that_the_locale_cannot_write_is_printed_as_far_as_it_can(tmp_path: Path) -> None:
    (tmp_path / "suite").mkdir()
    text = "# @package _global_\ndescription: größer\n"
    (tmp_path / "suite" / "mine.yaml").write_text(text, encoding="utf-8")
    assert "gr??er" in works(tmp_path, "run", "suite=mine", "--config-dir", ".", "--cfg", "job", **NO_UTF_8)


def test_paths_may_have_spaces_and_quotes(tmp_path: Path, checkpoint: Path) -> None:
    folder = tmp_path / """it's a "folder", = [really] {é}"""
    (folder / "own suites" / "prompts").mkdir(parents=True)
    (folder / "own suites" / "prompts" / "own.jsonl").write_text('{"id": "a", "text": "b"}\n')
    shutil.copytree(checkpoint, folder / "the model")
    escaped = str(folder).replace("'", "\\'")
    words = (f"results_dir='{escaped}/my results'", f"model.path='{escaped}/the model'", "axes.prompt_set=[own]")
    works(folder, "run", *ONE_PAIR, *words, "--config-dir", str(folder / "own suites"))
    assert records(folder / "my results")


def test_a_clock_that_jumps_neither_ends_a_run_nor_changes_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jumps = itertools.cycle([4e9, 1.0, 2e9])
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    monkeypatch.setattr(time, "time_ns", lambda: int(next(jumps) * 1e9))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", *FAKE, "-q"]) == 0
    before = records(tmp_path)
    assert cli.main(["run", *FAKE, "-q"]) == 0
    assert before == records(tmp_path) != {}
