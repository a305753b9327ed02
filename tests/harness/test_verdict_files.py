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


@pytest.mark.parametrize(
    "headline",
    ["GREEN: all is well. Merge it", "NOT COMPARABLE: elsewhere", "GREEN", "GREEN all is well", "Fine: go", ""],
)
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


def in_rule(name: str, **changes: Any) -> Callable[[dict[str, Any]], None]:
    """Changes of the first rule in this state."""

    def apply(document: dict[str, Any]) -> None:
        rules = (rule for cell in document["cells"] for rule in cell["rules"])
        next(rule for rule in rules if rule["state"] == name).update(changes)

    return apply


def refused_difference(document: dict[str, Any]) -> None:
    document["differences"][0].update(effect="refused")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (in_rule("REGRESSED", better="higher"), "request_s is in s, and lower is better"),
        (in_rule("REGRESSED", unit="miles"), "request_s is in s, and lower is better"),
        (in_rule("REGRESSED", better="left"), "better is 'left', expected one of higher, lower"),
        (in_rule("REGRESSED", test="oracle"), "test is 'oracle', expected one of"),
        (in_rule("REGRESSED", ratio=0.9), "state is REGRESSED, and head is worse by -10.0%"),
        (in_rule("ACCEPTED", ratio=0.9), "state is ACCEPTED, and head is worse by -10.0%"),
        (in_rule("IMPROVED", ratio=1.1), "state is IMPROVED, and head is worse by +10.0%"),
        (in_rule("OK", ratio=-1.0), "ratio is '-1.0', expected a number above 0"),
        (in_rule("OK", p=1.5), "p is '1.5', expected a number from 0 to 1"),
        (in_rule("OK", mde=-0.1), "mde is '-0.1', expected a number of at least 0"),
        (in_rule("OK", low=1.1, high=0.9), "low 1.1 is above high 0.9"),
        (lambda document: document["groups"][0].update(num_pairs=-3), "num_pairs is '-3'"),
        (lambda document: document["groups"][0].update(shift="up"), "shift is 'up'"),
        (lambda document: document["differences"][0].update(layer="rumour"), "layer is 'rumour'"),
        (refused_difference, "a difference is refused, and its cells are compared all the same"),
        (lambda document: document.update(mode="dream"), "mode is 'dream'"),
        (lambda document: document.update(pairs_per_cell=-1.0), "pairs_per_cell is '-1.0'"),
        (lambda document: document["settings"].update(broken_both_budget=2.0), "gate.broken_both_budget: 2.0"),
        (lambda document: document["settings"].update(rules={"a": 1}), "gate.rules.a"),
    ],
)
def test_a_value_that_cannot_be_is_refused_where_it_stands(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], said: str
) -> None:
    with pytest.raises(StoreError) as refused:
        read(tmp_path, change)
    assert said in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_a_key_that_stands_there_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="exit_code stands there twice"):
        read(tmp_path, lambda document: None, '"exit_code": 3', '"exit_code": 0, "exit_code": 3')


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
