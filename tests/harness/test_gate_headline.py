"""The first words of a green verdict claim what was shown, and no more."""

from __future__ import annotations

from dataclasses import replace

import pytest
from verdicts import example, only

from harness.analysis.gate.headline import headline_of
from harness.analysis.verdict import BASELINE, JOB, STORED, CellVerdict, State

RULE = only(State.REGRESSED).cells[0].rules[0]


def cell(state: State, label: str = "a", **rules: State) -> CellVerdict:
    """rules: test -> what its rule says."""
    of = tuple(
        replace(RULE, rule=test, test=test, state=one, ratio=None, base=None, head=None) for test, one in rules.items()
    )
    return replace(example().cells[0], label=label, cell_id=label, state=state, rules=of)


FAST = cell(State.OK, time=State.OK, exact=State.OK)
COUNTED = cell(State.OK, time=State.REPORTED, exact=State.OK)
BETTER = cell(State.IMPROVED, time=State.IMPROVED, exact=State.OK)
UNSURE = cell(State.INCONCLUSIVE, time=State.INCONCLUSIVE, exact=State.OK)
COSTLIER = cell(State.ACCEPTED, "dear", time=State.OK, exact=State.ACCEPTED)
SLOWER = cell(State.ACCEPTED, "slow", time=State.ACCEPTED, exact=State.OK)
NEW, LOST, FULL = cell(State.NEW), cell(State.INCONCLUSIVE), cell(State.REPORTED)


@pytest.mark.parametrize(
    ("cells", "mode", "words"),
    [
        ([FAST, BETTER], JOB, "GREEN: no regression is shown in 2 cells, and none is slower by 5% "),
        ([FAST, FAST, NEW], JOB, "GREEN: no regression is shown in 2 cells, and none is slower by 5% (1 NEW, 2 OK)"),
        (
            [UNSURE, FAST],
            JOB,
            "GREEN: no regression is shown in 2 cells, and a slowdown by 5% is ruled out in 1 of",
        ),
        ([COUNTED], JOB, "GREEN: no regression is shown in 1 cell, and a slowdown by 5% is ruled out in none of them"),
        (
            [SLOWER, FAST],
            JOB,
            "GREEN: beyond the 1 ACCEPTED, no regression is shown in 2 cells, and a slowdown by ",
        ),
        ([COSTLIER], JOB, "GREEN: beyond the 1 ACCEPTED, no regression is shown in 1 cell, and none is slower by 5%"),
        ([UNSURE, LOST], JOB, "INCONCLUSIVE: no cell of 2 is shown to be OK (2 INCONCLUSIVE)"),
        ([NEW, FULL], JOB, "NOTHING JUDGED: no cell of 2 could be compared (1 NEW, 1 REPORTED)"),
        (
            [COUNTED],
            STORED,
            "GREEN: no counter and no output is shown to be worse in 1 cell, and times are not ",
        ),
        (
            [COSTLIER, COUNTED],
            STORED,
            "GREEN: beyond the 1 ACCEPTED, no counter and no output is shown to be worse in ",
        ),
        ([COUNTED], BASELINE, "GREEN: no counter is shown to be worse than approved in 1 cell, and nothing else is "),
    ],
)
def test_the_first_words_claim_what_the_rules_have_shown(cells: list[CellVerdict], mode: str, words: str) -> None:
    assert headline_of(cells, 0, 0.05, (), mode).startswith(words)


def test_what_is_accepted_is_named() -> None:
    assert headline_of([COSTLIER, SLOWER, FAST], 0, 0.05, (), JOB).endswith("until they expire: dear, slow")
