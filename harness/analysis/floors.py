"""The floor of what a record really executed: its passes, the experts that it read, and the roofs that are known.

A plan's floors use the device file's roofs and expected experts. A record knows more: which passes ran, how many
distinct experts they hit, and, where a probe ran (harness/measuring/roof.py), what the machine itself can do. The
executed passes of a kind cost the mean of the planned ones, whose contexts differ a little.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean

from harness.analysis.metrics.registry import Missing
from harness.analysis.run_data import CellPlan, Run
from harness.records.types import Record
from harness.spec import draws, floor
from harness.spec.config import ConfigError, DeviceConfig

DATASHEET, MEASURED = "datasheet", "measured"
_NO_SHAPE = "the run's plan is of an earlier version, which does not hold the model's shape"


@dataclass(frozen=True, slots=True)
class PassFloor:
    """Seconds of one pass: a perfect engine's, those of moving its bytes, and those of its arithmetic."""

    floor_s: float
    moving_s: float | None  # None: a plan of an earlier version, which does not say
    computing_s: float | None


@dataclass(frozen=True, slots=True)
class Floors:
    """Of one record, by one device's roofs. `roof`: datasheet or measured; `experts`: whose count the bytes hold."""

    roof: str
    experts: str  # measured | uniform | zipf | replay: the latter three are expectations
    passes: Mapping[str, PassFloor]

    def floor_s(self, executed: Mapping[str, int]) -> float:
        """Of so many passes of each kind.

        Raises:
            Missing: a kind that the plan does not hold.
        """
        return sum(one.floor_s * count for one, count in self._of(executed))

    def moving_and_computing_s(self, executed: Mapping[str, int]) -> tuple[float, float]:
        """Of so many passes of each kind; raises Missing as floor_s does."""
        moving = computing = 0.0
        for one, count in self._of(executed):
            if one.moving_s is None or one.computing_s is None:
                raise Missing(_NO_SHAPE)
            moving, computing = moving + one.moving_s * count, computing + one.computing_s * count
        return moving, computing

    def _of(self, executed: Mapping[str, int]) -> list[tuple[PassFloor, int]]:
        return [(self.passes[kind], count) for kind, count in _known(executed, self.passes)]


def _known(executed: Mapping[str, int], passes: Mapping[str, object]) -> list[tuple[str, int]]:
    """The pass kinds that were executed, all of which have a cost."""
    if not executed:
        raise Missing("the backend counted no passes")
    for kind, count in executed.items():
        if count and kind not in passes:
            raise Missing(f"the plan holds no {kind} pass, so that pass has no floor")
    return [(kind, count) for kind, count in executed.items() if count]


@dataclass(frozen=True, slots=True)
class Work:
    """Bytes and FLOPs of one pass of each kind of one record, whatever a device's roofs are."""

    passes: Mapping[str, tuple[float, float]]
    experts_are_counted: bool  # else the bytes hold an expectation of them

    def of(self, executed: Mapping[str, int]) -> tuple[float, float]:
        """Bytes and FLOPs of so many passes of each kind.

        Raises:
            Missing: none were counted, or a kind that the plan does not hold.
        """
        kinds = _known(executed, self.passes)
        moved = sum(self.passes[kind][0] * count for kind, count in kinds)
        return moved, sum(self.passes[kind][1] * count for kind, count in kinds)


def work_of(record: Record, planned: CellPlan, run: Run) -> Work:
    """What the record's passes move and compute.

    Raises:
        Missing: a plan of an earlier version, or experts that were drawn from a file that is gone.
    """
    if run.shape is None:
        raise Missing(_NO_SHAPE)
    if unknown := floor.unknown_dtypes(planned.cell):
        raise Missing(unknown)
    hits = experts_hit_of(record)
    phases = _phases(planned, run.shape, run.device, hits)
    passes = {kind: _moved_and_computed(phase) for kind, phase in phases.items() if phase.count}
    return Work(passes, bool(hits))


def _moved_and_computed(phase: floor.Phase) -> tuple[float, float]:
    """Bytes and FLOPs of one of its passes."""
    costs = phase.operations.values()
    return sum(one.bytes for one in costs) / phase.count, sum(one.flops for one in costs) / phase.count


def floors_of(record: Record, planned: CellPlan, run: Run) -> Floors:
    """By the data sheet's roofs, or where the device file has none by those that were measured on the machine.

    Raises:
        Missing: neither is known.
    """
    if not floor.missing_roofs(planned.cell, run.device) or run.shape is None:
        return _floors(planned, run, DATASHEET, "", _key_of(experts_hit_of(record)))
    return measured_floors_of(record, planned, run)


def measured_floors_of(record: Record, planned: CellPlan, run: Run) -> Floors:
    """By the roofs that were measured on the record's machine.

    Raises:
        Missing: there are none, or not in the cell's dtypes.
    """
    if record.environment_id not in run.measured_roofs or run.shape is None:
        why = floor.missing_roofs(planned.cell, run.device)
        raise Missing(f"{why}, and none was measured" if why else "no roof was measured on this machine")
    return _floors(planned, run, MEASURED, record.environment_id, _key_of(experts_hit_of(record)))


def experts_hit_of(record: Record) -> dict[str, float]:
    """Pass kind -> distinct experts per layer that the counting round saw, mean over passes and layers."""
    found: dict[str, list[float]] = {}
    for kind, layers in zip(record.counters.get("kinds", ()), record.counters.get("expert_hits", ()), strict=False):
        if layers:
            found.setdefault(kind, []).append(sum(layers) / len(layers))
    return {kind: fmean(hits) for kind, hits in found.items()}


def _key_of(hits: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    return tuple(sorted(hits.items()))


@lru_cache(maxsize=64)  # several metrics ask for a cell's floors, and for its twin's each cell that has the same one
def _floors(planned: CellPlan, run: Run, roof: str, environment_id: str, hits: tuple[tuple[str, float], ...]) -> Floors:
    """environment_id: of the machine whose roofs were measured."""
    device = run.device if roof == DATASHEET else run.measured_roofs[environment_id]
    if run.shape is None:
        return Floors(roof, draws.UNIFORM, _as_planned(planned))
    why = floor.missing_roofs(planned.cell, device)
    if why:
        raise Missing(why)
    phases = _phases(planned, run.shape, device, dict(hits))
    roofs = floor.roofs_of(planned.cell, device)
    passes = {}
    for kind, phase in phases.items():
        if phase.count:
            moving, computing = floor.moving_and_computing_s([phase], roofs)
            passes[kind] = PassFloor(
                (phase.floor_s or 0.0) / phase.count, moving / phase.count, computing / phase.count
            )
    expected = draws.UNIFORM if planned.cell.routing == "model" else planned.cell.routing
    return Floors(roof, MEASURED if hits else expected, passes)


def _phases(
    planned: CellPlan, shape: floor.Shape, device: DeviceConfig, hits: Mapping[str, float]
) -> dict[str, floor.Phase]:
    try:
        return floor.one_step_of(planned.cell, shape, device, hits)
    except ConfigError as error:  # the file that experts were drawn from is not here any more
        raise Missing(str(error).splitlines()[0]) from None


def _as_planned(planned: CellPlan) -> dict[str, PassFloor]:
    """The floors of a plan of an earlier version."""
    passes = {}
    for kind, phase in planned.phases.items():
        if phase.get("count"):
            if phase.get("floor_s") is None:
                raise Missing(planned.missing.get("floor_s", "the device has no roofs"))
            passes[kind] = PassFloor(float(phase["floor_s"]) / phase["count"], None, None)
    return passes
