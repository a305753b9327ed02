"""What a metric gives of each round of a cell, and from which other rounds and records it is computed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
from functools import partial
from typing import Any, get_args

from harness.analysis.floors import floors_of, measured_floors_of
from harness.analysis.metrics import METRICS, Metric, Missing
from harness.analysis.metrics.registry import Scope
from harness.analysis.run_data import CellPlan, Run, options_key, steps_key
from harness.analysis.summary import Share, Summary, summarise, summarise_share
from harness.records.types import AUTOREGRESSIVE, TWIN_FIELDS, Cell, Record, Round

_CELL_FIELDS = tuple(f.name for f in fields(Cell))
# A cell and its peer may differ in these; each backend has options of its own, and those that both know are equal.
PEER_KEYS = ("backend", "options")
_SCOPES: tuple[Scope, ...] = get_args(Scope)


# Of each call of a metric's function in a record, or why there is none: as a text, because an exception would keep the
# rounds of all that were on the stack.
Inputs = list[tuple[Any, ...]] | str


def summaries_of(planned: CellPlan, records: Iterable[Record], run: Run) -> tuple[dict[str, Summary], dict[str, str]]:
    """Every metric over a cell's finished records, and why others are missing."""
    records = list(records)
    launches = {scope: [(one.launch, _inputs(scope, planned, one, run)) for one in records] for scope in _SCOPES}
    metrics, missing = {}, {}
    for metric in METRICS.values():
        by_launch, reasons = _values(metric, launches[metric.scope])
        if by_launch:
            summarised = summarise_share if metric.scope == "share" else summarise
            metrics[metric.name] = summarised(list(by_launch.values()), metric.unit)
        else:
            missing[metric.name] = reasons[0] if reasons else "no finished round"
    return metrics, missing


def values_of(metric: Metric, planned: CellPlan, run: Run) -> dict[int, list[Any]]:
    """Launch -> what each of its rounds gave, a number or its rows' shares."""
    records = run.ok_records(planned.cell_id)
    return _values(metric, [(one.launch, _inputs(metric.scope, planned, one, run)) for one in records])[0]


def _inputs(scope: Scope, planned: CellPlan, record: Record, run: Run) -> Inputs:
    try:
        return list(inputs_of(scope, planned, record, run))
    except Missing as why:
        return str(why)


def _values(metric: Metric, launches: Iterable[tuple[int, Inputs]]) -> tuple[dict[int, list[Any]], list[str]]:
    """Launch -> what each of its rounds gave; and why other rounds gave nothing."""
    by_launch: dict[int, list[Any]] = {}
    reasons = []
    compute = partial(_shares, metric) if metric.scope == "share" else metric.compute
    for launch, inputs in launches:
        if isinstance(inputs, str):
            reasons.append(inputs)
            continue
        values: list[Any] = []
        for one in inputs:
            try:
                values.append(compute(*one))
            except Missing as why:
                reasons.append(str(why))
        if values:
            by_launch[launch] = values
    return by_launch, reasons


def _shares(metric: Metric, round: Round, planned: CellPlan) -> list[Share]:
    """One of each row that counts, with the prompt that it answered."""
    rows = enumerate(metric.parts(round, planned))
    return [Share(*part, prompt_of(round, row, planned.cell)) for row, part in rows if part]


def prompt_of(round: Round, row: int, cell: Cell) -> tuple[Any, ...]:
    """What tells the prompts of a run apart; random ones and unnamed ones are told apart by the draw."""
    return (cell.prompt_set, round.prompt_ids[row]) if round.prompt_ids else (cell.prompt_set, round.seed, row)


def inputs_of(scope: Scope, planned: CellPlan, record: Record, run: Run) -> Iterator[tuple[Any, ...]]:
    """What the function of a metric of that scope gets, once or for each round of the record.

    Raises:
        Missing: what it is compared with is not there.
    """
    if scope == "record":
        yield record, planned
    elif scope in ("floor", "measured_floor"):
        floors = (floors_of if scope == "floor" else measured_floors_of)(record, planned, run)
        for round in record.rounds:
            yield round, floors
    elif scope == "most_steps":
        yield record, most_steps_record(record, planned, run)
    elif scope == "pair":
        yield from _pairs(record, twin_record(record, planned, run))
    elif scope == "peer":
        yield from _pairs(record, peer_record(record, planned, run))
    elif scope == "options":
        yield from _pairs(record, default_record(record, planned, run))
    elif scope == "floor_pair":
        twin = twin_record(record, planned, run)
        own, others = floors_of(record, planned, run), floors_of(twin, run.planned[twin.cell_id], run)
        for round, other in _pairs(record, twin):
            yield round, own, other, others
    else:
        for round in record.rounds:
            yield round, planned


def _pairs(record: Record, twin: Record) -> Iterator[tuple[Round, Round]]:
    """Rounds of equal index and seed."""
    by_index = {round.index: round for round in twin.rounds}
    for round in record.rounds:
        other = by_index.get(round.index)
        if other is not None and other.seed == round.seed:
            yield round, other


def most_steps_record(record: Record, planned: CellPlan, run: Run) -> Record:
    """That of the cell which differs in num_steps alone and has the most of them, in the same launch.

    Raises:
        Missing: this cell is the one, it has no steps, or the other one gave nothing.
    """
    if planned.cell.decoding == AUTOREGRESSIVE:
        raise Missing("autoregressive decoding has no steps")
    most = run.most_steps[steps_key(planned.cell)]
    if most.cell_id == planned.cell_id:
        raise Missing("it is the cell with the most steps, with which others are compared")
    other = run.final.get((most.cell_id, record.launch))
    if other is None or other.status != "ok":
        raise Missing(f"the cell with the most steps ({most.cell.num_steps}) gave nothing in this launch")
    return other


def default_record(record: Record, planned: CellPlan, run: Run) -> Record:
    """What the same process measured of the cell that differs in options alone and sets the fewest of them.

    Raises:
        Missing: there is none, or it gave nothing in this process.
    """
    default = run.fewest_options[options_key(planned.cell)]
    if default.cell_id == planned.cell_id:
        raise Missing("no cell differs from it in having fewer options")
    other = run.by_process.get((default.cell_id, record.launch, record.worker))
    if other is None:
        raise Missing("the cell without its options was not measured in the same process")
    return other


def twin_record(record: Record, planned: CellPlan, run: Run) -> Record:
    """What the same process measured of the autoregressive twin, whichever attempt that was.

    Raises:
        Missing: the cell has no twin, its twin gave nothing in this process, or the two differ in more than they may.
    """
    if planned.cell.decoding == AUTOREGRESSIVE:
        raise Missing("it is the baseline itself")
    if planned.twin_id is None:
        wanted = planned.cell.twin.cell_id
        reason = next((s.reason for s in run.skipped if s.cell_id == wanted), "it is not in the plan")
        raise Missing(f"no autoregressive twin: {reason}")
    if run.plan.get("isolation") == "process":
        raise Missing("isolation=process: every cell has a process of its own, and a speed-up takes rounds of one")
    return _of_one_process("autoregressive twin", planned.twin_id, record, run, TWIN_FIELDS)


def peer_record(record: Record, planned: CellPlan, run: Run) -> Record:
    """What the same process measured of the same cell on the suite's peer.

    Raises:
        Missing: there is no peer, it gave nothing in this process, or the two differ in more than they may.
    """
    if not run.peer:
        raise Missing("the suite has no peer")
    if planned.peer_id is None:
        raise Missing("it is the peer itself")
    isolation = run.plan.get("isolation")
    if isolation in ("backend", "process"):
        raise Missing(f"isolation={isolation}: it shares no process with its peer, and a speed-up takes rounds of one")
    return _of_one_process("peer", planned.peer_id, record, run, PEER_KEYS)


def _of_one_process(what: str, cell_id: str, record: Record, run: Run, may_differ: tuple[str, ...]) -> Record:
    other = run.by_process.get((cell_id, record.launch, record.worker))
    if other is None:
        last = run.final.get((cell_id, record.launch))
        ended = f"ended in {last.status}" if last is not None and last.status != "ok" else "was not measured"
        raise Missing(f"its {what} {ended} in the same process")
    differing = differing_keys(record.cell, other.cell, may_differ)
    if differing:
        raise Missing(f"refused: the pair differs in {', '.join(differing)}")
    return other


def differing_keys(cell: Cell, other: Cell, may_differ: tuple[str, ...] = TWIN_FIELDS) -> list[str]:
    """Fields in which two cells differ although they may not; peers in one of the options that both have."""
    names = [name for name in _CELL_FIELDS if name not in may_differ]
    shared = cell.options.keys() & other.options.keys() if "options" in may_differ else ()
    return [
        *(name for name in names if getattr(cell, name) != getattr(other, name)),
        *(f"options.{name}" for name in sorted(shared) if cell.options[name] != other.options[name]),
    ]
