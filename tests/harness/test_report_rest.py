"""Sentences of the figures of peers and of assumptions, recomputed from record lines, plan and step histogram."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import yaml
from altered import lines_of, share
from synthetic import Scenario, usual_pass_s, write_run

from harness.analysis.analyse import analyse
from harness.analysis.run_data import load_run
from harness.records.types import Cell
from harness.report.figures.assumptions import assumptions
from harness.report.figures.base import NotDrawn
from harness.report.figures.peers import peers
from harness.report.slices import Slice, slices_of
from harness.report.wording import ratio
from harness.spec.data import SUITES_DIR


def slices(run_dir: Path, *, is_wide: bool = False) -> list[Slice]:
    return slices_of(analyse([load_run(run_dir)]), is_wide=is_wide)


# Peers


def slow_peer(cell: Cell) -> float:
    factor = 1.0 if cell.backend == "reference" else 3.0 if cell.block_length else 0.5
    return factor * usual_pass_s(cell)


def test_the_peers_answer_gives_the_ratios_of_step_times_at_every_batch(tmp_path: Path) -> None:
    axes: dict[str, list[Any]] = {"batch_size": [1, 4], "block_length": [16], "num_steps": [4], "output_tokens": [32]}
    run_dir = write_run(tmp_path, Scenario(axes=axes, peer="transformers", pass_s=slow_peer))
    (own,) = [one for one in slices(run_dir) if one.cell.backend == "reference"]
    answer = peers(own, "x").answer
    steps = {
        (line["cell"]["backend"], line["cell"]["decoding"], line["cell"]["batch_size"]): [
            median(one["step_s"]) for one in line["rounds"]
        ]
        for line in lines_of(run_dir)
    }
    for what, decoding in (("a denoise step", "block_diffusion"), ("a decoded token", "autoregressive")):
        told = []
        for size in (1, 4):
            both = zip(steps["transformers", decoding, size], steps["reference", decoding, size], strict=True)
            told.append(f"{ratio(median(theirs / ours for theirs, ours in both))} at batch {size}")
        assert f"{what} {' and '.join(told)}" in answer, (told, answer)


# Assumptions: eos is ignored, so that twins give equal tokens, and a speed-up at the floors divides floors


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    axes = {"batch_size": [1, 4, 16], "block_length": [128], "num_steps": [16], "output_tokens": [256]}
    return write_run(tmp_path_factory.mktemp("run"), Scenario(axes=axes))


def floors_of(run_dir: Path) -> tuple[float, dict[str, dict[str, float]]]:
    """At batch 16: seconds of the twin, and the phases of the cell."""
    entries = [
        one for one in json.loads((run_dir / "plan.json").read_text())["cells"] if one["cell"]["batch_size"] == 16
    ]
    twin, cell = (next(one for one in entries if bool(one["twin_id"]) == is_cell) for is_cell in (False, True))
    return twin["floor_s"], cell["phases"]


def test_the_assumptions_answer_has_the_plans_own_speedup_for_uniform_routing(predicted: Path) -> None:
    (part,) = slices(predicted, is_wide=True)
    answer = assumptions(part, "x").answer
    twin_s, phases = floors_of(predicted)
    expected = ratio(twin_s / sum(phase["floor_s"] for phase in phases.values()))
    assert "at batch 16: zipf 1 routing gives " in answer
    assert f"uniform routing {expected}." in answer


def test_the_assumptions_answer_replays_the_histogram_in_a_static_batch(predicted: Path) -> None:
    (part,) = slices(predicted, is_wide=True)
    answer = assumptions(part, "x").answer
    bins = yaml.safe_load((SUITES_DIR / "steps" / "diffusiongemma_evals.yaml").read_text())["bins"]
    shares = np.zeros(49)
    for one in bins:
        steps = range(one["from"], one["to"] + 1)
        shares[list(steps)] += one["share"] / len(steps)
    below = np.cumsum(shares)  # P(a row takes at most n steps)
    longest = 48 - np.sum(below[:48] ** 16)  # mean of the largest of 16
    mean = 48 - np.sum(below[:48])
    twin_s, phases = floors_of(predicted)
    a_step_s = phases["denoise"]["floor_s"] / 16
    static_s = sum(one["floor_s"] for kind, one in phases.items() if kind != "denoise") + longest * a_step_s
    assert f"it is {ratio(twin_s / static_s)}: a static batch spends {share(1 - mean / longest)} of its steps" in answer
    assert re.search(r"from diffusiongemma_evals \(at most 48\)", answer)


def test_without_diffusion_or_roofs_no_assumption_is_drawn(tmp_path: Path) -> None:
    for name, changes, why in (
        ("alone", {"axes": {"decoding": ["autoregressive"]}}, "no block-diffusion cell is planned"),
        ("no roofs", {"roofs": False}, "and none was measured"),
    ):
        (part,) = slices(write_run(tmp_path / name, Scenario(**changes)), is_wide=True)  # type: ignore[arg-type]
        with pytest.raises(NotDrawn, match=why):
            assumptions(part, "x")
