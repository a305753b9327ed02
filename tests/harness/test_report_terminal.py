"""What `run` prints at its end.

To accept a deliberate change of the golden texts:
CANVASBENCH_UPDATE_GOLDEN=1 pytest tests/harness/test_report_terminal.py
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from synthetic import Scenario, write_run

from harness.analysis.analyse import analyse
from harness.analysis.run_data import load_run
from harness.report.terminal import MOST_LINES, result_text

GOLDEN = Path(__file__).parents[1] / "golden"


def printed(folder: Path, *scenarios: Scenario) -> str:
    return result_text(analyse([load_run(write_run(folder, scenario)) for scenario in scenarios]))


@pytest.mark.parametrize(
    ("name", "scenario"),
    [
        ("usual", Scenario()),
        ("diffusion_slower", Scenario(pass_s=lambda cell: 0.01 * (80 if cell.block_length else 1), roofs=False)),
        (
            "failures",
            Scenario(
                outcome=lambda cell, _: {4: "oom", 16: "error"}.get(cell.batch_size, "ok"),
                exclude=[{"batch_size": [1], "block_length": [128], "reason": "not asked"}],
                warnings=("the clock fell",),
            ),
        ),
    ],
)
def test_the_terminal_text_is_golden(tmp_path: Path, name: str, scenario: Scenario) -> None:
    seen = printed(tmp_path, scenario)
    golden = GOLDEN / f"result_{name}.txt"
    if os.environ.get("CANVASBENCH_UPDATE_GOLDEN"):
        golden.write_text(seen, encoding="utf-8")
    assert seen == golden.read_text(encoding="utf-8")


def test_the_terminal_text_stays_short(tmp_path: Path) -> None:
    many = {"batch_size": list(range(1, 20)), "stopping": ["fixed", "adaptive"], "prompt_tokens": [16, 32]}
    text = printed(tmp_path, Scenario(axes=many), Scenario(name="other"))
    assert len(text.splitlines()) <= MOST_LINES
    assert "more tables on the page" in text


def test_the_terminal_text_holds_no_control_codes(tmp_path: Path) -> None:
    evil = "\x1b[31mred\x1b[0m\r\x07"
    scenario = Scenario(
        display_name=evil, reason=evil, warnings=(evil,), outcome=lambda c, _: "ok" if c.batch_size == 1 else "error"
    )
    scenario = dataclasses.replace(scenario, rename=lambda cell: dataclasses.replace(cell, prompt_set=evil))
    assert all(character == "\n" or character.isprintable() for character in printed(tmp_path, scenario))
