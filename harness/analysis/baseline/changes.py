"""The two acts that change a baseline: approving what a run offers, and ending what was accepted."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from harness.analysis.acceptance import MOST_WORSENING, check_until, is_over, left_of, share_worse
from harness.analysis.baseline.stored import (
    BASELINE_SCHEMA,
    Approval,
    Approved,
    Baseline,
    path_of,
    read,
    read_if_any,
)
from harness.analysis.candidate import Candidate, Value
from harness.records import store, strict
from harness.records.locked import locked
from harness.records.store import StoreError
from harness.spec.config import ConfigError, nearest


class NothingToApprove(Exception):
    """No cell of the run ended well; a baseline of nothing would find fault with nothing."""


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
    """Write the candidate's values of these cells (as `chosen` reads them; none: all) into the baseline.

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
    offered = chosen(candidate.values, cells) if cells else candidate.values
    taken = [_approved(one, _of_one_metric(known, one), (one.cell_id, one.rule) in live, number) for one in offered]
    worse = [one.value for one in taken if one.accepted_by == number]
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
    changes = [_change(one.value, _of_one_metric(known, one.value)) for one in taken]
    values = {**known, **{(one.value.cell_id, one.value.rule): one for one in taken}}
    _write(path, replace(before, approvals=(*before.approvals, approval), values=_sorted(values.values())))
    return changes


def expire(paths: Sequence[Path], *, cells: Collection[str], today: date) -> dict[Path, list[Change]]:
    """End what was accepted: of these cells, or where none is named, whatever has a date that is over. Values stay.

    Raises:
        ConfigError: cells that no baseline of these has; then none is changed.
        StoreError: a baseline is damaged.
    """
    ids = {one.cell_id for one in chosen([one.value for path in paths for one in read(path).values], cells)}
    ended = {}
    for path in paths:
        with locked(path.parent):
            ended[path] = _expire(path, ids if cells else None, today)
    return ended


def _expire(path: Path, cell_ids: Collection[str] | None, today: date) -> list[Change]:
    """cell_ids: None: whatever is over."""
    before = read(path)
    untils = {one.number: one.until for one in before.approvals}
    ended = []
    values = []
    for one in before.values:
        until = None if one.accepted_by is None else untils[one.accepted_by]
        ends = one.value.worsening is not None and (
            one.value.cell_id in cell_ids if cell_ids is not None else until is not None and is_over(until, today)
        )
        if ends:
            ended.append(_change(one.value, one))
        values.append(replace(one, value=replace(one.value, worsening=None), accepted_by=None) if ends else one)
    if ended:
        _write(path, replace(before, values=_sorted(values)))
    return ended


def _of_one_metric(known: Mapping[tuple[str, str], Approved], value: Value) -> Approved | None:
    """What is approved of the value's cell and rule; nothing where the rule was one of another metric then."""
    found = known.get((value.cell_id, value.rule))
    return found if found is not None and found.value.metric == value.metric else None


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


def chosen(values: Sequence[Value], cells: Collection[str]) -> list[Value]:
    """The values of the cells that any of these names: an id, its first 8 digits as outputs show them, or words that
    all stand in the cell's label, so that b1 is not b16.

    Raises:
        ConfigError: a name is empty, or names no cell.
    """
    for name in cells:
        if not name.strip():
            raise ConfigError("--cells: an empty name; leave the option out for all cells")
        if not any(_names(name, one) for one in values):
            labels = sorted({one.label for one in values})
            words = sorted({word for label in labels for word in label.split()})
            near = nearest(name, labels) or nearest(name, words)
            raise ConfigError(f"--cells: {name!r} names no cell here; expected an id, or words of a label{near}")
    return [one for one in values if any(_names(name, one) for name in cells)]


def _names(name: str, value: Value) -> bool:
    return name in (value.cell_id, value.cell_id[:8]) or set(name.split()) <= set(value.label.split())


def _sorted(values: Iterable[Approved]) -> tuple[Approved, ...]:
    return tuple(sorted(values, key=lambda one: (one.value.label, one.value.cell_id, one.value.rule)))


def _write(path: Path, baseline: Baseline) -> None:
    """Without approvals that no value needs any more; git keeps them.

    Raises:
        StoreError: nobody could read it again.
    """
    used = {number for one in baseline.values for number in (one.approval, one.accepted_by)}
    kept = replace(baseline, approvals=tuple(one for one in baseline.approvals if one.number in used))
    document = strict.plain(kept)
    try:
        strict.build(Baseline, document)
    except strict.Unfit as error:
        raise StoreError(f"{path}: is left as it is, for it could not be read again: {error}") from None
    store.write_atomic(path, store.json_lines(document))
