"""The crossover of a headline as a range: over assumptions that were measured, and over those that floors predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.analysis.assumptions import Assumptions, assumptions_around
from harness.analysis.crossover import Line, Points
from harness.analysis.crossover_range import CrossoverRange
from harness.analysis.headline import Headline
from harness.analysis.metrics.registry import Missing
from harness.analysis.run_data import Run
from harness.records.types import REPLAY, Cell, equal_but_for
from harness.spec import draws

_ASSUMED = ("routing", "stopping", "num_steps")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranges:
    """Of one run's headline line. predicted is None where floors are not known: why_not says what is missing."""

    run_id: str
    is_trained: bool
    measured: CrossoverRange
    predicted: Assumptions | None
    why_not: str

    def to_json(self) -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "trained": self.is_trained,
            "measured": self.measured.to_json(),
            "predicted": None if self.predicted is None else self.predicted.to_json(),
            "why_not_predicted": self.why_not,
        }


def ranges_of(headlines: Sequence[Headline], lines: Sequence[Line], runs: Mapping[str, Run]) -> list[Ranges]:
    """Of every headline with a speed-up, in their order."""
    return [
        _ranges(headline.run_id, headline.line, lines, runs)
        for headline in headlines
        if headline.line is not None and headline.line.speedups
    ]


def _ranges(run_id: str, own: Line, lines: Sequence[Line], runs: Mapping[str, Run]) -> Ranges:
    run, predicted, why_not = runs[run_id], None, ""
    try:
        predicted = assumptions_around(run, own.cells, [size for size, _ in own.speedups])
    except Missing as why:
        why_not = str(why)
    return Ranges(
        run_id=run_id,
        is_trained=run.is_trained,
        measured=_measured(own, lines, runs),
        predicted=predicted,
        why_not=why_not,
    )


def _measured(own: Line, lines: Sequence[Line], runs: Mapping[str, Run]) -> CrossoverRange:
    """Lines on the same device that differ from one in how experts and steps were drawn alone; two never become one."""
    first, device = own.cells[0].cell, runs[own.run_id].device_name
    found: dict[str, Points] = {}
    for line in (own, *lines):
        cell = line.cells[0].cell
        if runs[line.run_id].device_name == device and line.speedups and _is_alike(cell, first):
            name = _assumption(cell) + ("" if line.run_id == own.run_id else f" (run {line.run_id})")
            found.setdefault(name, [(size, summary.value) for size, summary in line.speedups])
    return CrossoverRange(lines=found)


def _is_alike(cell: Cell, own: Cell) -> bool:
    theirs, ours = (equal_but_for(_undrawn(one), "batch_size", *_ASSUMED) for one in (cell, own))
    is_of_steps = cell.num_steps == own.num_steps or cell.stopping == REPLAY
    is_of_rule = cell.stopping == own.stopping or "adaptive" not in (cell.stopping, own.stopping)
    return theirs == ours and is_of_steps and is_of_rule


def _undrawn(cell: Cell) -> Cell:
    return replace(cell, options={name: value for name, value in cell.options.items() if name not in draws.OPTIONS})


def _assumption(cell: Cell) -> str:
    """How its experts and its steps came about."""
    options = cell.options
    routing = {
        "model": "the model's routing",
        "zipf": f"zipf {options.get(draws.EXPONENT_OPTION, 1.0)} routing",
        REPLAY: f"routing replayed from {options.get(draws.POPULARITY_OPTION)}",
    }.get(cell.routing, f"{cell.routing} routing")
    if cell.stopping == REPLAY:
        return f"{routing}, steps of {options.get(draws.STEPS_OPTION)} (at most {cell.num_steps})"
    return f"{routing}, {cell.num_steps} step{'' if cell.num_steps == 1 else 's'}"
