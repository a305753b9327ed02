"""Writes the mini's model card, README.md beside its weights, from training.json and a run of suite=mini_quality.

python -m harness report RUN --json > scores.json
python tools/mini_card.py scores.json OTHER_DRAW.json --seed N
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import jinja2
from matplotlib.figure import Figure

TEMPLATE = Path(__file__).with_name("mini_card.md.jinja")
DIRECTORY = Path(__file__).resolve().parents[1] / "engine" / "checkpoints" / "mini"


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the mini's model card.")
    parser.add_argument("scores", type=Path, nargs="+", help="`report --json` of mini_quality, and of another draw")
    parser.add_argument("--seed", type=int, help="of the second draw")
    parser.add_argument("--note", default="", help="what else is to be said of the time")
    args = parser.parse_args()
    training = json.loads((DIRECTORY / "training.json").read_text(encoding="utf-8"))
    analyses = [json.loads(path.read_text(encoding="utf-8")) for path in args.scores]
    curves = training["curves"]
    every = training["curve_every"]
    points = list(zip(*curves.values(), strict=True))
    shown = [i for i in range(len(points)) if (i + 1) % 10 == 0 or i in (0, 3, len(points) - 1)]
    titles = [
        "The shipped draw:",
        *([f"A draw whose seed ({args.seed}) was named after training:"] * (len(analyses) - 1)),
    ]
    template = TEMPLATE.read_text(encoding="utf-8")
    card = (
        jinja2.Environment(trim_blocks=True, keep_trailing_newline=True)
        .from_string(template)
        .render(
            training=training,
            recipe=training["recipe"],
            words="" if training["recipe"]["steps"] == 4000 else f" --steps {training['recipe']['steps']}",
            note=f" ({args.note})" if args.note else "",
            curve=[((i + 1) * every, [f"{loss:.3f}" for loss in points[i]]) for i in shown],
            commits=[commit[:12] for commit in training["commits"]],
            count=analyses[0]["settings"][0]["setting"]["batch_size"],
            draws=[(title, table(analysis)) for title, analysis in zip(titles, analyses, strict=False)],
        )
    )
    (DIRECTORY / "README.md").write_text(card, encoding="utf-8")
    draw_losses(curves, every)
    return 0


def table(analysis: dict[str, Any]) -> dict[str, Any]:
    """Exact match of each task by setting, with means over tasks at the end, and the adaptive setting's steps."""
    found: dict[str, dict[str, float]] = {}
    steps: dict[str, str] = {}
    for setting in analysis["settings"]:
        name = configuration(setting["setting"])
        found[name] = {one["category"]: one["exact_match"]["value"] for one in setting["categories"]}
        if name == "adaptive":
            steps = {one["category"]: step_text(one["steps_per_canvas"]) for one in setting["categories"]}
    columns = sorted(found, key=lambda name: (name.split()[0], len(name), name))
    tasks = sorted(found[columns[0]])
    rows = [(task, [percent(found[c][task]) for c in columns], steps[task]) for task in tasks]
    for title, names in (
        ("**easy**", [t for t in tasks if t.endswith("easy") and not t.startswith("open")]),
        ("**closed**", [t for t in tasks if not t.startswith("open")]),
        ("**overall**", tasks),
    ):
        rows.append((title, [percent(mean(found[c][t] for t in names)) for c in columns], ""))
    return {"columns": columns, "rows": rows}


def configuration(cell: dict[str, Any]) -> str:
    if cell["decoding"] == "autoregressive":
        return "AR greedy"
    return "adaptive" if cell["stopping"] == "adaptive" else f"fixed {cell['num_steps']}"


def step_text(steps: dict[str, float]) -> str:
    return f"{steps['p10']:g} / {steps['p50']:g} / {steps['p90']:g} / {steps['mean']:.1f}"


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def draw_losses(curves: dict[str, list[float]], every: int) -> None:
    figure = Figure(figsize=(7, 3))
    axes = figure.subplots()
    for name in ("denoise", "causal"):
        axes.plot([(i + 1) * every for i in range(len(curves[name]))], curves[name], label=name)
    axes.set(xlabel="step", ylabel="cross entropy (nats)", yscale="log")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(DIRECTORY / "losses.svg", metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
