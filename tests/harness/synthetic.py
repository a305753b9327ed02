"""Made-up runs on disk, marked synthetic, so that analysis and report are tested without measuring anything.

    write_run(tmp_path, Scenario(axes={"batch_size": [1, 2, 4]}))

Times follow from a cell alone: a pass costs a constant plus a share per position, so diffusion wins at small batches
and loses at large ones; a seeded wobble keeps rounds apart.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.records import store
from harness.records.types import Cell, Environment, Record, Round
from harness.spec.config import Axes, DeviceConfig, Figure, ModelSource, Protocol, SuiteConfig
from harness.spec.plan import Plan, PlannedCell, SkippedCell, build, identified
from harness.spec.plan_json import to_json

ENVIRONMENT = Environment(
    identity={
        "gpu": {"name": "Made-up GPU", "memory_bytes": 80_000_000_000},
        "num_gpus": 1,
        "cpu": "made-up",
        "cpu_count": 8,
    },
    stack={
        "driver": "1.0",
        "python": "3.11.0",
        "packages": {"torch": "2.0"},
        "project_commit": "c0ffee",
        "project_dirty": False,
    },
    circumstance={"load_1min": 0.5, "affinity_cpus": 8},
)
# What is no status of its own: how the record says it.
SPECIAL = {
    "pruned": ("oom", "pruned: batch 4 of the same line ran out of memory"),
    "interrupted": ("error", "interrupted: its process ended"),
}
PASS_S, POSITION_S, PREFILL_S = 0.010, 0.0001, 0.020


def no_change(cell: Cell) -> Cell:
    return cell


def always_ok(cell: Cell, launch: int) -> str:
    return "ok"


def usual_pass_s(cell: Cell) -> float:
    """Seconds of one denoise, commit or decode pass."""
    return PASS_S + POSITION_S * cell.batch_size * (cell.block_length or 1)


@dataclass(kw_only=True)
class Scenario:
    """What to make up. Every field has a value that gives an ordinary run."""

    name: str = "made_up"
    axes: dict[str, list[Any]] = field(default_factory=dict)
    rounds: int = 3
    launches: int = 1
    trained: bool = True
    eos: str = "ignore"
    peer: str = ""
    routing: str = "model"
    isolation: str = "launch"
    roofs: bool = True
    wobble: float = 0.01
    exclude: list[dict[str, Any]] = field(default_factory=list)
    command: str | None = "python -m harness run suite=made_up"
    worker: str = "1-a"
    device: str = "made_up_gpu"
    display_name: str = "Made-up GPU 80 GB"
    environment: Environment = ENVIRONMENT
    price_usd_per_hour: float | None = None
    pass_s: Callable[[Cell], float] = usual_pass_s
    outcome: Callable[[Cell, int], str] = always_ok  # a status, one of SPECIAL, or "absent": a cell without a record
    rename: Callable[[Cell], Cell] = no_change  # names that no suite could have
    reason: str = "made-up reason"
    warnings: tuple[str, ...] = ()
    discarded: tuple[str, ...] = ()
    quality: Callable[[Cell], float] | None = None  # chance that an answer is right; None: no prompt has a checker
    categories: tuple[str, ...] = ()  # prompts take turns in them; none: the prompt set's name
    diffusion_cpu_share: float = 0.9  # of its time: how busy diffusion keeps a core
    on_cpu: bool = False  # no device events: CPU time counts
    observed: bool = False  # counters hold settled steps, outputs, likelihoods and the parts of steps


DEFAULT_AXES = {
    "batch_size": [1, 4, 16],
    "block_length": [128, 256],
    "num_steps": [8, 16],
    "prompt_tokens": [64],
    "output_tokens": [512],
}


# Axes of a large result set; prompt sets of 128 prompts each.
LARGE_AXES = {
    "batch_size": [1, 2, 4, 6, 8, 12, 16, 24, 32, 64],
    "block_length": [32, 64, 128, 256, 512],
    "num_steps": [4, 6, 8, 12, 16, 20, 24, 32, 40, 48],
    "stopping": ["fixed", "adaptive"],
    "prompt_set": ["code", "maths", "chat", "json", "prose"],
    "prompt_tokens": [64],
    "output_tokens": [512],
}


def large_scenarios(cells: int, devices: int, *, observed: bool = False) -> list[Scenario]:
    """Scenarios of so many block-diffusion cells altogether (and their twins), each on a device of its own.

    Fewer cells than `LARGE_AXES` give are had by shorter axes.
    """
    axes = {key: list(values) for key, values in LARGE_AXES.items()}
    lengths = {key: len(values) for key, values in axes.items()}
    while math.prod(lengths.values()) * devices > cells:
        longest = max(lengths, key=lambda key: lengths[key])
        lengths[longest] -= 1
    axes = {key: values[: lengths[key]] for key, values in axes.items()}
    return [
        Scenario(
            name=f"large_{i}",
            device=f"made_up_gpu_{i}",
            display_name=f"Made-up GPU {i}",
            axes=axes,
            observed=observed,
            pass_s=lambda cell, i=i: usual_pass_s(cell) / (1 + i),  # type: ignore[misc]
        )
        for i in range(devices)
    ]


def config_of(scenario: Scenario) -> SuiteConfig:
    roof = {"bfloat16": Figure(value=2e12)} if scenario.roofs else {}
    return SuiteConfig(
        name=scenario.name,
        description="Made-up numbers for tests.",
        device=DeviceConfig(
            name=scenario.device,
            display_name=scenario.display_name,
            memory_bytes=Figure(value=8e10),
            bandwidth_bytes_s=Figure(value=1e9 if scenario.roofs else None),
            flops_s=roof,
            price_usd_per_hour=Figure(value=scenario.price_usd_per_hour),
        ),
        model=ModelSource(name="mini", preset="mini", trained=scenario.trained),
        protocol=Protocol(name="made_up", rounds=scenario.rounds, launches=scenario.launches),
        axes=Axes(**{**DEFAULT_AXES, **scenario.axes}),
        exclude=scenario.exclude,
        eos=scenario.eos,
        options={"synthetic": True},
        peer=scenario.peer,
        routing=scenario.routing,
        peer_options={"synthetic": True},
        isolation=scenario.isolation,
    )


def plan_of(scenario: Scenario) -> Plan:
    """The scenario's plan, its cells renamed and twins kept together."""
    plan = build(config_of(scenario))

    def renamed(planned: PlannedCell) -> PlannedCell:
        cell = scenario.rename(planned.cell)
        return replace(planned, cell=cell, twin_id=planned.twin_id and cell.twin.cell_id)

    cells = tuple(renamed(planned) for planned in plan.cells)
    skipped = tuple(SkippedCell(cell=scenario.rename(s.cell), reason=s.reason) for s in plan.skipped)
    return identified(
        replace(plan, cells=cells, skipped=skipped), {"weights_hash": "0123abcd", "source_hash": "4567cdef"}
    )


def write_run(
    results_dir: Path, scenario: Scenario | None = None, *, plan_changes: dict[str, Any] | None = None
) -> Path:
    """The run directory of a scenario."""
    scenario = scenario or Scenario()
    plan = plan_of(scenario)
    run_dir = store.open_run_dir(results_dir, scenario.name, plan.run_id, fresh=True)
    records = records_of(scenario, plan, run_dir.name)
    fill_run(run_dir, plan, records, scenario.environment, command=scenario.command, **(plan_changes or {}))
    return run_dir


def fill_run(
    run_dir: Path, plan: Plan, records: list[Record], environment: Environment = ENVIRONMENT, **changes: Any
) -> None:
    """changes: keys of plan.json."""
    store.write_atomic(run_dir / "plan.json", json.dumps({**to_json(plan), **changes}, indent=1) + "\n")
    store.write_environment(run_dir, environment)
    write_records(run_dir, records)


def write_records(run_dir: Path, records: list[Record], worker: str | None = None) -> None:
    writer = store.RecordWriter(run_dir, worker or (records[0].worker if records else "none"))
    for record in records:
        writer.append(record)
    writer.close()


def records_of(scenario: Scenario, plan: Plan, run_id: str) -> list[Record]:
    return [
        record_of(scenario, planned.cell, launch, run_id, status)
        for launch in range(scenario.launches)
        for planned in plan.cells
        if (status := scenario.outcome(planned.cell, launch)) != "absent"
    ]


def record_of(scenario: Scenario, cell: Cell, launch: int, run_id: str, status: str = "ok", attempt: int = 1) -> Record:
    count = {"ok": scenario.rounds, "interrupted": 2}.get(status, 0)
    rounds = tuple(round_of(scenario, cell, launch, i) for i in range(count))
    status, reason = SPECIAL.get(status, (status, None if status == "ok" else scenario.reason))
    return Record(
        run_id=run_id,
        cell=cell,
        cell_id=cell.cell_id,
        launch=launch,
        attempt=attempt,
        worker=scenario.worker,
        status=status,  # type: ignore[arg-type]
        reason=reason,
        rounds=rounds,
        course={"cold_s": 3 * rounds[0].wall_s} if rounds else {},
        counters=counters_of(scenario, cell, rounds[0]) if status == "ok" else {},
        discarded=scenario.discarded,
        warnings=scenario.warnings,
        environment_id=scenario.environment.environment_id,
        started_at=f"2026-01-01T{launch // 60 % 24:02}:{launch % 60:02}:0{attempt}+00:00",
        seed=0,
    )


def round_of(scenario: Scenario, cell: Cell, launch: int, index: int) -> Round:
    dice = random.Random(f"{cell.cell_id} {launch} {index}")
    pass_s = scenario.pass_s(cell) * (1 + scenario.wobble * dice.uniform(-1, 1))
    # With eos respected each row answers at its own length, the same in twins.
    lengths = random.Random(f"{cell.batch_size} {index}")
    asked = cell.output_tokens
    useful = [asked if cell.eos == "ignore" else lengths.randint(asked // 2, asked) for _ in range(cell.batch_size)]
    if cell.block_length is None or cell.num_steps is None:
        passes = {"prefill": 1, "denoise": 0, "commit": 0, "decode": max(useful) - 1}
        block_s = [PREFILL_S + pass_s * i for i in range(max(useful))]
        steps: list[list[int]] = [[] for _ in useful]
        step_s = [pass_s] * (max(useful) - 1)
    else:
        canvases = -(-max(useful) // cell.block_length)
        adaptive = cell.stopping == "adaptive"
        by_row = [
            [
                dice.randint(min(2, cell.num_steps), cell.num_steps) if adaptive else cell.num_steps
                for _ in range(canvases)
            ]
            for _ in useful
        ]
        steps = [
            [n if k * cell.block_length < tokens else 0 for k, n in enumerate(row)]
            for row, tokens in zip(by_row, useful, strict=True)
        ]
        executed = [max(row[k] for row in steps) for k in range(canvases)]
        passes = {"prefill": 1, "denoise": sum(executed), "commit": canvases - 1, "decode": 0}
        block_s = [PREFILL_S + pass_s * (sum(executed[: k + 1]) + k) for k in range(canvases)]
        step_s = [pass_s] * sum(executed)
    return Round(
        index=index,
        seed=index,
        wall_s=block_s[-1] * 1.01,
        cpu_s=block_s[-1] * (0.9 if cell.block_length is None else scenario.diffusion_cpu_share),
        device_s=None if scenario.on_cpu else block_s[-1],
        ttfb_s=block_s[0],
        block_s=tuple(block_s),
        step_s=tuple(step_s),
        passes=passes,
        row_passes={kind: count * cell.batch_size for kind, count in passes.items()},
        steps_per_canvas=tuple(tuple(row) for row in steps),
        useful_tokens=tuple(useful),
        raw_tokens=len(block_s) * (cell.block_length or 1) * cell.batch_size,
        stop_reason="length",
        resolved={"backend": "made up"},
        peak_allocated_bytes=10**9 + cell.batch_size * 10**6,
        missing={"peak_device_bytes": "made-up device", "exact": f"prompt set {cell.prompt_set} has no checkers"},
        **answers_of(scenario, cell, index),
    )


def answers_of(scenario: Scenario, cell: Cell, index: int) -> dict[str, Any]:
    """Which prompts the rows answered, and how well: as the harness writes it, with 128 prompts in a set."""
    if cell.prompt_set == "random":
        return {}
    prompts = [(index * 128 // scenario.rounds + row) % 128 for row in range(cell.batch_size)]
    kinds = scenario.categories or (cell.prompt_set,)
    answers: dict[str, Any] = {
        "prompt_ids": tuple(f"{cell.prompt_set}-{prompt}" for prompt in prompts),
        "categories": tuple(kinds[prompt % len(kinds)] for prompt in prompts),
    }
    if scenario.quality is not None:
        luck = [random.Random(f"{cell.prompt_set} {prompt}").random() for prompt in prompts]
        answers["exact"] = tuple(int(one < scenario.quality(cell)) for one in luck)
        answers["token_accuracy"] = tuple(1 - one / 2 for one in luck)
    return answers


def counters_of(scenario: Scenario, cell: Cell, first: Round) -> dict[str, Any]:
    counters: dict[str, Any] = {"expert_hits": [[4, 6], [8, 5]]}
    if scenario.observed:
        dice = random.Random(cell.cell_id)
        rows = list(zip(first.useful_tokens, first.steps_per_canvas, strict=True))
        counters["nll_nats"] = [0.5 + 1 / (cell.num_steps or 20) + 0.1 * dice.random() for _ in rows]
        counters["output_ids"] = [[int(dice.random() < 0.2) for _ in range(useful)] for useful, _ in rows[:8]]
        counters |= _parts_of(cell, first)
        counters["settled_steps"] = [
            [_settled(dice, useful - c * (cell.block_length or 1), steps[c], cell) for useful, steps in rows[:8]]
            for c in range(len(rows[0][1]))
        ]
    return counters


def _parts_of(cell: Cell, first: Round) -> dict[str, Any]:
    """Steps that take 1.25 times as long as the round's, a larger batch with more of it in the experts."""
    kind = "decode" if cell.block_length is None else "denoise"
    if not first.step_s:
        return {}
    experts = 0.3 + 0.01 * cell.batch_size
    shares = {"attention": 0.2, "experts": experts, "lm_head": 0.4 - 0.01 * cell.batch_size, "other": 0.1}
    total_s = 1.25 * sum(first.step_s)
    return {
        "phase_s": {kind: {name: share * total_s for name, share in shares.items()}, "prefill": {"attention": 9.0}},
        "phase_passes": {kind: len(first.step_s), "prefill": 1},
    }


def _settled(dice: random.Random, useful: int, steps: int, cell: Cell) -> list[int]:
    """Roughly left to right, up to the row's last step."""
    length = cell.block_length or 1
    places = range(max(0, min(useful, length)) if steps else 0)
    return [min(steps, 1 + place * steps // length + dice.randint(0, 2)) for place in places]
