"""Results that a page is seldom made for, each of which must be sensible to read."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from pages import SCENARIOS, slow_diffusion
from synthetic import ENVIRONMENT, Scenario, usual_pass_s, write_run

from harness.analysis.analyse import Analysis, analyse
from harness.analysis.run_data import load_run
from harness.report.frame import build_page


def on_device(name: str, speed: float) -> Scenario:
    return Scenario(
        name=f"on_{name}",
        device=name,
        display_name=f"GPU {name.upper()} 80 GB",
        environment=replace(ENVIRONMENT, identity={**ENVIRONMENT.identity, "gpu": {"name": name}}),
        pass_s=lambda cell: usual_pass_s(cell) / speed,
    )


ODD_INPUTS: dict[str, list[Scenario]] = {
    "one cell": [Scenario(axes={"batch_size": [2], "block_length": [256], "num_steps": [8]}, rounds=1)],
    "only failed cells": [Scenario(outcome=lambda cell, _: "error", reason="the driver is gone")],
    "diffusion only": [Scenario(exclude=[{"decoding": ["autoregressive"], "reason": "not asked"}])],
    "autoregressive only": [Scenario(axes={"decoding": ["autoregressive"]})],
    "autoregressive always wins": [Scenario(pass_s=slow_diffusion)],
    "three devices": [on_device("a", 1.0), on_device("b", 2.0), on_device("c", 3.3)],
    # no odd one, but one with every figure of quality
    "graded": [replace(one, price_usd_per_hour=2.0) for one in SCENARIOS["graded"]],
}


@cache
def odd(name: str) -> tuple[Analysis, str]:
    """The analysis and the page of such results."""
    with TemporaryDirectory() as folder:
        analysis = analyse([load_run(write_run(Path(folder), scenario)) for scenario in ODD_INPUTS[name]])
        return analysis, build_page(analysis)
