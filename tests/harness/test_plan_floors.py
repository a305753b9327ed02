"""`plan suite=h100 --json` against the published formula table, evaluated cell by cell without our cost model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_cost_and_floor import V, table

BANDWIDTH, RATE = 3.35e12, 989e12
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cells() -> list[dict[str, Any]]:
    words = ["plan", "suite=h100", "--json", "axes.prompt_tokens=[1024]", "axes.output_tokens=[300,512]"]
    done = subprocess.run([sys.executable, "-m", "harness", *words], capture_output=True, cwd=ROOT, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)["cells"]
    assert len(found) > 200
    return found


def passes(cell: dict[str, Any]) -> Iterator[tuple[str, int, int, int]]:
    """(kind, how often, new tokens, cached tokens) of a request, from what the decoders do."""
    prompt, output, block = cell["prompt_tokens"], cell["output_tokens"], cell["block_length"]
    yield "prefill", 1, prompt, 0
    if block is None:
        for token in range(1, output):
            yield "decode", 1, 1, prompt + token - 1
        return
    canvases = (output + block - 1) // block
    for canvas in range(canvases):
        yield "denoise", cell["num_steps"], block, prompt + canvas * block
        if canvas + 1 < canvases:
            yield "commit", 1, block, prompt + canvas * block


def expected(cell: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Of each phase: passes, bytes, FLOPs and floor."""
    phases: dict[str, dict[str, float]] = {}
    B = cell["batch_size"]
    for kind, count, tokens, context in passes(cell):
        rows = table(kind, B, tokens, context, 2)
        if kind == "decode":
            rows["sampler"] = (4 * B * V, B * V)
        if kind == "prefill" and cell["block_length"] is None:  # it gives the first token
            rows |= {name: table("decode", B, 1, 0, 2)[name] for name in ("lm_head",)}
            rows["sampler"] = (4 * B * V, B * V)
        one = phases.setdefault(kind, dict.fromkeys(("count", "bytes", "flops", "floor_s"), 0.0))
        one["count"] += count
        one["bytes"] += count * sum(moved for moved, _ in rows.values())
        one["flops"] += count * sum(flops for _, flops in rows.values())
        one["floor_s"] += count * sum(max(moved / BANDWIDTH, flops / RATE) for moved, flops in rows.values())
    return phases


def test_every_phase_of_the_plan_costs_what_the_table_says(cells: list[dict[str, Any]]) -> None:
    for entry in cells[::7]:  # every batch, block length and step count comes up
        for kind, wanted in expected(entry["cell"]).items():
            for name, value in wanted.items():
                assert entry["phases"][kind][name] == pytest.approx(value, rel=1e-9), (kind, name, entry["cell"])


def test_the_floor_of_a_request_is_the_sum_of_its_phases_and_its_bound_the_larger_total(
    cells: list[dict[str, Any]],
) -> None:
    for entry in cells[::11]:
        phases = expected(entry["cell"]).values()
        assert entry["floor_s"] == pytest.approx(sum(one["floor_s"] for one in phases), rel=1e-9)
        totals = sum(one["bytes"] for one in phases) / BANDWIDTH, sum(one["flops"] for one in phases) / RATE
        assert entry["bound_s"] == pytest.approx(max(totals), rel=1e-9)
        assert entry["floor_basis"] == "exact"
