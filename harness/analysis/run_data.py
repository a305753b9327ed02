"""A run directory, read whole: what was planned, what each cell gave, and what the reader stumbled over."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.analysis.environments import mixed_environments
from harness.records.parse import cell_from_json, is_shallow
from harness.records.store import NewerSchemaError, RunRecords, StoreError, read_environments, read_json, read_records
from harness.records.types import Cell, Environment, Record, equal_but_for
from harness.spec.config import DeviceConfig
from harness.spec.data import device_of
from harness.spec.floor import Shape, shape_from_json
from harness.spec.plan import PLAN_SCHEMA

GIVEN_PRICE = "given with --usd-per-hour"  # the source of a price that is not a device file's
MOST_LAUNCHES = 10_000
_MOST_OF_A_PHASE = 1e12  # passes, or seconds of one
_OBJECTS = ("device", "model", "protocol", "provenance", "prompts", "drawn_from")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)  # one is what it is: caches take it as a key
class CellPlan:
    """A planned cell as plan.json keeps it. Floors are None where the device has no roofs; `missing` says why."""

    cell: Cell
    cell_id: str
    twin_id: str | None
    floor_basis: str
    phases: dict[str, dict[str, Any]]  # pass kind -> count, and floor_s over all of them
    missing: dict[str, str]
    peer_id: str | None = None  # the same cell on another backend, with which it is compared
    price_usd_per_hour: float | None = None  # of the device, as its file has it


@dataclass(frozen=True, kw_only=True, slots=True)
class SkippedCell:
    cell: Cell
    cell_id: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Run:
    """One run directory. `run_id` is the directory's name, so that a fresh run differs from the one before it."""

    directory: Path
    run_id: str
    plan: dict[str, Any]  # what plan.json says of them all
    cells: tuple[CellPlan, ...]  # of a shard its own share alone: the others are measured elsewhere
    skipped: tuple[SkippedCell, ...]
    records: RunRecords
    final: dict[tuple[str, int], Record]  # (cell_id, launch) -> the latest attempt's record
    by_process: dict[tuple[str, int, str], Record]  # (cell_id, launch, worker) -> what that process measured, if ok
    planned: dict[str, CellPlan]  # by cell id
    most_steps: dict[Hashable, CellPlan]  # steps_key -> of the cells that it holds together, that with the most steps
    fewest_options: dict[Hashable, CellPlan]  # options_key -> likewise, the one that sets the fewest options
    environments: dict[str, Environment]
    shape: Shape | None  # None: a plan of an earlier version, which does not say
    device: DeviceConfig  # the device file's roofs
    measured_roofs: dict[str, DeviceConfig]  # environment id -> the roofs that a probe found there
    warnings: tuple[str, ...]
    machine_warnings: tuple[str, ...]  # what doctor did not find in order when the run began

    @property
    def suite(self) -> str:
        return str(self.plan["suite"])

    @property
    def peer(self) -> str:
        """The backend that this run's own one is compared with; empty where there is none."""
        return str(self.plan.get("peer") or "")

    @property
    def is_trained(self) -> bool:
        return bool(self.plan["model"]["trained"])

    @property
    def trained_block_length(self) -> int | None:
        """The canvas length that the weights were trained with; None where the model has none."""
        length = self.plan["model"].get("trained_canvas_length")
        return int(length) if length else None

    def ok_records(self, cell_id: str) -> list[Record]:
        """The cell's records that ended well, launch after launch."""
        records = (self.final.get((cell_id, launch)) for launch in range(int(self.plan["protocol"]["launches"])))
        return [record for record in records if record is not None and record.status == "ok"]

    @property
    def device_name(self) -> str:
        device = self.plan["device"]
        return str(device.get("display_name") or device["name"])


def load_run(run_dir: Path, usd_per_hour: Mapping[str, float] | None = None) -> Run:
    """Read a run directory. usd_per_hour: device -> the price of its hour in place of its file's.

    Raises:
        StoreError: plan.json is absent, damaged or newer than this version, or a file cannot be read.
    """
    directory = run_dir.resolve()
    plan = _read_plan(directory / "plan.json")
    price = _price_of(plan["device"], usd_per_hour or {})
    planned = tuple(_cell_plan(directory, entry, price) for entry in plan["cells"])
    cells = tuple(one for one, entry in zip(planned, plan["cells"], strict=True) if _is_own(entry, plan))
    skipped = tuple(
        SkippedCell(cell=_cell(directory, entry), cell_id=str(entry["cell_id"]), reason=str(entry["reason"]))
        for entry in plan["skipped"]
    )
    environments = read_environments(directory)
    records = read_records(directory, cells={one.cell_id: one.cell for one in planned})
    final = records.final
    measured_roofs, roof_warnings = _measured_roofs(directory, environments)
    oldest_first = sorted((r for r in records.records if r.status == "ok"), key=lambda r: (r.attempt, r.started_at))
    return Run(
        directory=directory,
        run_id=directory.name,
        plan={key: value for key, value in plan.items() if key not in ("cells", "skipped")},
        cells=cells,
        skipped=skipped,
        records=records,
        final=final,
        by_process={(r.cell_id, r.launch, r.worker): r for r in oldest_first},
        planned={one.cell_id: one for one in cells},
        most_steps=_most_steps(cells),
        fewest_options={options_key(one.cell): one for one in sorted(cells, key=lambda one: -len(one.cell.options))},
        environments=environments,
        shape=_shape(plan),
        device=device_of(str(plan["device"]["name"]), plan["device"]),
        measured_roofs=measured_roofs,
        warnings=(
            *roof_warnings,
            *_elsewhere(plan, len(planned) - len(cells)),
            *records.warnings,
            *_warnings(records, final, {c.cell_id for c in planned}, environments),
        ),
        machine_warnings=tuple(dict.fromkeys(_machine_warnings(directory))),
    )


def steps_key(cell: Cell) -> Hashable:
    """Equal for cells that differ in num_steps alone."""
    return equal_but_for(cell, "num_steps")


def options_key(cell: Cell) -> Hashable:
    """Equal for cells that differ in options alone."""
    return equal_but_for(cell, "options")


def _most_steps(cells: Sequence[CellPlan]) -> dict[Hashable, CellPlan]:
    diffusion = [planned for planned in cells if planned.cell.num_steps is not None]
    return {steps_key(planned.cell): planned for planned in sorted(diffusion, key=lambda one: one.cell.num_steps or 0)}


def _read_plan(path: Path) -> dict[str, Any]:
    plan = read_json(path, keep=_compact())
    schema = plan.get("plan_schema")
    if isinstance(schema, int) and schema > PLAN_SCHEMA:
        raise NewerSchemaError(
            f"{path}: plan_schema {schema} is newer than this version's {PLAN_SCHEMA}; upgrade canvasbench"
        )
    wanted = {"suite": str, "device": dict, "model": dict, "protocol": dict, "cells": list, "skipped": list}
    for key, kind in wanted.items():
        if not isinstance(plan.get(key), kind):
            raise StoreError(f"{path}: is not a plan: {key!r} is absent or no {kind.__name__}")
    for parent, key in (("device", "name"), ("model", "trained"), ("protocol", "launches")):
        if key not in plan[parent]:
            raise StoreError(f"{path}: is not a plan: {parent}.{key} is absent")
    if not isinstance(plan["device"]["name"], str) or type(plan.get("seed")) not in (int, type(None)):
        raise StoreError(f"{path}: is not a plan: device.name is no text, or seed no whole number")
    launches = plan["protocol"]["launches"]
    if type(launches) is not int or not 1 <= launches <= MOST_LAUNCHES:
        expected = f"a whole number from 1 to {MOST_LAUNCHES:,}"
        raise StoreError(f"{path}: protocol.launches is {str(launches)[:40]!r}, expected {expected}")
    for key in (*_OBJECTS, "provenance.identity", "provenance.stack"):
        found: Any = plan
        for part in key.split("."):
            found = found.get(part) or {}
        if not isinstance(found, dict) or not is_shallow(found):
            raise StoreError(f"{path}: {key} is {str(found)[:40]!r}, expected an object")
    return plan


def _compact() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What to keep of each object in a plan: of phases what is used here, and one copy of what many cells say."""
    known: dict[tuple[Any, ...], dict[str, Any]] = {}

    def keep(found: dict[str, Any]) -> dict[str, Any]:
        if "floor_s" in found and "operations" in found:
            found = {key: found.get(key) for key in ("count", "floor_s")}
        elif "floor_s" in found or not all(isinstance(value, str) for value in found.values()):
            return found
        try:
            return known.setdefault(tuple(found.items()), found)
        except TypeError:  # an object where a number should be
            return found

    return keep


def _is_own(entry: dict[str, Any], plan: dict[str, Any]) -> bool:
    """Whether the shard that plan.json was written by measures this cell; without shards every cell is one's own."""
    own = str(plan.get("shard", "1/1")).split("/")[0]
    return str(entry.get("share", own)) == own


def _elsewhere(plan: dict[str, Any], count: int) -> list[str]:
    """What a reader of a shard's page must know."""
    if not count:
        return []
    return [f"this is shard {plan['shard']}: {count} cells of the suite are left to the others; `merge` joins them"]


def _price_of(device: dict[str, Any], given: Mapping[str, float]) -> float | None:
    if device["name"] in given:
        device["price_usd_per_hour"] = {"value": given[device["name"]], "source": GIVEN_PRICE}
    figure = device.get("price_usd_per_hour")
    value = figure.get("value") if isinstance(figure, dict) else None
    return float(value) if isinstance(value, int | float) else None


def _cell_plan(directory: Path, entry: Any, price_usd_per_hour: float | None) -> CellPlan:
    cell = _cell(directory, entry)
    phases, missing = entry.get("phases") or {}, entry.get("missing") or {}
    if not (isinstance(phases, dict) and all(map(_is_phase, phases.values())) and isinstance(missing, dict)):
        raise StoreError(f"{directory / 'plan.json'}: holds a damaged cell: its phases or what is missing of it")
    return CellPlan(
        cell=cell,
        cell_id=str(entry["cell_id"]),
        twin_id=entry.get("twin_id"),
        peer_id=entry.get("peer_id"),
        floor_basis=str(entry.get("floor_basis", "exact")),
        phases=phases,
        missing=missing,
        price_usd_per_hour=price_usd_per_hour,
    )


def _is_phase(found: Any) -> bool:
    """Whether it has a count, which is a mean where steps are replayed, and a floor in seconds or none."""
    if not isinstance(found, dict):
        return False
    given = [found.get("count"), *([] if found.get("floor_s") is None else [found["floor_s"]])]
    return all(type(number) in (int, float) and 0 <= number <= _MOST_OF_A_PHASE for number in given)


def _cell(directory: Path, entry: Any) -> Cell:
    try:
        cell = cell_from_json(entry["cell"])
        claimed = entry["cell_id"]
    except (TypeError, KeyError, ValueError) as error:
        raise StoreError(f"{directory / 'plan.json'}: holds a damaged cell: {error}") from None
    if claimed != cell.cell_id:
        raise StoreError(f"{directory / 'plan.json'}: cell_id {claimed} does not belong to its cell ({cell.cell_id})")
    return cell


def _shape(plan: dict[str, Any]) -> Shape | None:
    try:
        return shape_from_json(plan["model"]["shape"])
    except (KeyError, TypeError, ValueError):
        return None


def _measured_roofs(directory: Path, names: Iterable[str]) -> tuple[dict[str, DeviceConfig], list[str]]:
    """Environment id -> roofs of its machine; and what could not be read."""
    roofs, warnings = {}, []
    for name in names:
        path = directory / f"roof-{name}.json"
        if path.exists():
            try:
                roofs[name] = device_of("as measured", read_json(path))
            except StoreError as error:
                warnings.append(f"{error}; floors go without it")
    return roofs, warnings


def _machine_warnings(directory: Path) -> Iterator[str]:
    """What doctor did not find in order; a merged run has the findings of every machine."""
    for path in sorted(directory.glob("doctor*.json")):
        try:
            for check in read_json(path)["checks"]:
                if check["status"] != "ok":
                    yield f"{check['name']}: {check['found']} (doctor: {check['status']})"
        except (StoreError, KeyError, TypeError):
            yield f"{path.name} cannot be read, so what the machine lacked is not known"


def _warnings(
    records: RunRecords,
    final: dict[tuple[str, int], Record],
    planned: set[str],
    environments: dict[str, Environment],
) -> list[str]:
    warnings = [
        f"{r.cell.label}, launch {r.launch}, attempt {r.attempt} was recorded twice; "
        f"worker {final[r.key].worker} is used, worker {r.worker} is not"
        for r in records.duplicates
    ]
    interrupted = [r for r in records.records if r.is_interrupted]
    if interrupted:
        kept = sum(len(r.rounds) for r in interrupted)
        warnings.append(
            f"attempts that were interrupted: {len(interrupted)}; the rounds that they finished are kept and not "
            f"counted: {kept}"
        )
    strangers = sum(1 for r in records.records if r.cell_id not in planned)
    if strangers:
        warnings.append(f"{strangers} records belong to cells that plan.json does not hold; they are not shown")
    used = {r.environment_id for r in final.values()}
    warnings += mixed_environments(final, environments)
    warnings += [f"environment-{name}.json is absent" for name in sorted(used - environments.keys())]
    return warnings
