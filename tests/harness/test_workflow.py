"""The example workflow: what it runs exists, it may do little, and its comment is edited in place."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from verdicts import example, only

from harness import arguments, cli
from harness.analysis.verdict import State, Verdict
from harness.measuring.backends.registry import BACKENDS
from harness.report.gate.markdown import marker
from harness.report.gate.outputs import OUTPUTS, write_outputs
from harness.spec import data
from harness.spec.config import SuiteConfig
from harness.spec.suite import compose

ROOT = Path(__file__).resolve().parents[2]
PATH = ROOT / ".github" / "workflows" / "perf-gate.yml"
FAKE_GH = """#!/bin/bash
# Finds the comment $FOUND, and notes what it is asked to write.
case "$*" in
  *--paginate*) [[ "$*" == *env.MARKER* ]] && printf '%s' "$FOUND" ;;
  *) printf '%s\\n' "$*" >> "$NOTES" ;;
esac
"""


@pytest.fixture(scope="module")
def workflow() -> dict[Any, Any]:
    return yaml.safe_load(PATH.read_text(encoding="utf-8"))


def scripts(workflow: dict[Any, Any]) -> list[str]:
    return [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]


def test_it_runs_on_pull_requests_every_night_and_on_releases(workflow: dict[Any, Any]) -> None:
    triggers = workflow[True]  # YAML 1.1 reads the word "on" so
    assert {"pull_request", "push", "schedule", "workflow_dispatch"} == set(triggers)
    assert set(triggers["push"]) == {"tags"}
    assert "pull_request_target" not in triggers


def test_no_job_may_do_more_than_read_but_the_one_that_comments(workflow: dict[Any, Any]) -> None:
    assert workflow["permissions"] == {}
    asked = {name: job["permissions"] for name, job in workflow["jobs"].items()}
    assert asked.pop("comment") == {"pull-requests": "write"}
    assert all(permissions == {"contents": "read"} for permissions in asked.values())


def test_the_job_that_comments_runs_no_code_of_the_change(workflow: dict[Any, Any]) -> None:
    used = [step.get("uses", "") for step in workflow["jobs"]["comment"]["steps"]]
    assert not [action for action in used if "checkout" in action]


def test_no_step_pastes_what_a_stranger_may_write_into_a_script(workflow: dict[Any, Any]) -> None:
    assert not [script for script in scripts(workflow) if "${{" in script]


def test_a_runner_of_ones_own_never_runs_a_fork(workflow: dict[Any, Any]) -> None:
    for job in workflow["jobs"].values():
        if "self-hosted" in job["runs-on"]:
            is_ours = "head.repo.full_name == github.repository" in job["if"]
            assert is_ours or "github.event_name != 'pull_request'" in job["if"]


def test_the_job_of_counters_measures_a_suite_that_counts_operations(workflow: dict[Any, Any]) -> None:
    (gate,) = gates(workflow, "counters")
    assert compose([f"suite={gate.suite}"], backends=list(BACKENDS)).protocol.operations


def test_a_release_is_judged_against_the_last_one_and_what_nobody_can_tell_fails(workflow: dict[Any, Any]) -> None:
    (gate,) = gates(workflow, "release")
    assert (gate.base, gate.inconclusive) == ("$BASE", "fail")
    assert "github.ref_type == 'tag'" in workflow["jobs"]["release"]["if"]
    assert "github.ref_type != 'tag'" in workflow["jobs"]["nightly"]["if"]


@pytest.mark.parametrize("job", ["counters", "times", "nightly", "release"])
def test_the_job_behind_a_verdict_is_kept_whatever_the_verdict(workflow: dict[Any, Any], job: str) -> None:
    (kept,) = (step for step in workflow["jobs"][job]["steps"] if step.get("with", {}).get("name") == f"job-{job}")
    assert kept["if"] == "always()"
    assert kept["with"]["path"] == f"{SuiteConfig.results_dir}/*/gates"


def gates(workflow: dict[Any, Any], job: str) -> list[Any]:
    """The arguments of the job's gates."""
    own = "\n".join(step.get("run", "") for step in workflow["jobs"][job]["steps"])
    return [
        arguments.parse(["gate", *shlex.split(words)], {name: "" for name in cli.VERBS})
        for words in re.findall(r"python -m harness gate (.*)", own)
    ]


def test_every_command_is_a_verb_with_its_flags(workflow: dict[Any, Any]) -> None:
    commands = [line for script in scripts(workflow) for line in re.findall(r"python -m harness (.*)", script)]
    assert {shlex.split(command)[0] for command in commands} == {"gate", "doctor"}
    for command in commands:
        args = arguments.parse(shlex.split(command), {name: "" for name in cli.VERBS})
        if args.verb == "gate":
            assert args.suite in data.options_of("suite")


def test_every_file_that_is_shown_is_an_output(workflow: dict[Any, Any]) -> None:
    shown = {name for script in scripts(workflow) for name in re.findall(r"gate/([\w.]+)", script)}
    assert shown == {"annotations.txt", "summary.md"} <= set(OUTPUTS)


def written(workflow: dict[Any, Any], folder: Path, verdict: Verdict, found: str) -> str:
    """What the comment step writes, with a made-up gh that finds these comments."""
    gh = folder / "bin" / "gh"
    gh.parent.mkdir()
    gh.write_text(FAKE_GH)
    gh.chmod(0o755)
    write_outputs(verdict, folder / "gates" / "gate-counters")
    notes = folder / "notes"
    notes.touch()
    (step,) = (step for step in workflow["jobs"]["comment"]["steps"] if "run" in step)
    env = {"PATH": f"{gh.parent}:{os.environ['PATH']}", "FOUND": found, "NOTES": str(notes)}
    env |= {"COMMENTS": "repos/a/b/issues/7/comments", "COMMENT": "repos/a/b/issues/comments"}
    subprocess.run(["bash", "-e", "-c", step["run"]], cwd=folder, env=env, check=True, timeout=30)
    return notes.read_text()


def test_the_first_comment_is_posted_and_the_next_run_edits_it(workflow: dict[Any, Any], tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    body = "-F body=@gates/gate-counters/comment.md"
    posted = f"api --silent --method POST repos/a/b/issues/7/comments {body}\n"
    edited = f"api --silent --method PATCH repos/a/b/issues/comments/123 {body}\n"
    assert written(workflow, tmp_path / "first", example(), found="") == posted
    assert written(workflow, tmp_path / "second", example(), found="123\n456\n") == edited


def test_a_green_verdict_edits_a_comment_and_never_begins_one(workflow: dict[Any, Any], tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    green = only(State.OK)
    assert written(workflow, tmp_path / "first", green, found="") == ""
    assert "--method PATCH" in written(workflow, tmp_path / "second", green, found="123")


def test_the_marker_that_the_workflow_looks_for_is_the_one_that_is_written(workflow: dict[Any, Any]) -> None:
    (pattern,) = re.findall(r"=~ (\S.*\S) \]\]", "\n".join(scripts(workflow)))
    assert re.fullmatch(pattern.replace("'", ""), marker(example()))
