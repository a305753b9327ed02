"""A verdict's values for github-action-benchmark, whose tools customSmallerIsBetter and customBiggerIsBetter read a
list of {name, unit, value, range, extra}: https://github.com/benchmark-action/github-action-benchmark.

For its history alone: its own alert, at twice the value before, is no gate.
"""

from __future__ import annotations

import json

from harness.analysis.verdict import Verdict
from harness.records.texts import said
from harness.report.gate import entries as lines_of


def benchmark_json(verdict: Verdict, better: str) -> str:
    """Head's value of every rule whose metric is better `lower` or `higher`, in an order that no state moves."""
    found = [entry for entry in lines_of.entries(verdict) if entry.rule is not None and entry.rule.better == better]
    rows = [
        {
            "name": f"{entry.label} {entry.name}",
            "unit": said(entry.rule.unit, 20),
            "value": entry.rule.head,
            "range": entry.spread,
            "extra": f"{entry.state}: {entry.base} before, {said(entry.reason)}",
        }
        for entry in sorted(found, key=lambda entry: (entry.cell.label, entry.cell.cell_id, entry.name))
        if entry.rule is not None and entry.rule.head is not None
    ]
    return json.dumps(rows, indent=1) + "\n"
