"""The first words of a verdict: what it is, and what to do."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis.verdict import JOB, CellVerdict, Difference, State, counts_of

_WORDS = {0: "GREEN", 1: "RED", 3: "RED", 4: "NOT COMPARABLE", 5: "INCONCLUSIVE"}
_INCOMPLETE = (State.OUTPUT_CHANGED, State.BROKEN, State.MISSING, State.BROKEN_BOTH)


def headline_of(
    cells: Sequence[CellVerdict], exit_code: int, effect: float, differences: Sequence[Difference], mode: str
) -> str:
    """One sentence with the verdict and the counts, and one with the next step. cells: the worst first."""
    counts = counts_of(cell.state for cell in cells)
    return (
        f"{_WORDS[exit_code]}: {_what(cells, counts, exit_code, effect, mode)}. {_next(cells, exit_code, differences)}"
    )


def _what(cells: Sequence[CellVerdict], counts: dict[str, int], exit_code: int, effect: float, mode: str) -> str:
    listed = ", ".join(f"{count} {state}" for state, count in counts.items())
    if exit_code == 0:
        unsure = counts.get(State.INCONCLUSIVE, 0)
        if mode != JOB:
            return f"no counter and no output is worse in {len(cells)} cells ({listed}); times are shown, not judged"
        known = "" if unsure else f", and none is slower by {effect:.0%}"
        return f"no regression is shown in {len(cells)} cells{known} ({listed})"
    return f"of {len(cells)} cells, {listed}"


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
    if any(cell.state is State.INCONCLUSIVE for cell in cells):
        return "Cells that are INCONCLUSIVE say which slowdown they could have shown; a quieter machine shows less"
    if any(cell.state is State.ACCEPTED for cell in cells):
        return "Approved regressions are listed until they expire"
    return "Nothing is to be done"
