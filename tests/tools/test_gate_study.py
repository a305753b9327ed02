"""The study of the gate: what a promise means, and that its known changes change what they say and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gate_study
import pytest
from ab_stub import Repository
from gate_study import FORWARDS, SAME, SLOWER, Outcome, changed, keeps_promise

from harness.measuring.ab import checkout

ROOT = Path(__file__).resolve().parents[2]


def gates(*codes: int, unsure: int = 0, rules: tuple[str, ...] = ("forwards",)) -> list[Outcome]:
    counts = [{"INCONCLUSIVE": 1} if number < unsure else {"OK": 1} for number in range(len(codes))]
    return [
        Outcome(exit_code=code, counts=count, red_rules=rules if code else (), seconds=1.0)
        for code, count in zip(codes, counts, strict=True)
    ]


@pytest.mark.parametrize(
    ("kind", "outcomes", "kept"),
    [
        (SAME, gates(*[0] * 36, *[1] * 4), True),
        (SAME, gates(*[0] * 35, *[1] * 5), False),
        (SAME, gates(*[0] * 40, unsure=20), True),
        (SAME, gates(*[0] * 40, unsure=21), False),
        (SLOWER, gates(*[1] * 9, 0), True),
        (SLOWER, gates(*[1] * 8, 0, 0), False),
        (FORWARDS, gates(*[1] * 10), True),
        (FORWARDS, gates(*[1] * 9, 0), False),
        (FORWARDS, gates(1, rules=("cpu_time",)), False),
    ],
)
def test_a_promise_is_a_share_of_red_and_of_inconclusive_gates(kind: str, outcomes: list[Outcome], kept: bool) -> None:
    assert keeps_promise(kind, outcomes) is kept


def test_a_known_change_is_a_commit_on_base_that_no_branch_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = Repository(tmp_path)
    monkeypatch.setattr(checkout, "ROOT", repository.root)
    commit = changed(repository.first, "harness/__main__.py", "\nshare = {share}\n", 0.1)
    assert repository.git("rev-parse", f"{commit}^") == repository.first
    assert repository.git("diff", "--name-only", repository.first, commit) == "harness/__main__.py"
    assert repository.git("show", f"{commit}:harness/__main__.py").endswith("share = 0.1")
    assert not repository.git("branch", "--contains", commit)
    assert repository.worktrees == 0


MEASURE = """
import sys, json, torch
from time import process_time
from engine import api
from engine.model import Model
{code}
if "generate" in globals():
    api.generate = generate
model = api.load("tiny")
calls = []
plain = Model.encode
def run():
    return api.generate(model, torch.ones(1, 8, dtype=torch.long), decoding="block_diffusion", output_tokens=32,
                        block_length=16, num_steps=3, stopping="fixed", eos="ignore",
                        generator=torch.Generator().manual_seed(0))
from harness.measuring.backends.operations import register_module_forward_pre_hook
register_module_forward_pre_hook(lambda module, args: calls.append(module) if module is model.layers[0] else None)
run(); run()
begun = process_time(); out = run(); spent = process_time() - begun
print(json.dumps({{"ids": out.output_ids.tolist(), "forwards": len(calls) // 3, "spent": spent}}))
"""


def measured(code: str) -> dict[str, Any]:
    """A request of the engine with that code appended, in a process of its own."""
    text = MEASURE.format(code=code)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True, cwd=ROOT)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_known_changes_keep_the_tokens_and_only_forwards_are_counted() -> None:
    plain = measured("")
    slower = measured("from engine.api import generate\n" + gate_study.SLOWER_CODE.replace("{share}", "3"))
    forwards = measured(gate_study.FORWARDS_CODE)
    assert slower["ids"] == forwards["ids"] == plain["ids"]
    assert slower["forwards"] == plain["forwards"]
    assert forwards["forwards"] == plain["forwards"] + 2  # of two canvases
    assert slower["spent"] > 2 * plain["spent"]  # four times as much, on a machine that others use
