"""What was run: the manifest has all that repeating and judging a run takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from altered import alter_plan
from synthetic import ENVIRONMENT, Scenario, write_run

from harness.analysis.analyse import analyse
from harness.analysis.run_data import load_run
from harness.report.frame import build_page
from harness.report.tables import manifest

GPU = {"name": "NVIDIA H100 80GB HBM3", "power_limit_w": 700.0}
CLOCKS = {"sm_clock_mhz": 1980, "memory_clock_mhz": 2619}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    outcomes = {(128, 1): "error", (256, 4): "oom"}
    scenario = Scenario(
        exclude=[{"batch_size": [16], "block_length": [256], "reason": "not asked"}],
        outcome=lambda cell, _: outcomes.get((cell.block_length or 0, cell.batch_size), "ok"),
    )
    made = write_run(tmp_path, scenario)
    return alter_plan(made, lambda plan: plan.update(prompts={"random": "feedbeef", "code": "0ddba11"}))


def entries_of(run_dir: Path) -> dict[str, str]:
    analysis = analyse([load_run(run_dir)])
    (run_id,) = analysis.runs
    return dict(manifest(run_id, analysis.runs[run_id], analysis))


def test_it_names_machine_driver_torch_commit_and_clocks(run_dir: Path) -> None:
    (path,) = run_dir.glob("environment-*.json")
    found = json.loads(path.read_text())
    found["identity"]["gpu"] |= GPU
    found["circumstance"]["gpu"] = CLOCKS
    path.write_text(json.dumps(found))
    machine = next(value for name, value in entries_of(run_dir).items() if name.startswith("machine, "))
    assert machine == (
        "NVIDIA H100 80GB HBM3, power limit W 700.0, driver 1.0, torch 2.0, commit c0ffee, SM clock MHz 1980, "
        "memory clock MHz 2619"
    )


def test_what_a_machine_did_not_tell_is_unknown(run_dir: Path) -> None:
    (path,) = run_dir.glob("environment-*.json")
    found = json.loads(path.read_text())
    found["identity"] |= {"gpu": None, "cpu": "some CPU"}
    path.write_text(json.dumps(found))
    machine = next(value for name, value in entries_of(run_dir).items() if name.startswith("machine, "))
    assert machine.startswith("some CPU, power limit W unknown, driver 1.0")


def test_it_names_weights_dtypes_prompts_seed_and_protocol(run_dir: Path) -> None:
    entries = entries_of(run_dir)
    assert "0123abcd" in entries["weights"]
    assert entries["prompt hashes"] == "random feedbeef, code 0ddba11"
    assert entries["prompt set"] == "random"
    assert entries["seed"] == str(json.loads((run_dir / "plan.json").read_text())["seed"])
    assert {entries[f"{part} dtype"] for part in ("weight", "activation", "kv", "head")} == {"bfloat16"}
    assert "rounds 3" in entries["protocol"]


def test_it_counts_planned_ok_failed_and_skipped_cells(run_dir: Path) -> None:
    """2 steps x (3 batches x 2 blocks - 1 skipped) + 3 autoregressive; of both steps one cell failed, one was oom."""
    counts = dict(reversed(part.split(" ", 1)) for part in entries_of(run_dir)["cells"].split(", "))
    assert {name: int(counts[name]) for name in ("planned", "ok", "failed", "oom", "skipped")} == {
        "planned": 13, "ok": 9, "failed": 2, "oom": 2, "skipped": 2,
    }  # fmt: skip


def test_the_page_has_the_command_to_repeat_it_with_a_button_to_copy_it(run_dir: Path) -> None:
    page = build_page(analyse([load_run(run_dir)]))
    place = page.index('id="manifest"')
    assert '<code id="command-1">python -m harness run suite=made_up</code>' in page[place:]
    assert 'data-copy="command-1"' in page[place:]
    assert ENVIRONMENT.environment_id in page[place:]
