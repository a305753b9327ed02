"""Trains the mini: a small DiffusionGemma that really denoises, on the made-up task of tools/mini_data.py.

    python tools/train_mini.py                          # about an hour on 2 CPU cores
    python tools/train_mini.py --until 200 --out DIR    # the first 200 steps; the next call goes on from there

It trains engine.model.Model itself. Everything random at a step follows from the seed and the step's number, so that a
training that was interrupted goes on to the same weights. Progress is kept in DIR/state.*; at the end DIR/model holds
the checkpoint in Hugging Face layout with training.json, which tells recipe, loss curves, time and versions.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from mini_losses import CONFIG, Loads, Recipe, losses, make_batch, train_tokenizer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file

from engine import api, weights
from engine.model import Model

SAVE_EVERY = 100  # steps
CURVE_EVERY = 50  # steps that one point of training.json's loss curves is the mean of


class Optimizer:
    """Muon for the matrices inside the layers, AdamW for embedding, router, norms and scalars."""

    def __init__(self, model: Model, recipe: Recipe) -> None:
        self.recipe = recipe
        # Muon takes matrices; packed experts are several. Each leaf is a view of a part of its parameter.
        self.views: list[tuple[torch.nn.Parameter, torch.nn.Parameter, Any]] = []
        matrices, rest = [], []
        for name, p in model.named_parameters():
            if p.dim() == 3:
                matrices += [self._view(p, index) for index in _matrices_of(name, p)]
            elif p.dim() == 2 and "embed" not in name and "router" not in name:
                matrices.append(p)
            else:
                rest.append(p)
        self.muon = torch.optim.Muon(matrices, lr=recipe.muon_lr, weight_decay=recipe.weight_decay)
        self.adamw = torch.optim.AdamW(
            rest, lr=recipe.adamw_lr, betas=(0.9, 0.98), weight_decay=recipe.weight_decay, foreach=True
        )

    def _view(self, p: torch.nn.Parameter, index: Any) -> torch.nn.Parameter:
        leaf = torch.nn.Parameter(p.data[index])
        self.views.append((leaf, p, index))
        return leaf

    def step(self, number: int) -> None:
        """Apply the gradients of step `number`."""
        for leaf, p, index in self.views:
            assert p.grad is not None
            leaf.grad = p.grad[index]
        share = self.recipe.lr_share(number)
        for part, lr in ((self.muon, self.recipe.muon_lr), (self.adamw, self.recipe.adamw_lr)):
            part.param_groups[0]["lr"] = lr * share
            part.step()

    def tensors(self) -> dict[str, torch.Tensor]:
        """Its state by names that `load` knows."""
        return {
            f"{name}.{i}.{key}": value
            for name, part in (("muon", self.muon), ("adamw", self.adamw))
            for i, state in part.state_dict()["state"].items()
            for key, value in state.items()
        }

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        for name, part in (("muon", self.muon), ("adamw", self.adamw)):
            state: dict[int, dict[str, torch.Tensor]] = {}
            for key, value in tensors.items():
                owner, _, rest = key.partition(".")
                if owner == name:
                    index, _, field_name = rest.partition(".")
                    state.setdefault(int(index), {})[field_name] = value
            part.load_state_dict({**part.state_dict(), "state": state})


def _matrices_of(name: str, packed_EXY: torch.Tensor) -> Iterator[tuple[int, slice]]:
    """Index of every matrix in packed experts: gate and up are two."""
    parts = 2 if "gate_up" in name else 1
    rows = packed_EXY.shape[1] // parts
    for e in range(packed_EXY.shape[0]):
        for part in range(parts):
            yield e, slice(part * rows, (part + 1) * rows)


@dataclass
class Training:
    """A model in training and what is known of its past."""

    recipe: Recipe
    directory: Path
    step: int = 0
    wall_s: float = 0.0  # over all calls
    cpu_s: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)  # each step's losses
    commits: list[str] = field(default_factory=list)  # of the code that trained, one a call where it changed

    def __post_init__(self) -> None:
        self.tokenizer = train_tokenizer(self.recipe.seed)
        model = weights.random_model(CONFIG, torch.device("cpu"), torch.float32, self.recipe.seed)
        self.model = model.requires_grad_(True)
        self.model.tokenizer = self.tokenizer
        self.loads = Loads(self.model)
        self.optimizer = Optimizer(self.model, self.recipe)
        if (self.directory / "state.json").exists():
            self._resume()
        if (here := _commit()) not in self.commits:
            self.commits.append(here)

    def one_step(self) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + self.step)
        batch = make_batch(self.tokenizer, self.recipe, self.step)
        found = losses(self.model, self.loads, batch, self.recipe, self.step, generator)
        total = found["denoise"] + found["causal"] + self.recipe.balance_weight * found["balance"]
        self.model.zero_grad()
        total.backward()
        self.optimizer.step(self.step)
        self.history.append({name: loss.item() for name, loss in found.items()})
        self.step += 1
        self.wall_s += time.perf_counter() - wall
        self.cpu_s += time.process_time() - cpu

    def save(self) -> None:
        """Model and optimizer first, then state.json, which names them: a crash in between leaves the older pair."""
        self.directory.mkdir(parents=True, exist_ok=True)
        tensors = {f"model.{name}": p.data for name, p in self.model.named_parameters()} | self.optimizer.tensors()
        file = f"state-{self.step}.safetensors"
        save_file(tensors, self.directory / file)
        about = {"file": file, "recipe": asdict(self.recipe), "step": self.step, "wall_s": self.wall_s}
        about |= {"cpu_s": self.cpu_s, "history": self.history, "commits": self.commits}
        temporary = self.directory / "state.json.part"
        temporary.write_text(json.dumps(about), encoding="utf-8")
        temporary.replace(self.directory / "state.json")
        for old in self.directory.glob("state-*.safetensors"):
            if old.name != file:
                old.unlink()

    def _resume(self) -> None:
        about = json.loads((self.directory / "state.json").read_text(encoding="utf-8"))
        if about["recipe"] != asdict(self.recipe):
            raise SystemExit(f"error: {self.directory} holds a training with another recipe; choose another --out")
        tensors = load_file(self.directory / about["file"])
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                p.copy_(tensors.pop(f"model.{name}"))
        self.optimizer.load(tensors)
        self.step, self.wall_s, self.cpu_s = about["step"], about["wall_s"], about["cpu_s"]
        self.history, self.commits = about["history"], about["commits"]

    def export(self) -> Path:
        """The finished model in bfloat16, Hugging Face layout, with training.json beside it."""
        directory = self.directory / "model"
        self.model.requires_grad_(False)
        api.save(self.model.to(torch.bfloat16), directory)
        points = [self.history[i : i + CURVE_EVERY] for i in range(0, len(self.history), CURVE_EVERY)]
        about = {
            "recipe": asdict(self.recipe),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "wall_s": round(self.wall_s),
            "cpu_s": round(self.cpu_s),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "commits": self.commits,
            "curve_every": CURVE_EVERY,
            "curves": {
                name: [round(sum(step[name] for step in point) / len(point), 4) for point in points]
                for name in self.history[0]
            },
        }
        (directory / "training.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        return directory


def train(training: Training, until: int) -> None:
    """Go on to step `until`; progress on stderr, a bar or lines. Ctrl-C keeps what is done."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("training", total=until, completed=training.step)
        try:
            while training.step < until:
                training.one_step()
                last = training.history[-1]
                what = f"denoise {last['denoise']:.3f} causal {last['causal']:.3f}"
                progress.update(bar, completed=training.step, description=what)
                if training.step % SAVE_EVERY == 0 and training.step < until:
                    training.save()
                    if not console.is_terminal:
                        print(
                            f"step {training.step}/{until} {what} {training.wall_s:.0f} s", file=sys.stderr, flush=True
                        )
        finally:
            training.save()


def _commit() -> str:
    """The commit of this checkout, "+" behind it when files differ from it; "unknown" outside git."""
    with suppress(OSError, subprocess.CalledProcessError):
        root = Path(__file__).resolve().parents[1]
        git = ["git", "-C", str(root)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "engine", "tools"], capture_output=True, text=True)
        return commit + ("+" if changed.stdout.strip() else "")
    return "unknown"


def main() -> int:
    defaults = Recipe()
    parser = argparse.ArgumentParser(description="Train the mini. The same command goes on after an interruption.")
    parser.add_argument("--out", type=Path, default=Path("build/mini"), help="folder of this training")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--steps", type=int, default=defaults.steps, help="length of the first phase")
    parser.add_argument("--polish-steps", type=int, default=defaults.polish_steps, help="length of the second")
    parser.add_argument("--batch", type=int, default=defaults.batch)
    parser.add_argument("--until", type=int, help="stop after so many steps and keep the state")
    parser.add_argument("--threads", type=int, default=2, help="other numbers round otherwise")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)
    recipe = replace(defaults, seed=args.seed, steps=args.steps, polish_steps=args.polish_steps, batch=args.batch)
    training = Training(recipe, args.out)
    until = min(recipe.all_steps, args.until or recipe.all_steps)
    try:
        train(training, until)
    except KeyboardInterrupt:
        print(f"interrupted at step {training.step}; the same command goes on from there", file=sys.stderr)
        return 130
    if training.step == recipe.all_steps:
        print(training.export())
    else:
        last = training.history[-1]
        print(json.dumps({"step": training.step, "losses": last}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
