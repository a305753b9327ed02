"""Made-up runs with more in their records than `synthetic` gives them, and their lines read plainly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Json = dict[str, Any]


def lines_of(run_dir: Path) -> list[Json]:
    return [json.loads(line) for path in run_dir.glob("records-*.jsonl") for line in path.read_text().splitlines()]


def alter(run_dir: Path, change: Callable[[Json], None]) -> Path:
    """Every record line as the change leaves it."""
    for path in run_dir.glob("records-*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            change(line)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run_dir


def alter_plan(run_dir: Path, change: Callable[[Json], None]) -> Path:
    path = run_dir / "plan.json"
    plan = json.loads(path.read_text())
    change(plan)
    path.write_text(json.dumps(plan))
    return run_dir


def share(value: float) -> str:
    """As the page prints it."""
    return f"{100 * value:.0f} %" if value >= 0.0995 else f"{100 * value:.2g} %"
