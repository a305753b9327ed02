"""tests/gates: verdicts as test items, and nothing where no verdict is given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from verdicts import hostile_verdict

from harness.records import strict

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "tests" / "harness" / "fixtures" / "verdict_example.json"
COMMAND = "x\n::error title=pwn::owned\n\x1b[31mred ##[error]z"
FAILED, REFUSED, NOTHING_RUN = 1, 4, 5  # pytest's codes


def gates(*options: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:benchmark", *options]
    env = {**os.environ, "CANVASBENCH_CI": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, timeout=300, check=False)
    return done.returncode, done.stdout + done.stderr


def example(tmp_path: Path, state: str, **changes: object) -> str:
    """The example with its cells of one state alone."""
    document = json.loads(EXAMPLE.read_text(encoding="utf-8"))
    document["cells"] = [cell for cell in document["cells"] if cell["state"] == state]
    path = tmp_path / "verdict.json"
    path.write_text(json.dumps({**document, "counts": {state: len(document["cells"])}, **changes}))
    return str(path)


def test_a_red_verdict_fails_with_its_headline_and_one_failure_for_each_red_rule() -> None:
    code, text = gates("tests/gates", f"--verdict={EXAMPLE}")
    assert code == FAILED
    assert "exit code 3: RED: 3 cells are incomplete" in text
    assert "REGRESSED: 48 on base, 50 on head" in text
    assert "9 failed, 14 passed, 1 xfailed" in text  # the verdict itself and 8 red rules; INCONCLUSIVE is undecided


def test_a_green_verdict_passes(tmp_path: Path) -> None:
    code, text = gates("tests/gates", f"--verdict={example(tmp_path, 'OK', exit_code=0, headline='GREEN: fine')}")
    assert code == 0, text


def test_without_a_verdict_the_folder_holds_no_item_and_no_skip() -> None:
    code, text = gates("tests/gates")
    assert code == NOTHING_RUN
    assert "skipped" not in text
    code, text = gates("tests/gates", "tests/test_layers.py", "-k", "import_cycle or gate")
    assert code == 0, text
    assert "skipped" not in text


def test_a_damaged_verdict_is_refused_with_one_message(tmp_path: Path) -> None:
    path = tmp_path / "verdict.json"
    path.write_text('{"verdict_schema": 2, "cells": 5}')
    code, text = gates("tests/gates", f"--verdict={path}")
    assert code == REFUSED
    assert f"{path}: is damaged" in text
    assert "Traceback" not in text


def test_a_verdict_of_an_earlier_version_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "verdict.json"
    path.write_text(
        EXAMPLE.read_text().replace('"verdict_schema": 2', '"verdict_schema": 1').replace(', "ratio": []}', "}")
    )
    code, text = gates("tests/gates", f"--verdict={path}")
    assert (code, f"{path}: verdict_schema 1 is older than this version's 2" in text) == (REFUSED, True), text
    assert "harness gate --base JOB" in text


def test_a_verdict_without_cells_is_refused(tmp_path: Path) -> None:
    path = example(tmp_path, "no such state", exit_code=0, counts={})
    code, text = gates("tests/gates", f"--verdict={path}")
    assert (code, "judges no cell" in text) == (REFUSED, True)


def test_no_text_of_a_verdict_is_a_command_or_an_escape_code(tmp_path: Path) -> None:
    path = tmp_path / "verdict.json"
    document = strict.plain(hostile_verdict(COMMAND))
    path.write_text(json.dumps(document))
    code, text = gates("tests/gates", f"--verdict={path}", "-rxX", "--color=no")
    assert (code, "owned" in text) == (FAILED, True)
    assert not [line for line in text.splitlines() if line.lstrip().startswith("::") or "\x1b" in line or "##[" in line]
    path.write_text(json.dumps({**document, COMMAND: 1}))
    code, text = gates("tests/gates", f"--verdict={path}", "--color=no")
    assert (code, "owned" in text) == (REFUSED, True)
    assert not [line for line in text.splitlines() if line.lstrip().startswith("::") or "\x1b" in line or "##[" in line]
