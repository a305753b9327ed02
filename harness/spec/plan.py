"""From a SuiteConfig to the ordered cells that will be measured and the skipped ones with their reasons.

Pure functions: no device is touched, and nothing is imported that a laptop lacks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from engine.config import ModelConfig
from engine.cost import weight_bytes
from harness.records.types import AUTOREGRESSIVE, BLOCK_DIFFUSION, REPLAY, Cell, content_hash
from harness.spec import draws
from harness.spec.check import shard_of
from harness.spec.config import Axes, ConfigError, SuiteConfig, nearest
from harness.spec.data import RANDOM_IDS, PromptSet, load_prompts
from harness.spec.floor import Prediction, predict, shape_of, widths_of

PLAN_SCHEMA = 1
# A first guess of floor/measured for predicted times, replaced by measured ratios as soon as a cell is done.
ASSUMED_FLOOR_SHARE = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedCell:
    """A cell that will run, with what it is expected to cost."""

    cell: Cell
    cell_id: str = field(init=False)  # hashed once: everything that happens to a cell names it
    twin_id: str | None  # the autoregressive cell it is compared with; None for that one itself
    peer_id: str | None  # the same cell on the suite's peer; None without one, and for the peer's own cells
    group_id: str  # cells of one group are interleaved in one process
    prediction: Prediction
    predicted_s: float | None  # to measure it: the least of everything, in all launches
    floor_basis: str  # exact | cap: an early stop can only make it cheaper | expected: over the steps that are drawn

    def __post_init__(self) -> None:
        object.__setattr__(self, "cell_id", self.cell.cell_id)


@dataclass(frozen=True, kw_only=True, slots=True)
class SkippedCell:
    cell: Cell
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Everything that `run` will do. `run_id` is empty until the machine is known."""

    config: SuiteConfig
    shape: ModelConfig
    prompts: dict[str, PromptSet]
    cells: tuple[PlannedCell, ...]
    skipped: tuple[SkippedCell, ...]
    run_id: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def groups(self) -> dict[str, list[PlannedCell]]:
        """Group id -> its cells, in plan order."""
        grouped: dict[str, list[PlannedCell]] = {}
        for planned in self.cells:
            grouped.setdefault(planned.group_id, []).append(planned)
        return grouped

    @property
    def shares(self) -> dict[str, int]:
        """Group id -> which share of `shard` it falls into, counted from 1.

        The heaviest group goes first to the lightest share, so that no two shares differ by more than one group.
        """
        _, count = shard_of(self.config.shard)
        work = {name: sum(work_of(planned) for planned in group) for name, group in self.groups.items()}
        loads = [0.0] * count
        shares = {}
        for name in sorted(work, key=lambda name: -work[name]):  # stable: plan order among equals
            lightest = loads.index(min(loads))
            loads[lightest] += work[name]
            shares[name] = lightest + 1
        return shares

    @property
    def own_groups(self) -> list[list[PlannedCell]]:
        """The groups that this command measures: whole ones, because twins share a process."""
        own, _ = shard_of(self.config.shard)
        shares = self.shares
        return [group for name, group in self.groups.items() if shares[name] == own]

    @property
    def predicted_s(self) -> float | None:
        return predicted_s_of(self.cells)


def work_of(planned: PlannedCell) -> float:
    """How long a cell takes against others: its predicted seconds, or its passes where the device has no roofs."""
    return planned.predicted_s or float(sum(planned.prediction.passes.values()))


def predicted_s_of(cells: Iterable[PlannedCell]) -> float | None:
    """Seconds to measure these cells; None where one of them has no prediction."""
    times = [planned.predicted_s for planned in cells]
    return None if None in times else sum(t or 0.0 for t in times)


def build(config: SuiteConfig) -> Plan:
    """Expand the grid, add the twins, and skip what cannot run.

    Raises:
        ConfigError: a model or prompt file that cannot be read, or a model that cannot do what the suite asks.
    """
    shape = shape_of(config.model)
    if BLOCK_DIFFUSION in config.axes.decoding and shape.canvas_length is None:
        raise ConfigError(
            f"model {_model_name(config)!r} is autoregressive only, so it cannot denoise\n"
            "use axes.decoding=[autoregressive]"
        )
    prompts = {name: load_prompts(name, config.config_dir) for name in config.axes.prompt_set}
    planned: list[PlannedCell] = []
    skipped: list[SkippedCell] = []
    for cell in _with_twins(config):
        prediction = predict(cell, shape, config.device)
        reason = _skip_reason(cell, config, shape, prompts, prediction)
        for one in [cell, *([_on_peer(cell, config)] if config.peer else [])]:
            if reason:
                skipped.append(SkippedCell(cell=one, reason=reason))
            else:
                planned.append(_planned(one, config, prediction))
    ids = {p.cell_id for p in planned}
    kept = tuple(p if p.twin_id in ids else replace(p, twin_id=None) for p in planned)
    plan = Plan(config=config, shape=shape, prompts=prompts, cells=_grouped(kept), skipped=tuple(skipped))
    return _chosen(plan) if config.cells else plan


def _chosen(plan: Plan) -> Plan:
    """The plan with the cells that `cells` names, in that order; what they were compared with goes with the rest.

    Raises:
        ConfigError: an id that no cell has which would be measured.
    """
    by_id = {planned.cell_id: planned for planned in plan.cells}
    reasons = {skipped.cell.cell_id: skipped.reason for skipped in plan.skipped}
    names = plan.config.cells
    for name in names:
        if name in reasons:
            raise ConfigError(f"cells: {name} is skipped: {reasons[name]}")
        if name not in by_id:
            raise ConfigError(
                f"cells: {name!r} is no cell of this suite{nearest(name, by_id)}\n"
                "write ids in quotes, as `python -m harness plan --json` has them, without cells="
            )
        if names.count(name) > 1:
            raise ConfigError(f"cells: names {name} twice")
    cells = tuple(
        replace(
            one,
            twin_id=one.twin_id if one.twin_id in names else None,
            peer_id=one.peer_id if one.peer_id in names else None,
        )
        for one in map(by_id.__getitem__, names)
    )
    return replace(plan, cells=cells, skipped=())


def _with_twins(config: SuiteConfig) -> Iterator[Cell]:
    """Every cell once; each group's anchor right before its first member."""
    seen: set[str] = set()
    for cell in _grid(config):
        for one in (cell.twin, cell):
            if one.cell_id not in seen:
                seen.add(one.cell_id)
                yield one


def _on_peer(cell: Cell, config: SuiteConfig) -> Cell:
    """The same cell on the suite's peer, which has options of its own."""
    return replace(cell, backend=config.peer, options={"window": config.model.window, **config.peer_options})


def _grouped(cells: Sequence[PlannedCell]) -> tuple[PlannedCell, ...]:
    """The cells with a peer's moved into the group of the cell which is compared with it."""
    of_peers = {p.peer_id: p.group_id for p in cells if p.peer_id}
    return tuple(replace(p, group_id=of_peers.get(p.cell_id, p.group_id)) for p in cells)


def _grid(config: SuiteConfig) -> Iterator[Cell]:
    names = [f.name for f in fields(Axes)]
    common: dict[str, Any] = {
        "backend": config.backend,
        "model": _model_name(config),
        "eos": config.eos,
        "routing": config.routing,
        "device": config.device.name,
        "protocol": config.protocol.name,
        "options": {
            "window": config.model.window,
            **draws.defaults(config.axes.stopping, config.routing),
            **config.options,
        },
    }
    for values in itertools.product(*(getattr(config.axes, name) for name in names)):
        point = dict(zip(names, values, strict=True))
        cell = Cell(**{**common, **point, "options": {**common["options"], **point["options"]}})
        yield cell.twin if cell.decoding == AUTOREGRESSIVE else cell


def _model_name(config: SuiteConfig) -> str:
    return Path(config.model.path).resolve().name if config.model.path else config.model.preset


def _group_id(cell: Cell, config: SuiteConfig) -> str:
    """One of an anchor and all cells whose twin it is.

    Cells that differ in axes.options alone are in one group too, with an anchor each: what an option brings is a ratio
    of rounds that were measured side by side.
    """
    return (replace(cell.twin, options={}) if len(config.axes.options) > 1 else cell.twin).cell_id


def _planned(cell: Cell, config: SuiteConfig, prediction: Prediction) -> PlannedCell:
    protocol, floor_s = config.protocol, prediction.floor_s
    requests = (protocol.warmup_rounds + protocol.rounds + int(protocol.counters)) * protocol.launches
    windows_s = protocol.energy_window_s * protocol.launches * asks_energy(cell, config)
    exact = cell.eos == "ignore" and cell.stopping in ("fixed", None)
    twin_id = None if cell.decoding == AUTOREGRESSIVE else cell.twin.cell_id
    return PlannedCell(
        cell=cell,
        twin_id=twin_id,
        peer_id=None if cell.backend == config.peer or not config.peer else _on_peer(cell, config).cell_id,
        group_id=_group_id(cell, config),
        prediction=prediction,
        predicted_s=None if floor_s is None else requests * floor_s / ASSUMED_FLOOR_SHARE + windows_s,
        floor_basis="exact" if exact else "expected" if cell.stopping == REPLAY and cell.eos == "ignore" else "cap",
    )


def _is_named(cell: Cell, rule: dict[str, Any]) -> bool:
    """Whether the cell has one of the values that the rule lists, on every axis that it names."""
    return all(getattr(cell, key) in values for key, values in rule.items() if key != "reason")


def asks_energy(cell: Cell, config: SuiteConfig) -> bool:
    """Whether the suite names this cell for an energy window."""
    return any(_is_named(cell, rule) for rule in config.energy)


def _skip_reason(
    cell: Cell, config: SuiteConfig, shape: ModelConfig, prompts: dict[str, PromptSet], prediction: Prediction
) -> str | None:
    for rule in config.exclude:
        if _is_named(cell, rule):
            return f"excluded by the suite: {rule.get('reason') or 'no reason given'}"
    block = cell.block_length or 1
    positions = cell.prompt_tokens + -(-cell.output_tokens // block) * block
    if positions > shape.max_position_embeddings:
        return f"needs {positions} positions, the model has {shape.max_position_embeddings}"
    available = len(prompts[cell.prompt_set].texts)
    if cell.prompt_set != RANDOM_IDS and cell.batch_size > available and not config.repeat_prompts:
        lack = f"batch {cell.batch_size} needs more than the {available} prompts of {cell.prompt_set}"
        return f"{lack}; repeat_prompts=true allows it"
    return _memory_reason(cell, config, shape, prediction)


def _memory_reason(cell: Cell, config: SuiteConfig, shape: ModelConfig, prediction: Prediction) -> str | None:
    available = config.device.memory_bytes.value
    shares = config.peer and config.isolation == "launch"
    needed = prediction.memory_bytes + (weight_bytes(shape, widths_of(cell)) if shares else 0)
    if available is None or needed <= available:
        return None
    fits = shares and prediction.memory_bytes <= available
    both = f" with the weights of {config.backend} and {config.peer} in one process" if fits else ""
    hint = "; isolation=backend measures them one after another" if fits else ""
    device = config.device.name
    return f"needs {needed / 1e9:.1f} GB (predicted){both}, {device} has {available / 1e9:.1f} GB{hint}"


def identified(plan: Plan, provenance: dict[str, Any]) -> Plan:
    """The plan with its run_id: a date-free hash, so that the same command on the same machine finds its run again.

    provenance: weights_hash, source_hash, identity, stack (harness/spec/fingerprint.py and measuring/environment.py).
    """
    run_id = content_hash(
        {
            "cells": [p.cell_id for p in plan.cells],
            "protocol": asdict(plan.config.protocol),
            "isolation": plan.config.isolation,
            "energy": plan.config.energy,
            "seed": plan.config.seed,
            "prompts": {name: prompts.content_hash for name, prompts in plan.prompts.items()},
            **drawn_from(plan),
            **provenance,
        },
        length=12,
    )
    return replace(plan, run_id=run_id, provenance=provenance)


def drawn_from(plan: Plan) -> dict[str, Any]:
    """Hashes of the files that steps and experts are drawn from; nothing where nothing is drawn."""
    options = plan.cells[0].cell.options if plan.cells else {}
    hashes = draws.content_hashes(options)
    return {"drawn_from": hashes} if hashes else {}
