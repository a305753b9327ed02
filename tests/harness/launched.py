"""Made-up runs of the released shape on named devices, for claims and predictions."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from synthetic import Scenario, write_run

from engine.config import PRESETS
from harness.records.types import Cell
from harness.spec.data import devices

RELEASED = PRESETS["diffusiongemma_26b_a4b"]
AXES = {"batch_size": [1], "block_length": [256], "num_steps": [8, 16], "weight_dtype": ["float8_e4m3"]}


def released(
    folder: Path,
    *,
    device: str = "h100",
    pass_s: Callable[[Cell], float],
    axes: dict[str, list[Any]] | None = None,
    trained: bool = True,
    experts: Callable[[Cell], float] | None = None,
) -> Path:
    """A run directory. experts: distinct ones that a pass of a cell hits in every layer; None: not counted."""
    scenario = Scenario(
        name=f"on_{device}",
        axes={**AXES, **(axes or {})},
        rename=lambda cell: replace(cell, device=device, model="diffusiongemma_26b_a4b"),
        pass_s=pass_s,
        wobble=0.0,
        display_name=devices()[device].display_name,
    )
    model = {"name": "diffusiongemma_26b_a4b", "preset": "diffusiongemma_26b_a4b", "trained": trained}
    changes = {
        "device": asdict(devices()[device]),
        "model": {**model, "trained_canvas_length": 256, "shape": asdict(RELEASED)},
    }
    run_dir = write_run(folder, scenario, plan_changes=changes)
    _count(run_dir, experts)
    return run_dir


def _count(run_dir: Path, experts: Callable[[Cell], float] | None) -> None:
    """Write what the counting rounds saw into the records."""
    for path in run_dir.glob("records-*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            kind = "decode" if line["cell"]["block_length"] is None else "denoise"
            hits = None if experts is None else experts(Cell(**line["cell"]))
            line["counters"] = {} if hits is None else {"kinds": [kind] * 2, "expert_hits": [[hits] * 30] * 2}
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
