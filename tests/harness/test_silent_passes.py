"""What pytest-benchmark's comparison passes silently, with files of two runs: the gate's exit code and its JUnit XML.

The other half, a session that measures nothing, is in test_pytest_suite.py; the list: docs/decisions/0013.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from altered import alter
from synthetic import Scenario, write_run

from harness import cli
from harness.records import store
from harness.records.types import Environment

REGRESSED, USAGE, INCOMPLETE, NOT_COMPARABLE = 1, 2, 3, 4
AXES: dict[str, list[Any]] = {"batch_size": [1, 4], "block_length": [128], "num_steps": [8]}


def judged(folder: Path, base: Scenario, head: Scenario, change: Callable[[Path], None] | None = None) -> int:
    """The gate's exit code over two runs of which head's files may have been changed."""
    base_dir, head_dir = write_run(folder / "base", base), write_run(folder / "head", replace(head, worker="2-b"))
    if change is not None:
        change(head_dir)
    places = ["--results-dir", str(folder / "results"), "--baselines-dir", str(folder / "baselines")]
    return cli.main(
        ["gate", "--base", str(base_dir), "--head", str(head_dir), "-q", "-o", str(folder / "out"), *places]
    )


def failures(folder: Path) -> list[str]:
    root = ElementTree.parse(folder / "out" / "junit.xml").getroot()
    assert root.find("testsuite").get("failures") == str(len(root.findall(".//failure")))
    return [found.attrib["message"] for found in root.findall(".//failure")]


def one_more_pass(run_dir: Path) -> None:
    for path in run_dir.glob("records-*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for one in (round for record in lines for round in record["rounds"]):
            kind = "denoise" if one["passes"]["denoise"] else "decode"
            one["passes"][kind] += 1
        path.write_text("".join(json.dumps(record) + "\n" for record in lines))


def another_machine(run_dir: Path) -> None:
    for path in run_dir.glob("environment-*.json"):
        document = json.loads(path.read_text())
        document["identity"]["gpu"]["name"] = "Another GPU"
        environment = Environment(**document)
        path.unlink()
        store.write_environment(run_dir, environment)
        alter(run_dir, partial(dict.update, environment_id=environment.environment_id))


def test_two_equal_runs_pass(tmp_path: Path) -> None:
    assert judged(tmp_path, Scenario(axes=AXES), Scenario(axes=AXES)) == 0
    assert failures(tmp_path) == []


def test_a_counter_that_is_worse_is_a_failure_in_junit(tmp_path: Path) -> None:
    assert judged(tmp_path, Scenario(axes=AXES), Scenario(axes=AXES), one_more_pass) == REGRESSED
    assert [message for message in failures(tmp_path) if message.startswith("REGRESSED: ")]


def test_a_cell_of_base_that_head_has_not_is_a_failure(tmp_path: Path) -> None:
    assert judged(tmp_path, Scenario(axes=AXES), Scenario(axes={**AXES, "batch_size": [1]})) == INCOMPLETE
    assert [message for message in failures(tmp_path) if message.startswith("MISSING: ")]


def test_a_cell_that_base_has_not_is_listed(tmp_path: Path) -> None:
    assert judged(tmp_path, Scenario(axes={**AXES, "batch_size": [1]}), Scenario(axes=AXES)) == 0
    assert "\nNEW " in (tmp_path / "out" / "verdict.txt").read_text()


def test_runs_without_a_cell_in_common_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    others = {**AXES, "batch_size": [2]}
    assert judged(tmp_path, Scenario(axes=AXES), Scenario(axes=others)) == USAGE
    assert "Traceback" not in capsys.readouterr().err


def test_a_run_of_another_machine_is_not_compared(tmp_path: Path) -> None:
    assert judged(tmp_path, Scenario(axes=AXES), Scenario(axes=AXES), another_machine) == NOT_COMPARABLE
    assert failures(tmp_path)


def test_a_cell_that_measured_and_then_failed_is_a_failure(tmp_path: Path) -> None:
    broken = Scenario(axes=AXES, outcome=lambda cell, _: "error" if cell.batch_size == 4 else "ok")
    assert judged(tmp_path, Scenario(axes=AXES), broken) == INCOMPLETE
    assert [message for message in failures(tmp_path) if message.startswith("BROKEN: ")]


def test_a_red_run_is_never_the_next_baseline(tmp_path: Path) -> None:
    """No ratchet: twice the same red pair is red twice, and the folder of baselines is as it was."""
    assert judged(tmp_path / "1", Scenario(axes=AXES), Scenario(axes=AXES), one_more_pass) == REGRESSED
    assert judged(tmp_path / "2", Scenario(axes=AXES), Scenario(axes=AXES), one_more_pass) == REGRESSED
    assert not list(tmp_path.glob("*/baselines/**/*"))
