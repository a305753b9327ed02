"""The share of its floor that an engine reaches, by decoder: of this page's rows, else of published figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from harness.analysis.floors import DATASHEET
from harness.analysis.published import Judged
from harness.analysis.rows import CellRow
from harness.analysis.run_data import Run
from harness.spec.floor import Shape

MEASURED, PUBLISHED = "measured", "published"
_Shares = dict[str, dict[str, list[float]]]  # decoding -> device -> shares


@dataclass(frozen=True, kw_only=True, slots=True)
class Efficiency:
    """Shares of the floor that engines reached with one decoder. errors: predicted from all other devices / own - 1."""

    decoding: str
    source: str  # measured | published
    median: float
    low: float
    high: float
    count: int  # of rows, or of figures
    num_runs: int  # that the rows are of
    by_device: Mapping[str, float]  # device file -> median share
    errors: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.__slots__}
        return {name: dict(one) if isinstance(one, Mapping) else one for name, one in values.items()}


def of_rows(
    rows: Sequence[CellRow], runs: Mapping[str, Run], shape: Shape
) -> tuple[dict[str, Efficiency], dict[str, int]]:
    """By decoding: efficiencies of rows of the shape, and how many of these rows stand above their floor.

    Such a row says that its floor is not this machine's (an overclocked card, weights that stay in a cache), so nothing
    is learnt from it. Nor from a made-up time, or from a floor by other roofs than those of the predicted ones.
    """
    shares: _Shares = {}
    run_ids: dict[str, set[str]] = {}
    above: dict[str, int] = {}
    for row in rows:
        share, decoding, run = row.value("floor_share"), row.cell.decoding, runs[row.run_id]
        is_of_use = run.shape == shape and row.cell.backend != "fake" and row.floor_roof == DATASHEET
        if share is None or not is_of_use:
            continue
        if share > 1:
            above[decoding] = above.get(decoding, 0) + 1
            continue
        shares.setdefault(decoding, {}).setdefault(run.device.name, []).append(share)
        run_ids.setdefault(decoding, set()).add(row.run_id)
    found = {one: _efficiency(one, MEASURED, by_device, len(run_ids[one])) for one, by_device in shares.items()}
    return found, above


def of_figures(judged: Sequence[Judged]) -> dict[str, Efficiency]:
    """By decoding, of published figures whose conditions are stated; none of those stands above its floor."""
    shares: _Shares = {}
    for one in judged:
        if one.says_how and one.share is not None:
            shares.setdefault(one.figure.decoding, {}).setdefault(one.figure.device, []).append(one.share)
    return {decoding: _efficiency(decoding, PUBLISHED, by_device, 0) for decoding, by_device in shares.items()}


def _efficiency(decoding: str, source: str, shares: Mapping[str, Sequence[float]], num_runs: int) -> Efficiency:
    by_device = {device: median(found) for device, found in shares.items()}
    flat = [share for found in shares.values() for share in found]
    return Efficiency(
        decoding=decoding,
        source=source,
        median=median(flat),
        low=min(flat),
        high=max(flat),
        count=len(flat),
        num_runs=num_runs,
        by_device=by_device,
        errors={
            device: median(others) / own - 1
            for device, own in by_device.items()
            if (others := [share for other, share in by_device.items() if other != device])
        },
    )
