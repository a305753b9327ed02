"""The same cell of two runs is shown apart, never averaged, and one warning names both and what differs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from several_runs import AXES, analysed, group, on, section, texts_of, tok_s, written
from synthetic import ENVIRONMENT, Scenario, usual_pass_s, write_run

from harness.records.types import Environment
from harness.report.figures.throughput_together import throughput_together
from harness.report.frame import build_page
from harness.report.slices import side_by_side, slices_of

OTHER = replace(ENVIRONMENT, stack={**ENVIRONMENT.stack, "driver": "2.0", "packages": {"torch": "2.1"}})
OTHER_GPU = replace(ENVIRONMENT, identity={**ENVIRONMENT.identity, "cpu": "another"})


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return written(tmp_path_factory.mktemp("two"), (Scenario(axes=AXES), Scenario(axes=AXES, environment=OTHER)))


def test_a_cell_of_two_environments_is_warned_of_once_with_both_and_what_differs(two: list[Path]) -> None:
    analysis = analysed(two)
    (warning,) = [text for text in analysis.warnings if "more than one run" in text]
    assert "9 cells" in warning  # 6 of block diffusion and 3 twins
    for run_dir in two:
        (path,) = run_dir.glob("environment-*.json")
        assert f"{run_dir.name} (environment {path.stem.removeprefix('environment-')})" in warning
    assert "stack: driver 1.0 | 2.0, packages.torch 2.0 | 2.1" in warning
    assert "identity" not in warning
    assert unescape(build_page(analysis).split("<main>")[0]).count(warning) == 1


def test_a_cell_of_two_machines_names_the_identity(tmp_path: Path) -> None:
    runs = written(tmp_path, (Scenario(axes=AXES), Scenario(axes=AXES, environment=OTHER_GPU)))
    (warning,) = analysed(runs).warnings
    assert warning.endswith("The runs differ in identity: cpu made-up | another")


def test_a_cell_of_two_environments_is_never_averaged(two: list[Path], tmp_path: Path) -> None:
    faster = write_run(tmp_path, Scenario(axes=AXES, environment=OTHER, pass_s=lambda cell: usual_pass_s(cell) / 3))
    analysis = analysed([two[0], faster])
    for run_dir, run_id in zip((two[0], faster), analysis.runs, strict=True):
        rates = tok_s(run_dir)
        for row in analysis.rows:
            if row.run_id == run_id:
                key = (row.cell.block_length, row.cell.batch_size)
                assert row.metrics["useful_tok_s"].value == pytest.approx(rates[key])


def test_runs_of_one_device_are_told_apart_by_run_driver_and_torch(two: list[Path]) -> None:
    analysis = analysed(two)
    names = [headline.where for headline in analysis.headlines]
    assert names == [
        f"Made-up GPU 80 GB (run {two[0].name}, driver 1.0, torch 2.0)",
        f"Made-up GPU 80 GB (run {two[1].name}, driver 2.0, torch 2.1)",
    ]
    texts = texts_of(str(throughput_together(group(analysis), "x").picture))
    assert f"run {two[0].name}, driver 1.0, torch 2.0" in texts
    assert f"run {two[1].name}, driver 2.0, torch 2.1" in texts


def test_the_same_environment_twice_says_so(tmp_path: Path) -> None:
    runs = written(tmp_path, (Scenario(axes=AXES), Scenario(axes=AXES, wobble=0.02)))
    (warning,) = analysed(runs).warnings
    assert "Identity and stack are the same" in warning


def test_a_copy_of_a_run_is_called_a_copy(two: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / two[0].name
    shutil.copytree(two[0], copy)
    analysis = analysed([two[0], copy])
    assert len(analysis.runs) == 2
    (warning,) = analysis.warnings
    assert "copies of one run" in warning


def test_a_run_that_is_named_twice_counts_once_and_is_told(two: list[Path]) -> None:
    analysis = analysed([two[0], two[0]])
    assert len(analysis.runs) == 1
    assert analysis.warnings == (f"{two[0].name} was named 2 times and counts once",)


def test_devices_that_differ_share_no_cell_and_are_not_warned_of(tmp_path: Path) -> None:
    assert analysed(written(tmp_path, (on("a"), on("b")))).warnings == ()


def test_runs_of_different_models_do_not_stand_side_by_side(two: list[Path], tmp_path: Path) -> None:
    other = write_run(
        tmp_path, Scenario(axes=AXES, name="other", device="b", rename=lambda cell: replace(cell, model="another"))
    )
    analysis = analysed([two[0], other])
    assert [len(parts) for parts in side_by_side(slices_of(analysis))] == [1, 1]
    assert section(build_page(analysis), "throughput").count("<svg") == 2  # both are open


def test_other_weights_under_one_name_do_not_stand_side_by_side(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path, on("a")),
        write_run(tmp_path, on("b"), plan_changes={"provenance": {"weights_hash": "another"}}),
    ]
    assert [len(parts) for parts in side_by_side(slices_of(analysed(runs)))] == [1, 1]


def test_shards_that_nobody_merged_stand_apart_and_say_so(tmp_path: Path) -> None:
    """Each measured its share, so that they share no cell."""
    run_dirs = []
    for shard in ("1", "2"):
        scenario = Scenario(axes=AXES, name=f"shard_{shard}")
        run_dir = write_run(tmp_path, scenario, plan_changes={"shard": f"{shard}/2"})
        plan = json.loads((run_dir / "plan.json").read_text())
        sizes = {1: "1", 4: "1", 16: "2"}
        for entry in plan["cells"]:
            entry["share"] = sizes[entry["cell"]["batch_size"]]
        own = {entry["cell_id"] for entry in plan["cells"] if entry["share"] == shard}
        (run_dir / "plan.json").write_text(json.dumps(plan))
        (records,) = run_dir.glob("records-*.jsonl")
        lines = [line for line in records.read_text().splitlines() if json.loads(line)["cell_id"] in own]
        records.write_text("".join(f"{line}\n" for line in lines))
        run_dirs.append(run_dir)
    analysis = analysed(run_dirs)
    assert not [text for text in analysis.warnings if "more than one run" in text]
    assert [len(parts) for parts in side_by_side(slices_of(analysis))] == [2]
    assert all(f"shard {shard}/2" in headline.where for shard, headline in zip("12", analysis.headlines, strict=True))


def test_a_run_over_two_environments_names_both_and_the_cells_that_it_touches(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path, Scenario(axes=AXES, launches=2))
    (records,) = run_dir.glob("records-*.jsonl")
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    for line in lines:
        line["environment_id"] = (OTHER if line["launch"] else ENVIRONMENT).environment_id
    records.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    _write(run_dir, OTHER)
    (warning,) = analysed([run_dir]).warnings
    assert all(one.environment_id in warning for one in (ENVIRONMENT, OTHER))
    assert "packages.torch" in warning
    assert "Cells with launches in several of them, whose median is over all: 9" in warning


def _write(run_dir: Path, environment: Environment) -> None:
    facts = {"identity": environment.identity, "stack": environment.stack, "circumstance": environment.circumstance}
    (run_dir / f"environment-{environment.environment_id}.json").write_text(json.dumps(facts))
