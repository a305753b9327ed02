"""What a metric is, and the registry of all metrics."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from harness.records.types import Round
from harness.spec.config import check_choice
from harness.spec.gate_rules import GateConfig

Better = Literal["higher", "lower"]
Kind = Literal["counter", "time"]  # a counter repeats exactly with its seed; a time does not
# What a metric is computed from. round: (round, planned cell). record: (record, planned cell). pair: (round, the twin's
# round). peer: (round, that of the same cell on the suite's peer). options: (round, that of the cell which differs in
# options alone and sets the fewest). floor, measured_floor: (round, floors). floor_pair: (round, floors, the twin's
# round, its floors). most_steps: (record, that of the cell with the most steps of its kind). share: (round, planned
# cell), and the function gives a Part for each row, because a share of a cell pools all its rows: it is no median of
# rounds.
Scope = Literal[
    "round",
    "record",
    "pair",
    "peer",
    "options",
    "floor",
    "measured_floor",
    "floor_pair",
    "most_steps",
    "share",
]


_Function = TypeVar("_Function", bound=Callable[..., Any])
Part = tuple[float, float]  # (part, whole)


class Missing(Exception):
    """A metric cannot be had here; the message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    name: str
    unit: str
    better: Better
    kind: Kind
    scope: Scope
    formula: str
    function: Callable[..., Any]

    @property
    def least(self) -> float:
        """Below it there is no value: of rank correlations -1, of all else 0."""
        return -1.0 if self.unit == "tau" else 0.0

    def compute(self, *inputs: Any) -> float:
        """The metric's value.

        Raises:
            Missing: it cannot be had, or is no finite number.
        """
        try:
            value = float(self.function(*inputs))
        except (ZeroDivisionError, ValueError):  # ValueError: the mean or the largest of nothing
            raise Missing("its formula has no value here") from None
        if not math.isfinite(value):
            raise Missing("its value is not finite")
        return value

    def parts(self, *inputs: Any) -> list[Part | None]:
        """What each row of the round adds to a share; None where it has no say.

        Raises:
            Missing: as `compute`.
        """
        found: list[Part | None] = [part if part and part[1] > 0 else None for part in self.function(*inputs)]
        if not any(found):
            raise Missing("no row of it counts here")
        if not all(0 <= part[0] <= part[1] for part in found if part):
            raise Missing("its value is no share")
        return found


METRICS: dict[str, Metric] = {}


def metric(*, unit: str, better: Better, kind: Kind, scope: Scope = "round") -> Callable[[_Function], _Function]:
    """Declare the decorated function as the metric of that name."""

    def declare(function: _Function) -> _Function:
        name = function.__name__
        assert function.__doc__, f"metric {name} has no formula"
        assert name not in METRICS, f"metric {name} is declared twice"
        formula = " ".join(function.__doc__.split())
        METRICS[name] = Metric(
            name=name, unit=unit, better=better, kind=kind, scope=scope, formula=formula, function=function
        )
        return function

    return declare


def check_metrics(gate: GateConfig) -> None:
    """Raises ConfigError for a rule of a suite's gate that names no metric."""
    for name, rule in gate.rules.items():
        if rule.enabled and rule.test != "output":
            check_choice(f"gate.rules.{name}.metric", rule.metric, list(METRICS))


def present(name: str, round: Round) -> Any:
    """A field of the round.

    Raises:
        Missing: it could not be had, for the reason that the round gives.
    """
    value = getattr(round, name)
    if value is None:
        raise Missing(round.missing.get(name, "not recorded"))
    return value
