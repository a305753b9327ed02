"""Whether a run's numbers fit together, and what the harness itself cost: of records, as its rounds were checked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from harness.records.types import SELF_CHECK, Record


@dataclass(frozen=True, kw_only=True, slots=True)
class SelfCheck:
    """broken: (cell, what does not hold) of each record and identity. overhead: of a round, outside the request."""

    num_rounds: int
    broken: tuple[tuple[str, str], ...]
    overhead_s: float | None  # median over rounds
    max_overhead_s: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def self_check_of(records: Iterable[Record]) -> SelfCheck:
    """Of records that ended well."""
    ok = [record for record in records if record.status == "ok"]
    overhead_s = [seconds for record in ok for seconds in record.course.get("overhead_s", ())]
    return SelfCheck(
        num_rounds=sum(len(record.rounds) for record in ok),
        broken=tuple(
            (record.cell.label, warning.removeprefix(f"{SELF_CHECK}: "))
            for record in ok
            for warning in record.warnings
            if warning.startswith(SELF_CHECK)
        ),
        overhead_s=median(overhead_s) if overhead_s else None,
        max_overhead_s=max(overhead_s, default=None),
    )
