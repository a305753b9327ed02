"""Approved values, committed to the repository: results/baselines/<identity>/<suite>.json, a line a cell and rule.

A run only writes a candidate (candidate.py). `baseline approve` turns candidates into approved values and `baseline
expire` ends what was accepted; nothing else ever changes a baseline, and both leave a diff to review.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from harness.analysis.acceptance import MOST_WORSENING, check_until, is_over, left_of, share_worse
from harness.analysis.candidate import Candidate, Value, read_current
from harness.analysis.gate.judge import Acceptance, Accepted
from harness.records import store, strict
from harness.records.locked import locked
from harness.records.store import StoreError
from harness.records.types import content_hash
from harness.spec.config import ConfigError, nearest

BASELINE_SCHEMA = 2  # 2: what was asked


class NothingToApprove(Exception):
    """No cell of the run ended well; a baseline of nothing would find fault with nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Approval:
    """One act of approving; git says who."""

    number: int
    run_id: str
    records_sha256: str
    stack: dict[str, Any]
    question: dict[str, str]  # weights, seed, prompts and protocol
    reason: str
    approved_on: str  # ISO date
    until: str | None  # ISO date, or an issue's address; None: nothing was worse


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
        keys = [(one.value.cell_id, one.value.rule) for one in self.values]
        if len(set(keys)) != len(keys):
            raise ValueError("a cell has a rule twice")
        if any(one.approval not in numbers for one in self.values):
            raise ValueError("a value belongs to no approval")
        ends = {one.number for one in self.approvals if one.until is not None}
        for one in self.values:
            if (one.value.worsening is None) != (one.accepted_by is None) or one.accepted_by not in {*ends, None}:
                raise ValueError("a worsening is accepted by no approval with an end")
        for approval in self.approvals:
            if approval.until is not None:
                check_until(approval.until)

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
    found = read_current(path, Baseline, "baseline_schema", BASELINE_SCHEMA)
    if path.stem != found.suite or path.parent.name != folder_of(found.identity):
        raise StoreError(f"{path}: is the baseline of {folder_of(found.identity)}/{found.suite}, so it lies elsewhere")
    return found


def read_if_any(path: Path) -> Baseline | None:
    return read(path) if path.exists() else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What approving did to one value: the line that a reviewer reads."""

    label: str
    rule: str
    unit: str
    old: float | None
    new: float
    worsening: float | None
    num_launches: int
    is_compared: bool  # not: a time from too few launches


def approve(
    baselines_dir: Path, candidate: Candidate, *, cells: Collection[str], reason: str, until: str | None, today: date
) -> tuple[Path, list[Change]]:
    """Write the candidate's values of these cells (ids, or parts of labels; none: all) into the baseline.

    Raises:
        ConfigError: no reason, cells that it does not have, or something is worse and `until` is None.
        NothingToApprove: the candidate has no value.
        StoreError: the baseline there is damaged.
    """
    if not candidate.values:
        raise NothingToApprove(f"{candidate.run_id}: no cell ended well, so there is nothing to approve")
    if not reason.strip():
        raise ConfigError("--reason: say why these values are to be the baseline")
    _check_open(until, today)
    path = path_of(baselines_dir, candidate.identity, candidate.suite)
    with locked(path.parent):
        return path, _approve(path, candidate, cells, reason, until, today)


def _approve(
    path: Path, candidate: Candidate, cells: Collection[str], reason: str, until: str | None, today: date
) -> list[Change]:
    before = read_if_any(path) or Baseline(
        baseline_schema=BASELINE_SCHEMA, suite=candidate.suite, identity=candidate.identity, approvals=(), values=()
    )
    known, number = before.by_key, max((one.number for one in before.approvals), default=0) + 1
    live = before.accepted(today).keys()
    chosen = [
        _approved(one, known.get((one.cell_id, one.rule)), (one.cell_id, one.rule) in live, number)
        for one in _chosen(candidate.values, cells)
    ]
    worse = [one.value for one in chosen if one.accepted_by == number]
    if worse and until is None:
        raise ConfigError(
            f"{len(worse)} values are worse than before, the first {worse[0].rule} of {worse[0].label} by "
            f"{worse[0].worsening or 0:.1%}\n--until: the date until which that is accepted, or the issue's address"
        )
    approval = Approval(
        number=number,
        run_id=candidate.run_id,
        records_sha256=candidate.records_sha256,
        stack=candidate.stack,
        question=candidate.question,
        reason=reason.strip(),
        approved_on=today.isoformat(),
        until=until if worse else None,
    )
    new = {(one.value.cell_id, one.value.rule): one for one in chosen}
    changes = [_change(one.value, known.get(key)) for key, one in new.items()]
    values = {**known, **new}
    _write(path, replace(before, approvals=(*before.approvals, approval), values=_sorted(values.values())))
    return changes


def expire(path: Path, *, cells: Collection[str], today: date) -> list[Change]:
    """End what was accepted: of these cells, or where none is named, whatever has a date that is over. Values stay."""
    with locked(path.parent):
        return _expire(path, cells, today)


def _expire(path: Path, cells: Collection[str], today: date) -> list[Change]:
    before = read(path)
    untils = {one.number: one.until for one in before.approvals}
    chosen = {one.cell_id for one in _chosen([one.value for one in before.values], cells)}
    ended = []
    values = []
    for one in before.values:
        until = None if one.accepted_by is None else untils[one.accepted_by]
        ends = one.value.worsening is not None and (
            one.value.cell_id in chosen if cells else until is not None and is_over(until, today)
        )
        if ends:
            ended.append(_change(one.value, one))
        values.append(replace(one, value=replace(one.value, worsening=None), accepted_by=None) if ends else one)
    if ended:
        _write(path, replace(before, values=_sorted(values)))
    return ended


def _change(value: Value, before: Approved | None) -> Change:
    return Change(
        label=value.label,
        rule=value.rule,
        unit=value.unit,
        old=None if before is None else before.value.value,
        new=value.value,
        worsening=value.worsening,
        num_launches=value.num_launches,
        is_compared=value.is_compared,
    )


def _check_open(until: str | None, today: date) -> None:
    if until is None:
        return
    try:
        check_until(until)
    except ValueError as error:
        raise ConfigError(f"--until: {error}") from None
    if is_over(until, today):
        raise ConfigError(f"--until: {until} is over; give a day to come, or the issue's address")


def _approved(value: Value, before: Approved | None, is_accepted: bool, number: int) -> Approved:
    """With how much worse it is than the approved one, where no job has said so; of times only a job can say it.

    is_accepted: the approved one is itself accepted as worse, which lasts until its end or until the value recovers.
    number: of this approval.
    """
    if before is None or value.worsening is not None:
        return Approved(value=value, approval=number, accepted_by=None if value.worsening is None else number)
    old, better = before.value.value, value.better
    worse = 0.0 if value.test == "time" else share_worse(old, value.value, better)
    earlier = before.value.worsening if is_accepted else None
    if worse:
        whole = min((1 + (earlier or 0)) * (1 + worse) - 1, MOST_WORSENING)
        return Approved(value=replace(value, worsening=whole), approval=number, accepted_by=number)
    left = None if earlier is None else left_of(earlier, old, value.value, better)
    accepted_by = None if left is None else before.accepted_by
    return Approved(value=replace(value, worsening=left), approval=number, accepted_by=accepted_by)


def _chosen(values: Iterable[Value], cells: Collection[str]) -> list[Value]:
    values = list(values)
    for name in cells:
        if not any(_names(name, one) for one in values):
            labels = sorted({one.label for one in values})
            raise ConfigError(f"--cells: {name!r} is no cell here{nearest(name, labels)}")
    return [one for one in values if not cells or any(_names(name, one) for name in cells)]


def _names(name: str, value: Value) -> bool:
    return name == value.cell_id or name in value.label


def _sorted(values: Iterable[Approved]) -> tuple[Approved, ...]:
    return tuple(sorted(values, key=lambda one: (one.value.label, one.value.cell_id, one.value.rule)))


def _write(path: Path, baseline: Baseline) -> None:
    """Without approvals that no value needs any more; git keeps them."""
    used = {number for one in baseline.values for number in (one.approval, one.accepted_by)}
    kept = replace(baseline, approvals=tuple(one for one in baseline.approvals if one.number in used))
    store.write_atomic(path, store.json_lines(strict.plain(kept)))


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
