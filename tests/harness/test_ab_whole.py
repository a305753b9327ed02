"""gate --base REV from the command line to the verdict, over a repository that holds this very source."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.records import job as jobs
from harness.records import store

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "backend=fake", "model=tiny", "axes.prompt_set=[random]", "axes.num_steps=[4]", "axes.stopping=[fixed]",
    "axes.batch_size=[1]",
)  # fmt: skip
PARTS = ("engine", "harness", "suites", "pyproject.toml", "constraints.txt")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "repository"
    folder.mkdir()
    for part in PARTS:
        source = ROOT / part
        ignored = shutil.ignore_patterns("__pycache__", "*.safetensors")
        shutil.copytree(source, folder / part, ignore=ignored) if source.is_dir() else shutil.copy(source, folder)
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    (folder / ".gitignore").write_text("__pycache__\nresults\n")
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", "-C", str(folder), *command], check=True)
    return folder


def begun(repository: Path, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(repository), "PYTHONSAFEPATH": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "harness", "gate", *words]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=repository, env=environment
    )


def gate(repository: Path, *words: str) -> subprocess.CompletedProcess[str]:
    with begun(repository, *words) as process:
        stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def test_base_and_head_are_measured_in_turn_and_judged(repository: Path) -> None:
    done = gate(
        repository, "--base", "HEAD", "--suite", "smoke", "--json", *SMALL, "gate.screen_pairs=2",
        "gate.most_screen_pairs=2", "gate.rules.cpu_time.enabled=false", "gate.rules.wall_time.enabled=false",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    verdict = json.loads(done.stdout)
    assert verdict["counts"] == {"OK": 2}
    (job_dir,) = repository.glob("results/smoke/gates/*")
    job = jobs.read(job_dir)
    assert [(one.side, one.dropped) for one in job.launches] == [
        ("base", None), ("head", None), ("head", None), ("base", None)
    ]  # fmt: skip
    assert (job_dir / "verdict.json").is_file()
    for one in job.launches:
        stack = store.read_json(job_dir / one.run_dir / "plan.json")["provenance"]["stack"]
        assert stack["project_commit"] == job.base.commit
    listed = subprocess.run(["git", "-C", str(repository), "worktree", "list"], capture_output=True, text=True)
    assert len(listed.stdout.splitlines()) == 1
    assert len([line for line in done.stderr.splitlines() if line.startswith("screen pair")]) == 4


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--base", "nowhere"), 2, "'nowhere' names no commit"),
        (("--base", "HEAD", "--head", "nowhere", *SMALL), 2, "--head: 'nowhere' names no commit"),
        (("--base", "HEAD", "--suite", "smok"), 2, "nearest valid: smoke"),
        (("--base", "HEAD", "what"), 2, "KEY=VALUE, but got what"),
        (("--base", "HEAD", "--suite", "h100", *SMALL), 4, "this machine has no GPU"),  # this machine is unfit
    ],
)
def test_a_usage_error_is_one_message_and_measures_nothing(
    repository: Path, words: tuple[str, ...], code: int, message: str
) -> None:
    before = sorted(repository.glob("results/*/gates/*"))
    done = gate(repository, *words)
    assert done.returncode == code
    assert message in done.stderr
    assert len(done.stderr.splitlines()) <= 5
    assert "Traceback" not in done.stderr
    assert sorted(repository.glob("results/*/gates/*")) == before


def test_a_base_without_the_suite_is_no_baseline(repository: Path) -> None:
    suite = repository / "suites" / "suite" / "new.yaml"
    suite.write_text((repository / "suites" / "suite" / "smoke.yaml").read_text())
    try:
        done = gate(repository, "--base", "HEAD", "--suite", "new", "-q", *SMALL)
    finally:
        suite.unlink()
    assert done.returncode == 4
    assert done.stderr.startswith("error: base HEAD")
    assert "'new' is not one of" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_gate_ends_with_130_says_that_it_begins_anew_and_leaves_no_worktree(
    repository: Path, number: signal.Signals
) -> None:
    before = set(repository.glob("results/smoke/gates/*"))
    many = ("gate.screen_pairs=50", "gate.most_screen_pairs=50")
    with begun(repository, "--base", "HEAD", "--suite", "smoke", *SMALL, *many) as process:
        assert process.stderr is not None
        said = ""
        while "screen pair 1 head" not in said:
            line = process.stderr.readline()
            assert line, f"it ended before its first pair did: {said}"
            said += line
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert not stdout, "no verdict"
    *_, kept, error, what_next = stderr.splitlines()
    (job_dir,) = set(repository.glob("results/smoke/gates/*")) - before
    assert kept.endswith(str(job_dir.relative_to(repository)))
    assert error == "error: interrupted; there is no verdict"
    assert what_next.startswith("the same command begins anew")
    assert not (job_dir / "verdict.json").exists()
    worktrees = subprocess.run(
        ["git", "-C", str(repository), "worktree", "list"], capture_output=True, text=True, check=True
    )
    assert len(worktrees.stdout.splitlines()) == 1
    assert {one.dropped for one in jobs.read(job_dir).launches} <= {None, "interrupted"}
    again = gate(repository, "--base", str(job_dir), "-q", "--json")
    assert "REGRESSED" not in json.loads(again.stdout)["counts"], again.stderr
