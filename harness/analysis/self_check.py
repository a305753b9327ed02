"""Whether a run's rounds are true to their own counts, and what the harness itself cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from harness.records.types import SELF_CHECK, Record


@dataclass(frozen=True, kw_only=True, slots=True)
class SelfCheck:
    """num_rounds: sound ones. broken: (cell, what does not hold) of each record that ended so.
    overhead: of a round, outside the request.
    """

    num_rounds: int
    broken: tuple[tuple[str, str], ...]
    overhead_s: float | None  # median over rounds
    max_overhead_s: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def self_check_of(records: Iterable[Record]) -> SelfCheck:
    """Of a run's records."""
    records = list(records)
    ok = [record for record in records if record.status == "ok"]
    overhead_s = [seconds for record in ok for seconds in record.course.get("overhead_s", ())]
    return SelfCheck(
        num_rounds=sum(len(record.rounds) for record in ok),
        broken=tuple(
            (record.cell.label, record.reason.removeprefix(f"{SELF_CHECK}: "))
            for record in records
            if record.reason is not None and record.reason.startswith(SELF_CHECK)
        ),
        overhead_s=median(overhead_s) if overhead_s else None,
        max_overhead_s=max(overhead_s, default=None),
    )
