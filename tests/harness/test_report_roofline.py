"""Under the roofs: FLOPs, bytes and times of the sentence, recomputed from the plan's phases and the record lines."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
from altered import alter, alter_plan, lines_of, share
from synthetic import ENVIRONMENT, Scenario, write_run

from harness.analysis.analyse import analyse
from harness.analysis.run_data import load_run
from harness.report.figures.base import Figure, NotDrawn
from harness.report.figures.roofline import roofline
from harness.report.slices import slices_of
from harness.spec.config import DeviceConfig
from harness.spec.config import Figure as Value

Json = dict[str, Any]
AXES = {"batch_size": [1, 16], "block_length": [128, 256], "num_steps": [8]}
BANDWIDTH, RATE = 1e9, 2e12  # of the made-up device


def draw(run_dir: Path) -> Figure:
    (part,) = slices_of(analyse([load_run(run_dir)]))
    return roofline(part, "x")


def hollow(figure: Figure) -> int:
    """Markers without a filling."""
    return len(re.findall(r"<use [^>]*fill-opacity: 0;", str(figure.picture)))


def expected(run_dir: Path, decoding: str, batch_size: int, roofs: tuple[float, float] = (BANDWIDTH, RATE)) -> Json:
    """Of the cell with 256-token blocks: with fixed steps and eos ignored a request executes the plan's passes."""
    plan = json.loads((run_dir / "plan.json").read_text())
    entry = next(
        one
        for one in plan["cells"]
        if (one["cell"]["decoding"], one["cell"]["batch_size"]) == (decoding, batch_size)
        and one["cell"]["block_length"] in (None, 256)
    )
    wall_s = statistics.median(
        one["wall_s"] for line in lines_of(run_dir) if line["cell_id"] == entry["cell_id"] for one in line["rounds"]
    )
    moved, flops = (sum(phase[key] for phase in entry["phases"].values()) for key in ("bytes", "flops"))
    seconds = max(moved / roofs[0], flops / roofs[1])
    return {
        "intensity": flops / moved,
        "share": seconds / wall_s,
        "limit": "memory" if moved / roofs[0] == seconds else "arithmetic",
    }


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def test_the_answer_gives_flops_a_byte_and_what_limits_both_decoders_at_both_ends(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path, Scenario(axes=AXES))
    answer = draw(run_dir).answer
    assert answer.startswith("By the data sheet's roofs the ridge is at 2,000 FLOPs a byte. At batch 1 block diffusion")
    for batch_size, text in zip((1, 16), answer.split("At batch ")[1:], strict=True):
        assert text.startswith(f"{batch_size} ")
        for name, decoding in (("256-token blocks and 8 steps", "block_diffusion"), ("autoregressive decoding",) * 2):
            told = expected(run_dir, decoding.split()[0], batch_size)
            said = (
                f"{name} computes {number(told['intensity'])} of them: {told['limit']} limits it, and at the roof "
                f"takes {share(told['share'])} of the time"
            )
            assert said in text, (said, text)


def test_by_measured_roofs_arithmetic_may_limit_what_memory_did(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path, Scenario(axes=AXES, roofs=False))
    roofs = {"roof_schema": 1, "bandwidth_bytes_s": 1e11, "flops_s": {"bfloat16": 3e12}, "missing": {}}
    (run_dir / f"roof-{ENVIRONMENT.environment_id}.json").write_text(json.dumps(roofs))
    answer = draw(run_dir).answer
    told = expected(run_dir, "block_diffusion", 16, (1e11, 3e12))
    assert told["limit"] == "arithmetic"
    assert answer.startswith("By the measured roofs the ridge is at 30 FLOPs a byte.")
    assert f"{number(told['intensity'])} of them: arithmetic limits it" in answer


def test_a_cell_that_beats_its_roof_is_doubted(tmp_path: Path) -> None:
    fast = draw(write_run(tmp_path / "fast", Scenario(axes=AXES, pass_s=lambda cell: 1e-5))).answer
    slow = draw(write_run(tmp_path / "slow", Scenario(axes=AXES, pass_s=lambda cell: 1.0))).answer
    assert "the roof is not this machine's, or weights stay in a cache" in fast
    assert "the roof is not this machine's" not in slow


def test_points_are_hollow_where_experts_are_an_expectation(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path, Scenario(axes=AXES))
    estimated = hollow(draw(run_dir))

    def count(line: Json) -> None:
        kind = "denoise" if line["cell"]["block_length"] else "decode"
        line["counters"] = {"kinds": [kind], "expert_hits": [[6, 8]]}

    counted = hollow(draw(alter(run_dir, count)))
    assert (estimated, counted) == (6, 0)  # two block lengths and autoregressive, at two batch sizes


def test_both_roofs_are_drawn_where_both_are_known(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path, Scenario(axes=AXES))
    roofs = {"roof_schema": 1, "bandwidth_bytes_s": 5e8, "flops_s": {"bfloat16": 1e12}, "missing": {}}
    assert "measured: bfloat16" not in draw(run_dir).picture
    (run_dir / f"roof-{ENVIRONMENT.environment_id}.json").write_text(json.dumps(roofs))
    picture = draw(run_dir).picture
    assert "datasheet: bfloat16 2 TFLOP/s, 1 GB/s" in picture
    assert "measured: bfloat16 1 TFLOP/s, 0.5 GB/s" in picture


def test_without_roofs_it_says_what_would_supply_them(tmp_path: Path) -> None:
    with pytest.raises(NotDrawn, match="has no roof: bandwidth, bfloat16 rate, and none was measured: a run whose"):
        draw(write_run(tmp_path, Scenario(axes=AXES, roofs=False)))


def test_a_plan_without_the_models_shape_says_so(tmp_path: Path) -> None:
    run_dir = alter_plan(write_run(tmp_path, Scenario(axes=AXES)), lambda plan: plan["model"].pop("shape"))
    with pytest.raises(NotDrawn, match="does not hold the model's shape"):
        draw(run_dir)


@pytest.mark.parametrize("kept", ["block_diffusion", "autoregressive"])
def test_one_decoder_alone_is_told_alone(tmp_path: Path, kept: str) -> None:
    scenario = Scenario(axes=AXES, outcome=lambda cell, _: "ok" if cell.decoding == kept else "oom")
    answer = draw(write_run(tmp_path, scenario)).answer
    assert answer.count(" of them: ") == 2
    assert ("block diffusion" in answer) == (kept == "block_diffusion")


def test_one_cell_and_no_cell(tmp_path: Path) -> None:
    axes = {"batch_size": [2], "block_length": [256], "num_steps": [8]}
    assert draw(write_run(tmp_path / "one", Scenario(axes=axes, rounds=1))).answer.count("At batch ") == 1
    with pytest.raises(NotDrawn, match="no finished cell"):
        draw(write_run(tmp_path / "none", Scenario(outcome=lambda cell, _: "error")))


def test_a_device_file_with_rates_of_its_dtypes_gives_one_roof_each(tmp_path: Path) -> None:
    def two_rates(plan: Json) -> None:
        device = DeviceConfig(flops_s={"bfloat16": Value(value=2e12), "float8_e4m3": Value(value=4e12)})
        plan["device"]["flops_s"] = {name: {"value": one.value} for name, one in device.flops_s.items()}

    axes = {**AXES, "weight_dtype": ["float8_e4m3"], "activation_dtype": ["float8_e4m3"]}
    picture = draw(alter_plan(write_run(tmp_path, Scenario(axes=axes)), two_rates)).picture
    assert "datasheet: float8_e4m3 4 TFLOP/s" in picture
    assert "datasheet: bfloat16 2 TFLOP/s" in picture  # of the head and of attention
