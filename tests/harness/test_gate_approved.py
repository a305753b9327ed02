"""Stored runs against approved values, from the command line: what is compared, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_gate_verbs import AXES, stored

from harness import cli

APPROVE = ["baseline", "approve"]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "results"


def test_a_run_in_which_every_cell_failed_is_nothing_to_approve(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = stored(results, "a", outcome=lambda cell, launch: "error")
    assert cli.main([*APPROVE, failed, "--reason", "all failed"]) == 4
    stderr = capsys.readouterr().err
    assert "nothing to approve" in stderr
    assert len(stderr.splitlines()) == 1
    assert not list(results.glob("baselines/*/*"))


def test_a_baseline_without_a_cell_of_head_is_a_usage_error(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, other = stored(results, "a"), stored(results, "b", axes={**AXES, "batch_size": [2]})
    assert cli.main([*APPROVE, first, "--reason", "the first one", "-q"]) == 0
    assert cli.main(["gate", "--base", "baseline", "--head", other]) == 2
    assert "no cell in common" in capsys.readouterr().err
    (path,) = results.glob("baselines/*/*.json")
    whole = path.read_text()
    path.write_text(whole[: whole.index('"values"')] + '"values": []\n}\n')
    assert cli.main(["gate", "--base", "baseline", "--head", first]) == 2
    assert "no cell in common (0 and 4 cells)" in capsys.readouterr().err
