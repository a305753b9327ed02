"""Where a cell stands under its device's roofs: FLOPs for each byte, and FLOPs a second, of what really ran.

Bytes and FLOPs are counted by formula for the passes that were executed, with the experts that the counting round saw
where it saw any. Only the time is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from harness.analysis.floors import DATASHEET, MEASURED, Work, floors_of, work_of
from harness.analysis.metrics.registry import Missing
from harness.analysis.rows import CellRow
from harness.analysis.run_data import Run
from harness.records.types import Record
from harness.spec import floor
from harness.spec.config import DeviceConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class RooflinePoint:
    """Medians over launches of medians over rounds.

    ridge_flop_per_byte: where memory and arithmetic take equally long, at the rates of the cell's own dtypes.
    share: of the time, what the busier of memory and arithmetic needs at its roof: bound_share.
    """

    row: CellRow
    flop_per_byte: float
    flop_s: float
    ridge_flop_per_byte: float
    share: float
    experts_are_counted: bool

    @property
    def is_compute_bound(self) -> bool:
        return self.flop_per_byte > self.ridge_flop_per_byte


@dataclass(frozen=True, kw_only=True, slots=True)
class RoofLines:
    """The roofs of one device in the dtypes of a cell. `roof`: datasheet or measured."""

    roof: str
    bandwidth_bytes_s: float
    flop_s: Mapping[str, float]  # by dtype


def roofs_of(row: CellRow, run: Run) -> list[RoofLines]:
    """Those that are known of the cell's device, the data sheet's first.

    Raises:
        Missing: none.
    """
    environments = dict.fromkeys(record.environment_id for record in run.ok_records(row.cell_id))
    measured = [run.measured_roofs[name] for name in environments if name in run.measured_roofs]
    named = [(DATASHEET, run.device), *((MEASURED, device) for device in measured[:1])]
    found = [_lines(row, roof, device) for roof, device in named if not floor.missing_roofs(row.cell, device)]
    if not found:
        raise Missing(
            f"{floor.missing_roofs(row.cell, run.device)}, and none was measured: "
            "a run whose backend loads torch probes its machine, and a figure in the device's file needs no probe"
        )
    return found


def _lines(row: CellRow, roof: str, device: DeviceConfig) -> RoofLines:
    bandwidth = device.bandwidth_bytes_s.value
    assert bandwidth is not None
    dtypes = dict.fromkeys(floor.compute_dtypes(row.cell))
    rates = {dtype: rate for dtype in dtypes if (rate := device.flops_s[dtype].value) is not None}
    return RoofLines(roof=roof, bandwidth_bytes_s=bandwidth, flop_s=rates)


def point_of(row: CellRow, run: Run) -> RooflinePoint:
    """The cell under the roofs that its floor uses.

    Raises:
        Missing: no roofs, no passes, or a plan that does not hold the model's shape.
    """
    planned = run.planned[row.cell_id]
    records = run.ok_records(row.cell_id)
    works = [work_of(record, planned, run) for record in records]
    medians = [_medians(record, work) for record, work in zip(records, works, strict=True)]
    if not medians:
        raise Missing("no finished round")
    ridges = []
    for record, work in zip(records, works, strict=True):
        floors, executed = floors_of(record, planned, run), record.rounds[0].passes
        moving, computing = floors.moving_and_computing_s(executed)
        moved, computed = work.of(executed)
        ridges.append((computed / computing) / (moved / moving))
    return RooflinePoint(
        row=row,
        flop_per_byte=median(one for one, _ in medians),
        flop_s=median(one for _, one in medians),
        ridge_flop_per_byte=median(ridges),
        share=row.metrics["bound_share"].value,
        experts_are_counted=all(work.experts_are_counted for work in works),
    )


def _medians(record: Record, work: Work) -> tuple[float, float]:
    """FLOPs for each byte, and FLOPs a second."""
    both = [(work.of(round.passes), round.wall_s) for round in record.rounds]
    return median(flops / moved for (moved, flops), _ in both), median(flops / wall_s for (_, flops), wall_s in both)
