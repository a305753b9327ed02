"""Identities of every round: each is broken on purpose, and the fake backend's wrong answers are no results."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic import Scenario, plan_of, round_of
from test_cli import harness
from test_session import plan_of as fake_plan
from test_session import run

from harness.analysis.metrics import METRICS
from harness.analysis.run_data import CellPlan
from harness.analysis.self_check import self_check_of
from harness.measuring.self_check import broken
from harness.records import store
from harness.records.types import AUTOREGRESSIVE, Cell, Round

SCENARIOS = {
    "fixed": Scenario(),
    "adaptive": Scenario(axes={"stopping": ["adaptive"], "prompt_set": ["code"]}),
    "eos": Scenario(eos="respect"),
    "both": Scenario(axes={"stopping": ["adaptive"], "prompt_set": ["code"]}, eos="respect"),
}


def one(decoding: str, **changes: Any) -> tuple[Round, Cell]:
    """A sound round of a cell with two canvases and two rows, with some fields changed."""
    scenario = Scenario(axes={"batch_size": [2], "block_length": [256], "num_steps": [8]})
    cell = next(p.cell for p in plan_of(scenario).cells if p.cell.decoding == decoding)
    return replace(round_of(scenario, cell, 0, 0), **changes), cell


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_sound_rounds_of_every_stopping_and_end_break_nothing(name: str) -> None:
    scenario = SCENARIOS[name]
    for planned in plan_of(scenario).cells:
        for index in range(scenario.rounds):
            assert broken(round_of(scenario, planned.cell, 0, index), planned.cell) == []


BROKEN: list[tuple[str, dict[str, Any], str]] = [
    ("block_diffusion", {"passes": {"prefill": 0, "denoise": 16, "commit": 1}}, "0 prefill passes"),
    ("block_diffusion", {"passes": {"prefill": 1, "denoise": 16, "commit": 2}}, "2 commit passes, expected 1"),
    ("block_diffusion", {"passes": {"prefill": 1, "denoise": 15, "commit": 1}}, "longest rows took 16 steps"),
    ("block_diffusion", {"steps_per_canvas": ((8, 9), (8, 8))}, "more than 8 steps"),
    ("block_diffusion", {"steps_per_canvas": ((16,), (16,))}, "steps of 1 canvases"),
    ("block_diffusion", {"step_s": (0.001,) * 15}, "15 step times"),
    ("block_diffusion", {"row_passes": {"denoise": 33}}, "16 denoise passes for 33 rows, with a batch of 2"),
    ("block_diffusion", {"row_passes": {"denoise": 31}}, "denoise passes for 31 rows, but rows took 32 steps"),
    ("block_diffusion", {"raw_tokens": 512}, "512 positions computed, expected 1024"),
    ("block_diffusion", {"useful_tokens": (512,)}, "of 1 rows, expected 2"),
    ("block_diffusion", {"useful_tokens": (512, 511)}, "511 useful tokens with eos ignored, expected 512"),
    ("block_diffusion", {"useful_tokens": (512, 513)}, "513 useful tokens, but only 512"),
    ("block_diffusion", {"block_s": (0.2, 0.1)}, "run backwards"),
    ("block_diffusion", {"step_s": (*(0.001,) * 15, -0.001)}, "run backwards"),
    ("block_diffusion", {"ttfb_s": 0.0}, "ttfb_s is not the time of the first block"),
    ("block_diffusion", {"wall_s": 1e-6}, "ttfb_s is longer than the request"),
    ("block_diffusion", {"step_s": (9.0,) * 16}, "the steps together are longer"),
    (AUTOREGRESSIVE, {"passes": {"prefill": 1, "decode": 510}}, "510 decode passes, expected 511"),
    (AUTOREGRESSIVE, {"passes": {"prefill": 1, "decode": 511, "denoise": 1}}, "1 denoise passes, expected 0"),
    (AUTOREGRESSIVE, {"block_s": (0.1,) * 511}, "512 useful tokens, but the blocks hold 511"),
]


@pytest.mark.parametrize(("decoding", "changes", "message"), BROKEN, ids=[message for _, _, message in BROKEN])
def test_a_broken_identity_is_named(decoding: str, changes: dict[str, Any], message: str) -> None:
    assert any(message in said for said in broken(*one(decoding, **changes)))


def test_a_backend_that_cannot_see_passes_is_not_accused_of_them() -> None:
    assert broken(*one("block_diffusion", passes={}, step_s=(), steps_per_canvas=())) == []


@pytest.mark.parametrize("decoding", [AUTOREGRESSIVE, "block_diffusion"])
def test_tokens_per_pass_times_passes_are_the_tokens_of_a_row(decoding: str) -> None:
    round, cell = one(decoding)
    planned = CellPlan(cell=cell, cell_id=cell.cell_id, twin_id=None, floor_basis="exact", phases={}, missing={})
    passes = sum(count for kind, count in round.passes.items() if kind != "prefill")
    tokens = METRICS["tpf_total"].compute(round, planned) * passes
    assert tokens == pytest.approx(sum(round.useful_tokens) / cell.batch_size)


def test_the_check_of_a_run_counts_rounds_and_names_what_does_not_hold(tmp_path: Path) -> None:
    words = ("eos=ignore", "options.fail=few_tokens", "options.fail_batch=2", "protocol.rounds=2")
    run(fake_plan(*words), tmp_path)
    check = self_check_of(store.read_records(tmp_path).records)
    assert (check.num_rounds, len(check.broken)) == (6, 3)
    assert all(" b2 " in label for label, _ in check.broken)
    assert check.overhead_s is not None and check.max_overhead_s is not None
    assert 0 < check.overhead_s <= check.max_overhead_s


def test_run_prints_whether_identities_hold_and_what_the_harness_took(tmp_path: Path) -> None:
    words = ("run", "backend=fake", "axes.batch_size=[1]", "axes.block_length=[16]", "axes.num_steps=[2]")
    done = harness(*words, folder=tmp_path)
    assert "self-check: 6 rounds, every identity holds" in done.stdout
    assert "the harness's own time a round: " in done.stdout


def test_a_wrong_answer_makes_the_run_incomplete_and_gives_no_speedup(tmp_path: Path) -> None:
    words = ("run", "backend=fake", "axes.batch_size=[1,2]", "axes.block_length=[16]", "axes.num_steps=[2]")
    wrong = ("eos=ignore", "options.fail=few_tokens", "options.fail_batch=2")
    done = harness(*words, *wrong, "--json", folder=tmp_path)
    cells = json.loads(done.stdout)["cells"]
    assert done.returncode == 3
    assert {cell["cell"]["batch_size"] for cell in cells if "speedup_vs_ar" in cell["metrics"]} == {1}
    page = (tmp_path / "reports" / "smoke.html").read_text(encoding="utf-8")
    assert "useful tokens with eos ignored, expected" in page
