"""Where the time of a step goes: of an untimed request whose parts a backend took the times of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harness.records.types import AUTOREGRESSIVE, Record


@dataclass(frozen=True, kw_only=True, slots=True)
class StepParts:
    """A denoise step, or a decode pass, of one cell: the mean over all of them in its launches.

    ratio: how much longer such a step took than one of the timed round with the same seed; None without step times.
        Taking the parts' times costs time, and times differ from request to request, so it is not 1.
    """

    seconds: dict[str, float]  # by part, exclusive
    num_steps: int
    ratio: float | None

    @property
    def step_s(self) -> float:
        return sum(self.seconds.values())

    @property
    def largest(self) -> list[tuple[str, float]]:
        """Parts with their shares of a step, the largest first."""
        return sorted(((name, taken / self.step_s) for name, taken in self.seconds.items()), key=lambda one: -one[1])

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def step_parts(records: Sequence[Record]) -> StepParts | None:
    """Of a cell's records that ended well; None where no step was split."""
    split, timed = [], []
    for record in records:
        kind = "decode" if record.cell.decoding == AUTOREGRESSIVE else "denoise"
        parts = record.counters.get("phase_s", {}).get(kind)
        passes = record.counters.get("phase_passes", {}).get(kind)
        if parts and passes:
            split.append((parts, passes))
            timed += [round.step_s for round in record.rounds if round.seed == record.seed and round.step_s]
    total_s = sum(sum(parts.values()) for parts, _ in split)
    if total_s <= 0:
        return None
    num_steps = sum(passes for _, passes in split)
    names = dict.fromkeys(name for parts, _ in split for name in parts)
    timed_s = sum(map(sum, timed)) / sum(map(len, timed)) if timed else 0.0
    return StepParts(
        seconds={name: sum(parts.get(name, 0.0) for parts, _ in split) / num_steps for name in names},
        num_steps=num_steps,
        ratio=total_s / num_steps / timed_s if timed_s > 0 else None,
    )
