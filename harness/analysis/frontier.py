"""What a user gets against what a device gives: the cells that no other one beats in both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.analysis.rows import CellRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """A measured cell: useful tokens per second of the whole device, and of each of its users, one a row of a batch."""

    row: CellRow

    @property
    def device_tok_s(self) -> float:
        return self.row.metrics["useful_tok_s"].value

    @property
    def interval_tok_s(self) -> tuple[float, float]:
        """Of device_tok_s."""
        summary = self.row.metrics["useful_tok_s"]
        return summary.low, summary.high

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
    """Throughput of the device where each user gets at least so much: of the best measured cell that gives it, which is
    the step line of the figure; None where no measured cell is as fast.
    """
    return next((one.device_tok_s for one in line if one.user_tok_s >= user_tok_s), None)


def clearly_beats(one: Served, other: Served) -> bool:
    """Whether both users and device get more from one, beyond both intervals."""
    low, high = one.interval_tok_s[0], other.interval_tok_s[1]
    return low > high and low / one.row.cell.batch_size > high / other.row.cell.batch_size


def is_clearly_more(ours: Iterable[Served], theirs: Iterable[Served], user_tok_s: float) -> bool:
    """Whether ours give a device more where each user gets so much, even if every cell is at the worse end of its
    interval for us: noise moves a cell's throughput and whether it serves such users at all.
    """
    surely = [low for low, one in ((one.interval_tok_s[0], one) for one in ours) if _serves(one, low, user_tok_s)]
    maybe = [high for high, one in ((one.interval_tok_s[1], one) for one in theirs) if _serves(one, high, user_tok_s)]
    return max(surely, default=0.0) > max(maybe, default=0.0)


def _serves(one: Served, device_tok_s: float, user_tok_s: float) -> bool:
    return device_tok_s / one.row.cell.batch_size >= user_tok_s
