"""Made-up jobs on disk: launches of base and head with the noise of a machine, and whatever is wrong with them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from altered import alter
from synthetic import ENVIRONMENT, Scenario, fill_run, plan_of, record_of, usual_pass_s

from harness.analysis import gate
from harness.analysis.verdict import Verdict
from harness.records import job as jobs
from harness.records.job import BASE, CONFIRM, HEAD, SCREEN, Job, Launch, Revision
from harness.records.types import Cell, Environment, Record

NOISE = 0.005  # standard deviation of a launch


def as_it_is(record: Record) -> Record:
    return record


@dataclass(kw_only=True)
class Side:
    """What one side measures."""

    scenario: Scenario = field(default_factory=lambda: Scenario(observed=True, wobble=0.001))
    slowdown: Callable[[Cell], float] = lambda cell: 1.0
    launch: Callable[[str, int], float] = lambda stage, pair: 1.0  # a factor of all its times
    change: Callable[[Record], Record] = as_it_is
    environment: Environment = ENVIRONMENT
    plan: dict[str, Any] = field(default_factory=dict)  # keys of plan.json
    dropped: Callable[[str, int], str | None] = lambda stage, pair: None


def write_job(job_dir: Path, base: Side, head: Side, seed: int = 0, *, swapped: bool = False) -> Path:
    """A finished job. swapped: base's launches are head's, and the other way round, noise included."""
    draw = np.random.default_rng(seed)
    sides = {BASE: base, HEAD: head}
    launches: list[Launch] = []
    num_screen = gate_screen_pairs(head)
    _write_stage(job_dir, SCREEN, range(num_screen), None, sides, launches, draw, swapped)
    plan = gate.plan_pairs(job_dir)
    if plan.screen > num_screen:
        _write_stage(job_dir, SCREEN, range(num_screen, plan.screen), None, sides, launches, draw, swapped)
        plan = gate.plan_pairs(job_dir)
    if kept := gate.screen(job_dir):
        _write_stage(job_dir, CONFIRM, range(plan.confirm), kept, sides, launches, draw, swapped)
    return job_dir


def gate_screen_pairs(side: Side) -> int:
    return int((side.plan.get("gate") or {}).get("screen_pairs", 3))


def repeated(job_dir: Path, launch: Launch, like: str) -> Launch:
    """Another attempt at the launch, which measured what is in the run directory `like`."""
    run_dir = f"{launch.side}/repeated"
    shutil.copytree(job_dir / like, job_dir / run_dir)
    alter(job_dir / run_dir, lambda record: record.update(worker="repeated"))
    return replace(launch, attempt=launch.attempt + 1, order=99, run_dir=run_dir)


def verdict_of(job_dir: Path, base: Side | None = None, head: Side | None = None, **options: Any) -> Verdict:
    return gate.judge(write_job(job_dir, base or Side(), head or Side()), **options)


def _write_stage(
    job_dir: Path,
    stage: str,
    pairs: range,
    kept: list[str] | None,
    sides: dict[str, Side],
    launches: list[Launch],
    draw: np.random.Generator,
    swapped: bool,
) -> None:
    for pair in pairs:
        for name in (BASE, HEAD) if pair % 2 == 0 else (HEAD, BASE):
            side = sides[name]
            label = {BASE: HEAD, HEAD: BASE}[name] if swapped else name
            run_dir = f"{label}/{stage}-{pair:02}"
            _write_launch(job_dir / run_dir, side, side.launch(stage, pair), kept, draw)
            launches.append(
                Launch(
                    stage=stage,
                    pair=pair,
                    side=label,
                    attempt=0,
                    order=len(launches),
                    run_dir=run_dir,
                    dropped=side.dropped(stage, pair),
                    dropped_cells={},
                )
            )
    revisions = {name: Revision(revision=name, commit=None, dirty=None) for name in sides}
    jobs.write(
        job_dir,
        Job(
            job_schema=1, suite="made_up", seed=0, base=revisions[BASE], head=revisions[HEAD], launches=tuple(launches)
        ),
    )


def _write_launch(run_dir: Path, side: Side, factor: float, kept: list[str] | None, draw: np.random.Generator) -> None:
    plan = plan_of(side.scenario)
    if kept is not None:
        plan = replace(plan, cells=tuple(one for one in plan.cells if one.cell_id in kept), skipped=())
    noise = {one.cell_id: 1 + NOISE * draw.standard_normal() for one in plan.cells}

    def pass_s(cell: Cell) -> float:
        return usual_pass_s(cell) * factor * side.slowdown(cell) * noise[cell.cell_id]

    scenario = replace(side.scenario, pass_s=pass_s)
    records = [
        side.change(record_of(scenario, one.cell, 0, f"{run_dir.parent.name}-{run_dir.name}", status))
        for one in plan.cells
        if (status := scenario.outcome(one.cell, 0)) != "absent"
    ]
    records = [replace(record, environment_id=side.environment.environment_id) for record in records]
    run_dir.mkdir(parents=True)
    fill_run(run_dir, plan, records, side.environment, **side.plan)
