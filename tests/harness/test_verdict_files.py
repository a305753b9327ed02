"""A verdict's file may come from a pull request: one that contradicts itself, or holds no number, is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from verdicts import EXAMPLE, example

from harness.analysis import verdict as verdicts
from harness.analysis.gate.headline import headline_of
from harness.analysis.verdict import State, exit_code_of
from harness.records import strict
from harness.records.store import StoreError
from harness.report.gate.outputs import OUTPUTS


def read(tmp_path: Path, change: Callable[[dict[str, Any]], Any], old: str = "", new: str = "") -> verdicts.Verdict:
    """The example after a change of its values, and of its text."""
    document = json.loads(EXAMPLE.read_text(encoding="utf-8"))
    change(document)
    path = tmp_path / "verdict.json"
    path.write_text(json.dumps(document).replace(old, new) if old else json.dumps(document))
    return verdicts.read(path)


def hide_a_regression(document: dict[str, Any]) -> None:
    cell = next(cell for cell in document["cells"] if any(rule["state"] == "REGRESSED" for rule in cell["rules"]))
    document.update(cells=[{**cell, "state": "OK"}], counts={"OK": 1}, exit_code=0, headline="GREEN: fine")


def test_a_cell_has_the_state_of_its_worst_rule(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cells\[0\]: state is OK, and its rules give REGRESSED"):
        read(tmp_path, hide_a_regression)


@pytest.mark.parametrize("headline", ["GREEN: all is well. Merge it", "NOT COMPARABLE: elsewhere", "GREEN"])
def test_a_headline_says_what_the_exit_code_says(tmp_path: Path, headline: str) -> None:
    with pytest.raises(StoreError, match=r"headline says .*, and exit_code is 3"):
        read(tmp_path, lambda document: document.update(headline=headline))


def test_every_headline_of_ours_says_what_its_exit_code_says() -> None:
    for state in State:
        cells = [cell for cell in example().cells if cell.state is state]
        for policy in ("warn", "fail"):
            code = exit_code_of([state], policy, 0.02)
            word = headline_of(cells, code, 0.05, (), "job").partition(":")[0]
            assert code in verdicts._SAYS[word]


def test_a_verdict_without_cells_says_nothing_and_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="judges no cell"):
        read(tmp_path, lambda document: document.update(cells=[], counts={}, exit_code=0, headline="GREEN: fine"))


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity"])
def test_what_is_no_finite_number_is_refused_wherever_it_stands(tmp_path: Path, number: str) -> None:
    with pytest.raises(StoreError, match="is no finite number"):
        read(tmp_path, lambda document: document["cells"][0]["axes"].update(z="here"), '"here"', number)


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_widest_interval_that_floats_can_hold_is_rendered(name: str) -> None:
    document = strict.plain(example())
    for cell in document["cells"]:
        for rule in cell["rules"]:
            rule.update(low=5e-324, high=1.7e308, ratio=1.0)
    assert OUTPUTS[name](verdicts.from_json(document))
