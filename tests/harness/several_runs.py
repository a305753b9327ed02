"""Made-up runs of several devices on one page, and what their record lines say of them without this project's help."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Sequence
from html import unescape
from pathlib import Path
from typing import Any

from synthetic import Scenario, write_run

from harness.analysis.analyse import Analysis, analyse
from harness.analysis.run_data import load_run
from harness.report.slices import Slice, side_by_side, slices_of

AXES = {"batch_size": [1, 4, 16], "block_length": [128, 256], "num_steps": [8]}


def on(device: str, **fields: Any) -> Scenario:
    return Scenario(name=f"on_{device}", device=device, display_name=f"GPU {device.upper()} 80 GB", axes=AXES, **fields)


def written(folder: Path, scenarios: Sequence[Scenario]) -> list[Path]:
    return [write_run(folder, scenario) for scenario in scenarios]


def analysed(run_dirs: Sequence[Path]) -> Analysis:
    return analyse([load_run(run_dir) for run_dir in run_dirs])


def group(analysis: Analysis) -> tuple[Slice, ...]:
    (found,) = side_by_side(slices_of(analysis))
    return found


def tok_s(run_dir: Path) -> dict[tuple[int | None, int], float]:
    """(block length, batch size) -> the median over rounds of useful tokens / wall time."""
    lines = [json.loads(line) for path in run_dir.glob("records-*.jsonl") for line in path.read_text().splitlines()]
    return {
        (line["cell"]["block_length"], line["cell"]["batch_size"]): statistics.median(
            sum(one["useful_tokens"]) / one["wall_s"] for one in line["rounds"]
        )
        for line in lines
        if line["rounds"]
    }


def section(page: str, name: str) -> str:
    return page.split(f'<section aria-labelledby="{name}">')[1].split("</section>")[0]


def texts_of(picture: str) -> list[str]:
    return [unescape(text) for text in re.findall(r"<text[^>]*>(?:<tspan[^>]*>)?([^<]*)", picture)]
