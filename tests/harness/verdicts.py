"""Verdicts for tests of what is rendered from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.analysis import verdict as verdicts
from harness.analysis.verdict import CellVerdict, State, Verdict, counts_of, exit_code_of
from harness.records import strict

EXAMPLE = Path(__file__).parent / "fixtures" / "verdict_example.json"
# Fields that hold names or numbers of ours alone.
_OURS = (
    *("mode", "inconclusive", "state", "counts", "better", "test", "settings", "cell_id", "shift", "name"),
    *("layer", "effect"),
)


def example() -> Verdict:
    """A cell of every state."""
    return verdicts.read(EXAMPLE)


def only(*states: State, times: int = 1, inconclusive: str = "warn") -> Verdict:
    """The example's cells of these states, each so many times."""
    found = [cell for state in states for cell in example().cells if cell.state is state]
    cells = [replace(cell, cell_id=f"{i:04x}{cell.cell_id}") for i in range(times) for cell in found]
    return with_cells(example(), cells, inconclusive=inconclusive)


def with_cells(verdict: Verdict, cells: list[CellVerdict], **changes: Any) -> Verdict:
    """The verdict with other cells, and with what follows from them."""
    states = [cell.state for cell in cells]
    code = exit_code_of(states, changes.get("inconclusive", verdict.inconclusive), 0.02)
    words = {0: "GREEN", 4: "NOT COMPARABLE", 5: "INCONCLUSIVE"}
    headline = f"{words.get(code, 'RED')}: made up"
    return replace(
        verdict, cells=tuple(cells), counts=counts_of(states), exit_code=code, **{"headline": headline, **changes}
    )


def hostile_verdict(text: str) -> Verdict:
    """The example with the text wherever a verdict holds one that is no name of ours."""
    document = strict.plain(example())
    word = document["headline"].partition(":")[0]
    return verdicts.from_json({**_replaced(document, text), "headline": f"{word}: {text}"})


def _replaced(value: Any, text: str) -> Any:
    if isinstance(value, dict):
        return {key: one if key in _OURS else _replaced(one, text) for key, one in value.items()}
    if isinstance(value, list):
        return [_replaced(one, text) for one in value]
    return text if isinstance(value, str) else value
