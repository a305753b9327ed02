"""A verdict, rule by rule and cell by cell."""

from __future__ import annotations

import pytest

from harness.analysis.verdict import Verdict
from harness.records.texts import said
from harness.report.gate.entries import UNDECIDED, Entry, headline


def test_the_gate_is_green(verdict: Verdict) -> None:
    if verdict.exit_code:
        pytest.fail(f"exit code {verdict.exit_code}: {headline(verdict)}", pytrace=False)


def test_the_rule_holds(entry: Entry) -> None:
    why = f"{entry.state}: {said(entry.reason)}"
    if entry.is_red:
        values = f"base {entry.base}, head {entry.head}, change {entry.change}, noise {entry.spread}"
        pytest.fail(f"{why}\n{values}", pytrace=False)
    if entry.state in UNDECIDED:
        pytest.xfail(why)
