"""What a user gets against what a device gives: the cells that no other one beats in both."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from harness.analysis.rows import CellRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """A measured cell: useful tokens per second of the whole device, and of each of its users, one a row of a batch."""

    row: CellRow

    @property
    def device_tok_s(self) -> float:
        return self.row.metrics["useful_tok_s"].value

    @property
    def user_tok_s(self) -> float:
        return self.device_tok_s / self.row.cell.batch_size


def served(rows: Iterable[CellRow]) -> list[Served]:
    return [Served(row=row) for row in rows if "useful_tok_s" in row.metrics]


def frontier(points: Iterable[Served]) -> list[Served]:
    """Those that no other beats in both: by growing speed of a user, falling throughput of the device."""
    found: list[Served] = []
    for point in sorted(points, key=lambda one: (-one.user_tok_s, -one.device_tok_s)):
        if not found or point.device_tok_s > found[-1].device_tok_s:
            found.append(point)
    return found[::-1]


def device_tok_s_at(line: Sequence[Served], user_tok_s: float) -> float | None:
    """Throughput of the device where each user gets so much: between neighbours of a frontier a straight line on
    logarithms, which never rises; None outside of what was measured.
    """
    if len(line) == 1 and line[0].user_tok_s == user_tok_s:
        return line[0].device_tok_s
    for slow, fast in pairwise(line):
        if slow.user_tok_s <= user_tok_s <= fast.user_tok_s:
            share = math.log(user_tok_s / slow.user_tok_s) / math.log(fast.user_tok_s / slow.user_tok_s)
            return float(slow.device_tok_s * (fast.device_tok_s / slow.device_tok_s) ** share)
    return None
