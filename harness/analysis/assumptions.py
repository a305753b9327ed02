"""What routing and step counts do to the speed-up, predicted: both decoders at their floors, one assumption at a time.

Nothing here is measured. A speed-up at the floors is useful tokens per second of floor against those of the
autoregressive twin, with the device file's roofs or those that were measured on the run's machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr  # the binomial distribution; scipy.stats has it too, but takes a second to load

from harness.analysis.crossover_range import CrossoverRange
from harness.analysis.floors import DATASHEET, MEASURED
from harness.analysis.metrics.registry import Missing
from harness.analysis.rows import CellRow
from harness.analysis.run_data import Run
from harness.records.types import REPLAY, Cell
from harness.spec import draws, floor
from harness.spec.config import ConfigError, DeviceConfig
from harness.spec.floor import Phase, Shape

UNIFORM = draws.UNIFORM
EXPONENTS = {UNIFORM: 0.0, "zipf 0.5": 0.5, "zipf 1": 1.0}  # routing -> of the weight r^-exponent of the r-th expert

FIXED = "the cell's own steps"
Points = list[tuple[int, float]]  # (batch, speed-up at the floors, or a share)


@dataclass(frozen=True, kw_only=True, slots=True)
class Assumptions:
    """By batch. `histogram` names the steps that are replayed, up to `cap`; `roof` says whose roofs these are."""

    cell: Cell
    roof: str
    histogram: str
    cap: int
    routings: Mapping[str, Points]
    fixed: Points  # the cell's own steps in every row
    replayed: Points  # a static batch, which runs until its longest row is done
    compacted: Points  # rows leave when they are done
    straggler_share: Points  # of the static batch's steps, those for rows that are done; with compaction there are none
    saved_share: Points  # of the static batch's floor, what compaction would save
    advantages: Mapping[int, float]  # by batch: measured speed-up / that of the measured rows' own floors

    @property
    def steps_lines(self) -> dict[str, Points]:
        """With uniform routing."""
        return {
            FIXED: self.fixed,
            f"{self.histogram}, static batch": self.replayed,
            f"{self.histogram}, compacted": self.compacted,
        }

    @property
    def range_at_floors(self) -> CrossoverRange:
        """The crossover's, over all routings and steps."""
        drawn = {
            name: points for name, points in self.steps_lines.items() if name != FIXED
        }  # that is uniform routing's
        return CrossoverRange(lines={**self.routings, **drawn})

    @property
    def range_at_shares(self) -> CrossoverRange | None:
        """The same where each decoder keeps the floor share that was measured at that batch; None: it was not."""
        if not self.advantages:
            return None
        lines = self.range_at_floors.lines.items()
        moved = {
            name: [(size, value * self.advantages[size]) for size, value in points if size in self.advantages]
            for name, points in lines
        }
        return CrossoverRange(lines=moved)

    def to_json(self) -> dict[str, Any]:
        at_shares = self.range_at_shares
        return {
            "source": "predicted",
            "cell_id": self.cell.cell_id,
            "roof": self.roof,
            "histogram": self.histogram,
            "cap": self.cap,
            "crossover_range_at_floors": self.range_at_floors.to_json(),
            "crossover_range_at_measured_shares": None if at_shares is None else at_shares.to_json(),
        }


def assumptions_around(run: Run, line: Sequence[CellRow], batch_sizes: Sequence[int]) -> Assumptions:
    """Around the block-diffusion rows of a line, which differ in batch alone; raises Missing as assumptions_of does."""
    advantages = {row.cell.batch_size: one for row in line if (one := _advantage(row)) is not None}
    shown = {size: one for size, one in advantages.items() if size in batch_sizes}
    return assumptions_of(run, line[0].cell, batch_sizes, shown)


def _advantage(row: CellRow) -> float | None:
    """Its share of its floor / its twin's of its own; None where either is unknown, or above 1 and so no share."""
    speedup, limit, share = (row.value(name) for name in ("speedup_vs_ar", "limit_speedup_vs_ar", "floor_share"))
    if speedup is None or not limit or share is None:
        return None
    return speedup / limit if max(share, share * limit / speedup) <= 1 else None


def assumptions_of(
    run: Run, cell: Cell, batch_sizes: Sequence[int], advantages: Mapping[int, float] | None = None
) -> Assumptions:
    """Around a block-diffusion cell of the run.

    Raises:
        Missing: no roofs in the cell's dtypes are known, the plan holds no shape, or steps are drawn from no file.
    """
    if run.shape is None:
        raise Missing("the run's plan is of an earlier version, which does not hold the model's shape")
    device, roof = _device(run, cell)
    cap = max(cell.num_steps or 1, run.shape.generation.max_denoising_steps)
    options = {draws.STEPS_OPTION: draws.PUBLISHED_STEPS, **cell.options}
    plain = replace(cell, stopping="fixed", routing="uniform", options=options)
    predicted = _Floors(run.shape, device)
    try:
        steps = draws.steps_of(plain)
    except ConfigError as error:  # the file that steps were drawn from is not here any more
        raise Missing(str(error).splitlines()[0]) from None
    found: dict[str, Points] = {name: [] for name in ("fixed", "replayed", "compacted", "stragglers", "saved")}
    routings: dict[str, Points] = {name: [] for name in EXPONENTS}
    for batch_size in batch_sizes:
        one = replace(plain, batch_size=batch_size)
        for name, exponent in EXPONENTS.items():
            routed = replace(one, routing="zipf", options={**options, draws.EXPONENT_OPTION: exponent})
            routings[name].append((batch_size, predicted.twin_s(routed) / predicted.static_s(routed)))
        longest = predicted.static_s(replace(one, stopping=REPLAY, num_steps=cap))
        compacted = predicted.compacted_s(one, steps.still_active(cap))
        twin_s = predicted.twin_s(one)
        found["fixed"].append((batch_size, twin_s / predicted.static_s(one)))
        found["replayed"].append((batch_size, twin_s / longest))
        found["compacted"].append((batch_size, twin_s / compacted))
        found["stragglers"].append((batch_size, steps.straggler_share(batch_size, cap)))
        found["saved"].append((batch_size, 1 - compacted / longest))
    return Assumptions(
        cell=plain,
        roof=roof,
        histogram=str(options[draws.STEPS_OPTION]),
        cap=cap,
        routings=routings,
        fixed=found["fixed"],
        replayed=found["replayed"],
        compacted=found["compacted"],
        straggler_share=found["stragglers"],
        saved_share=found["saved"],
        advantages=advantages or {},
    )


def _device(run: Run, cell: Cell) -> tuple[DeviceConfig, str]:
    """Roofs for the cell, and whose they are."""
    why = floor.missing_roofs(cell, run.device)
    if not why:
        return run.device, DATASHEET
    for device in run.measured_roofs.values():
        if not floor.missing_roofs(cell, device):
            return device, MEASURED
    raise Missing(f"{why}, and none was measured")


@dataclass(frozen=True, slots=True)
class _Floors:
    """Seconds of whole requests on one device."""

    shape: Shape
    device: DeviceConfig

    def twin_s(self, cell: Cell) -> float:
        return _seconds(floor.one_step_of(cell.twin, self.shape, self.device))

    def static_s(self, cell: Cell) -> float:
        """A static batch, whose every canvas takes the steps of its longest row."""
        return _seconds(floor.one_step_of(cell, self.shape, self.device), floor.steps_of(cell))

    def compacted_s(self, cell: Cell, still_active: Sequence[float]) -> float:
        """Rows leave when they are done: the n-th step runs for as many as still take it, a binomial number."""
        phases = floor.one_step_of(cell, self.shape, self.device)
        of_rows = [0.0] + [
            floor.one_step_of(replace(cell, batch_size=rows), self.shape, self.device)["denoise"].floor_s or 0.0
            for rows in range(1, cell.batch_size + 1)
        ]
        steps_s = sum(float(np.dot(_binomial(cell.batch_size, min(active, 1.0)), of_rows)) for active in still_active)
        return _seconds({kind: phase for kind, phase in phases.items() if kind != "denoise"}) + steps_s


def _binomial(B: int, p: float) -> NDArray[np.float64]:
    """Probabilities of 0 to B rows [B + 1]."""
    return np.diff(bdtr(np.arange(B + 1), B, p), prepend=0.0)


def _seconds(phases: Mapping[str, Phase], steps: float = 1.0) -> float:
    return sum((phase.floor_s or 0.0) * (steps if kind == "denoise" else 1) for kind, phase in phases.items())
