"""The first words of a verdict: what it is, and what to do."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis.verdict import BASELINE, JOB, CellVerdict, Difference, State, counts_of

_WORDS = {0: "GREEN", 1: "RED", 3: "RED", 4: "NOT COMPARABLE", 5: "INCONCLUSIVE"}
_INCOMPLETE = (State.OUTPUT_CHANGED, State.BROKEN, State.MISSING, State.BROKEN_BOTH)
_JUDGED = (State.OK, State.IMPROVED, State.ACCEPTED)
_MOST_NAMED = 3


def headline_of(
    cells: Sequence[CellVerdict], exit_code: int, effect: float, differences: Sequence[Difference], mode: str
) -> str:
    """One sentence with the verdict and the counts, and one with the next step. cells: the worst first."""
    listed = ", ".join(f"{count} {state}" for state, count in counts_of(cell.state for cell in cells).items())
    judged = sum(cell.state in _JUDGED for cell in cells)
    unsure = sum(cell.state is State.INCONCLUSIVE for cell in cells)
    if exit_code:
        word, what = _WORDS[exit_code], f"of {len(cells)} cells, {listed}"
    elif judged:
        word, what = _WORDS[0], f"{_shown(cells, judged + unsure, effect, mode)} ({listed})"
    elif unsure:
        word, what = _WORDS[5], f"no cell of {len(cells)} is shown to be OK ({listed})"
    else:
        word, what = "NOTHING JUDGED", f"no cell of {len(cells)} could be compared ({listed})"
    return f"{word}: {what}. {_next(cells, exit_code, differences)}"


def _shown(cells: Sequence[CellVerdict], compared: int, effect: float, mode: str) -> str:
    """What the rules have shown of the cells that were compared, and no more."""
    accepted = sum(cell.state is State.ACCEPTED for cell in cells)
    beyond = f"beyond the {accepted} ACCEPTED, " if accepted else ""
    among = f"{compared} cell{'s' if compared != 1 else ''}"
    if mode == BASELINE:
        return f"{beyond}no counter is shown to be worse than approved in {among}, and nothing else is judged"
    if mode != JOB:
        return f"{beyond}no counter and no output is shown to be worse in {among}, and times are not judged"
    fast = sum(_is_fast(cell) for cell in cells)
    known = f"none is slower by {effect:.0%}"
    if fast < compared:
        known = f"a slowdown by {effect:.0%} is ruled out in {fast or 'none'} of them"
    return f"{beyond}no regression is shown in {among}, and {known}"


def _is_fast(cell: CellVerdict) -> bool:
    """Whether times were judged and a slowdown is ruled out."""
    times = {rule.state for rule in cell.rules if rule.test == "time"} - {State.REPORTED}
    return bool(times) and times <= {State.OK, State.IMPROVED}


def _next(cells: Sequence[CellVerdict], exit_code: int, differences: Sequence[Difference]) -> str:
    worst = cells[0]
    if exit_code in (1, 3):
        red = [cell for cell in cells if cell.state in (*_INCOMPLETE, State.REGRESSED)]
        first = red[0] if red else worst
        return f"Look at {first.label} first: {first.reason}"
    if exit_code == 4:
        refused = next((one for one in differences if one.effect == "refused"), None)
        if refused is None:
            return "Approve a baseline (python -m harness baseline approve), or give --base a revision"
        if refused.layer == "stack":
            return (
                f"{refused.key} is {refused.base} on base and {refused.head} on head: measure both on one stack, or "
                f"declare it as the question with --declare {refused.key}"
            )
        return f"{refused.key} is {refused.base} on base and {refused.head} on head: measure the base again here"
    if accepted := [cell.label for cell in cells if cell.state is State.ACCEPTED]:
        more = f" and {len(accepted) - _MOST_NAMED} more" if len(accepted) > _MOST_NAMED else ""
        return f"Approved regressions are listed until they expire: {', '.join(accepted[:_MOST_NAMED])}{more}"
    if any(cell.state is State.INCONCLUSIVE for cell in cells):
        return "Cells that are INCONCLUSIVE say which slowdown they could have shown; a quieter machine shows less"
    if not any(cell.state in _JUDGED for cell in cells):
        return "See each cell's reason"
    return "Nothing is to be done"
