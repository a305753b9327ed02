"""What a baseline holds, and how it is read: whatever contradicts itself is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any

from harness.analysis.acceptance import check_until, is_date, is_over
from harness.analysis.candidate import IF_OLDER, SHA256, Value, check_unique
from harness.analysis.gate.judge import Acceptance, Accepted
from harness.records import strict
from harness.records.store import StoreError
from harness.records.types import content_hash
from harness.spec.config import ConfigError

BASELINE_SCHEMA = 3  # 2: what was asked; 3: metrics by name
_MOST_APPROVALS = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Approval:
    """One act of approving; git says who."""

    number: Annotated[int, strict.within(1, _MOST_APPROVALS)]
    run_id: Annotated[str, strict.TEXT]
    records_sha256: Annotated[str, SHA256]
    stack: dict[str, Any]
    question: dict[str, str]  # weights, seed, prompts and protocol
    reason: Annotated[str, strict.TEXT]
    approved_on: Annotated[str, strict.Fits("a date such as 2027-01-31", is_date)]
    until: str | None  # ISO date, or an issue's address; None: nothing was worse

    def __post_init__(self) -> None:
        """Raises ValueError for an end that is none, or that comes before it begins."""
        if self.until is not None:
            check_until(self.until)
            if is_date(self.until) and self.until < self.approved_on:
                raise ValueError(f"until {self.until} is before approved_on {self.approved_on}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Approved:
    value: Value
    approval: int  # of its value, stack and question
    accepted_by: int | None  # the approval whose reason and end hold for the worsening; None: there is none


@dataclass(frozen=True, kw_only=True, slots=True)
class Baseline:
    baseline_schema: int
    suite: str
    identity: dict[str, Any]
    approvals: tuple[Approval, ...]
    values: tuple[Approved, ...]  # by label and rule

    def __post_init__(self) -> None:
        """Raises ValueError where it contradicts itself."""
        numbers = {one.number for one in self.approvals}
        if len(numbers) != len(self.approvals):
            raise ValueError("two approvals have one number")
        check_unique([one.value for one in self.values])
        if any(one.approval not in numbers for one in self.values):
            raise ValueError("a value belongs to no approval")
        ends = {one.number for one in self.approvals if one.until is not None}
        for one in self.values:
            if (one.value.worsening is None) != (one.accepted_by is None) or one.accepted_by not in {*ends, None}:
                raise ValueError("a worsening is accepted by no approval with an end")

    @property
    def num_cells(self) -> int:
        return len({one.value.cell_id for one in self.values})

    @property
    def too_few_launches(self) -> list[Value]:
        """Times that are listed and not compared."""
        return [one.value for one in self.values if not one.value.is_compared]

    @property
    def by_key(self) -> dict[tuple[str, str], Approved]:
        return {(one.value.cell_id, one.value.rule): one for one in self.values}

    def accepted(self, today: date) -> Accepted:
        """(cell_id, rule) -> the worsening that was approved, as long as it has not expired."""
        approvals = {one.number: one for one in self.approvals}
        found = {}
        for key, one in self.by_key.items():
            approval, worsening = approvals.get(one.accepted_by or 0), one.value.worsening
            if approval is None or worsening is None or approval.until is None or is_over(approval.until, today):
                continue
            found[key] = Acceptance(
                up_to=worsening, value=one.value.value, reason=approval.reason, until=approval.until
            )
        return found


def folder_of(identity: Mapping[str, Any]) -> str:
    """The machine's name for a folder, and a hash that tells like-named ones apart."""
    gpu = identity.get("gpu")
    name = gpu.get("name") if isinstance(gpu, dict) else identity.get("cpu")
    slug = re.sub(r"[^a-z0-9]+", "-", str(name or "machine").lower()).strip("-")[:40]
    return f"{slug}-{content_hash(dict(identity), 8)}"


def path_of(baselines_dir: Path, identity: Mapping[str, Any], suite: str) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", suite):
        raise ConfigError(f"suite {suite[:40]!r} cannot be a file's name")
    return baselines_dir / folder_of(identity) / f"{suite}.json"


def read(path: Path) -> Baseline:
    """Raises StoreError where it is absent, damaged, older, newer, contradicts itself, or lies in another's place."""
    found = strict.read_file(path, Baseline, schema_key="baseline_schema", schema=BASELINE_SCHEMA, if_older=IF_OLDER)
    if path.stem != found.suite or path.parent.name != folder_of(found.identity):
        raise StoreError(f"{path}: is the baseline of {folder_of(found.identity)}/{found.suite}, so it lies elsewhere")
    return found


def read_if_any(path: Path) -> Baseline | None:
    return read(path) if path.exists() else None


def to_json(baseline: Baseline, path: Path, today: date) -> dict[str, Any]:
    """For `baseline list --json`."""
    accepted = baseline.accepted(today)
    return {
        "path": str(path),
        "suite": baseline.suite,
        "identity": baseline.identity,
        "approvals": [asdict(one) for one in baseline.approvals],
        "num_values": len(baseline.values),
        "too_few_launches": [
            {"cell_id": one.cell_id, "rule": one.rule, "num_launches": one.num_launches}
            for one in baseline.too_few_launches
        ],
        "accepted": [
            {"cell_id": cell_id, "rule": rule, **asdict(one)} for (cell_id, rule), one in sorted(accepted.items())
        ],
    }
