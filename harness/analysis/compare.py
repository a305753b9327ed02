"""Two stored runs side by side: what changed, with intervals. Never a verdict: a gate's job is that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from harness.analysis import stats
from harness.analysis.gate.comparable import differences
from harness.analysis.gate.readings import by_round
from harness.analysis.gate.samples import Samples, of_runs
from harness.analysis.metrics import METRICS, Metric
from harness.analysis.summary import OVER_LAUNCHES, WITHIN_ONE_LAUNCH
from harness.analysis.verdict import Difference

DEFAULT_METRICS = ("useful_tok_s", "request_s")
EXACT = "exact"
_READINGS = ("peak_device_bytes",)  # counters of the operating system, which no seed repeats


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A metric of a cell in both runs.

    ratio: b / a, of the medians; low, high: its 95 % interval, over launches where both runs have two, else over the
    rounds of one launch; of counters there is none.
    """

    cell_id: str
    label: str
    metric: str
    unit: str
    better: str
    a: float
    b: float
    ratio: float | None
    low: float | None
    high: float | None
    basis: str  # over launches | within one launch | exact

    @property
    def leaves_out_1(self) -> bool:
        """Whether the interval says that something changed; a counter needs none."""
        if self.basis == EXACT:
            return self.a != self.b
        return self.low is not None and self.high is not None and not self.low <= 1 <= self.high


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    names: tuple[str, str]
    changes: tuple[Change, ...]
    only_a: tuple[str, ...]  # labels of cells
    only_b: tuple[str, ...]
    differences: tuple[Difference, ...]  # of machine and stack: to be read beside every ratio

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(a: Path, b: Path, names: tuple[str, str], metrics: Sequence[str] = DEFAULT_METRICS) -> Comparison:
    """Every cell that both runs have: these metrics, and whichever counter differs.

    Raises:
        StoreError: a run cannot be read.
    """
    samples = of_runs(a, b, names)
    planned = (samples.planned(0), samples.planned(1))
    both = [cell_id for cell_id in planned[0] if cell_id in planned[1]]
    return Comparison(
        names=names,
        changes=tuple(
            change
            for cell_id in both
            for metric in METRICS.values()
            if metric.name in metrics or (metric.kind == "counter" and metric.name not in _READINGS)
            if (change := _change(samples, cell_id, metric)) is not None
            and (metric.name in metrics or change.leaves_out_1)
        ),
        only_a=tuple(one.cell.label for cell_id, one in planned[0].items() if cell_id not in planned[1]),
        only_b=tuple(one.cell.label for cell_id, one in planned[1].items() if cell_id not in planned[0]),
        differences=tuple(differences(samples, [])),
    )


def _change(samples: Samples, cell_id: str, metric: Metric) -> Change | None:
    launches = [[of for one in samples.of_side(side) if (of := by_round(metric, cell_id, one))] for side in (0, 1)]
    if not all(launches):
        return None
    basis = EXACT if metric.kind == "counter" else OVER_LAUNCHES
    sides = [[median(one.values()) for one in side] for side in launches]
    if metric.kind == "time" and min(map(len, sides)) < 2:
        basis = WITHIN_ONE_LAUNCH
        sides = [[value for one in side for value in one.values()] for side in launches]
    a, b = (median(side) for side in sides)
    low = high = None
    if basis != EXACT and min(*sides[0], *sides[1]) > 0:
        low, high = stats.ratio_interval(*sides)
    return Change(
        cell_id=cell_id,
        label=samples.planned(0)[cell_id].cell.label,
        metric=metric.name,
        unit=metric.unit,
        better=metric.better,
        a=a,
        b=b,
        ratio=b / a if a > 0 and b > 0 else None,
        low=low,
        high=high,
        basis=basis,
    )
