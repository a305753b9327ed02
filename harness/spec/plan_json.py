"""The plan as JSON: what `plan --json` prints, and what plan.json in the run directory keeps."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from harness.records.types import to_json as cell_to_json
from harness.spec.plan import PLAN_SCHEMA, Plan, PlannedCell, drawn_from


def to_json(plan: Plan) -> dict[str, Any]:
    """The plan as `plan --json` prints it and as plan.json in the run directory keeps it."""
    config, shares = plan.config, plan.shares
    return {
        "plan_schema": PLAN_SCHEMA,
        "suite": config.name,
        "run_id": plan.run_id,
        "shard": config.shard,
        "description": config.description,
        "device": asdict(config.device),
        "model": {
            **asdict(config.model),
            "trained": config.model.is_trained,
            "trained_canvas_length": plan.shape.canvas_length,
            "shape": asdict(plan.shape),
        },
        "protocol": asdict(config.protocol),
        "backend": config.backend,
        "peer": config.peer,
        "isolation": config.isolation,
        "energy": config.energy,
        "seed": config.seed,
        "gate": asdict(config.gate),
        "prompts": {name: prompts.content_hash for name, prompts in plan.prompts.items()},
        **drawn_from(plan),
        "provenance": plan.provenance,
        "predicted_s": plan.predicted_s,
        "cells": [{**_planned_json(p), "share": shares[p.group_id]} for p in plan.cells],
        "skipped": [
            {"cell_id": s.cell.cell_id, "cell": cell_to_json(s.cell), "reason": s.reason} for s in plan.skipped
        ],
    }


def _planned_json(planned: PlannedCell) -> dict[str, Any]:
    prediction = planned.prediction
    return {
        "cell_id": planned.cell_id,
        "cell": cell_to_json(planned.cell),
        "twin_id": planned.twin_id,
        "peer_id": planned.peer_id,
        "predicted_s": planned.predicted_s,
        "memory_bytes": prediction.memory_bytes,
        "floor_s": prediction.floor_s,
        "bound_s": prediction.bound_s,
        "floor_basis": planned.floor_basis,
        "passes": prediction.passes,
        "phases": {
            kind: {
                "count": phase.count,
                "bytes": sum(c.bytes for c in phase.operations.values()),
                "flops": sum(c.flops for c in phase.operations.values()),
                "floor_s": phase.floor_s,
                "operations": {
                    name: {"bytes": c.bytes, "flops": c.flops, "floor_s": phase.operation_floor_s.get(name)}
                    for name, c in phase.operations.items()
                },
            }
            for kind, phase in prediction.phases.items()
        },
        "missing": prediction.missing,
    }
