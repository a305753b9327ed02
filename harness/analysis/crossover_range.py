"""The crossover batch as a range over assumptions: over weights that were never trained it is no single number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.analysis.crossover import Points, passings_of
from harness.records.types import AUTOREGRESSIVE, BLOCK_DIFFUSION


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossoverRange:
    """Up to which batch block diffusion is ahead, under each of several assumptions.

    lines: assumption -> (batch, speed-up); each has a batch at least.
    """

    lines: Mapping[str, Points]

    def crossings(self, assumption: str) -> list[float]:
        return [one.batch_size for one in passings_of(self.lines[assumption])]

    def leader_at_largest(self, assumption: str) -> str:
        return BLOCK_DIFFUSION if self.lines[assumption][-1][1] > 1 else AUTOREGRESSIVE

    def place(self, assumption: str) -> float:
        """The largest batch at which block diffusion is ahead: inf beyond the last one, 0 below the first one."""
        if self.leader_at_largest(assumption) == BLOCK_DIFFUSION:
            return math.inf
        return (self.crossings(assumption) or [0.0])[-1]

    @property
    def low(self) -> float:
        return min(map(self.place, self.lines))

    @property
    def high(self) -> float:
        return max(map(self.place, self.lines))

    @property
    def batches(self) -> tuple[int, int]:
        """The smallest and the largest one."""
        sizes = [size for points in self.lines.values() for size, _ in points]
        return min(sizes), max(sizes)

    def to_json(self) -> dict[str, Any]:
        """low and high are null outside the batches: each line's faster_at_largest says on which side."""
        return {
            "from": self.batches[0],
            "to": self.batches[1],
            "low": _inside(self.low),
            "high": _inside(self.high),
            "lines": [
                {
                    "assumption": name,
                    "speedups": [list(point) for point in points],
                    "crossings": self.crossings(name),
                    "faster_at_largest": self.leader_at_largest(name),
                }
                for name, points in self.lines.items()
            ],
        }


def _inside(place: float) -> float | None:
    return place if 0 < place < math.inf else None
