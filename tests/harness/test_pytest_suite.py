"""pytest --suite: cells as pytest-benchmark items, and nothing that passes without having been measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from apart import ENVIRONMENT, ROOT

from harness.records import store

TINY = ("backend=fake", "axes.batch_size=[1]", "axes.num_steps=[2,4]")
REFUSED = 4  # pytest's code for a usage error
NOTHING_RUN = 5  # pytest's code for no test


@dataclass(frozen=True, kw_only=True)
class Done:
    returncode: int
    text: str
    results: Path
    json_path: Path

    @property
    def benchmarks(self) -> list[dict[str, Any]]:
        return json.loads(self.json_path.read_text())["benchmarks"] if self.json_path.exists() else []

    @property
    def num_runs(self) -> int:
        return len(list(self.results.glob("*/*/plan.json")))


def session(folder: Path, *options: str, words: tuple[str, ...] = TINY, suite: str = "smoke", **env: str) -> Done:
    """One pytest session of a suite, as a user starts it in this repository."""
    json_path = folder / "out.json"
    overrides = [f"--suite-override={word}" for word in (*words, f"results_dir={folder / 'results'}")]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--suite={suite}", *overrides]
    done = subprocess.run(
        [*command, f"--benchmark-json={json_path}", *options],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=ENVIRONMENT | env,
        timeout=300,
        check=False,
    )
    return Done(
        returncode=done.returncode, text=done.stdout + done.stderr, results=folder / "results", json_path=json_path
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return session(tmp_path_factory.mktemp("measured"), "-ra", CANVASBENCH_CI="1")


def test_every_cell_is_an_item_and_a_plan_skip_is_a_skip_with_its_reason(measured: Done) -> None:
    assert measured.returncode == 0, measured.text
    assert "3 passed, 2 skipped" in measured.text
    assert "excluded by the suite: adaptive stopping has the released cap of 48 steps" in measured.text


def test_the_json_holds_the_very_wall_times_of_the_records(measured: Done) -> None:
    (run_dir,) = (path.parent for path in measured.results.glob("*/*/plan.json"))
    on_disk = {r.cell_id: [round.wall_s for round in r.rounds] for r in store.read_records(run_dir).records}
    assert {b["extra_info"]["cell_id"]: b["stats"]["data"] for b in measured.benchmarks} == on_disk
    assert {b["options"]["timer"] for b in measured.benchmarks} == {"measured_wall_s"}


def test_the_json_holds_counters_and_the_environment_and_no_host_name(measured: Done) -> None:
    machine = json.loads(measured.json_path.read_text())["machine_info"]
    assert machine["node"] == ""
    assert {"identity", "stack", "environment_id"} == set(machine["canvasbench"])
    for one in measured.benchmarks:
        info = one["extra_info"]
        is_diffusion = info["cell"]["decoding"] == "block_diffusion"
        assert ("tpf_denoise" in info["counters"]) == is_diffusion
        assert info["times"]["request_s"] == pytest.approx(one["stats"]["median"])
        assert info["simulated"]
        assert info["environment"] == {
            "id": machine["canvasbench"]["environment_id"],
            "stack": machine["canvasbench"]["stack"],
        }


def test_a_failed_cell_is_a_failed_item_and_never_a_baseline(tmp_path: Path) -> None:
    """Its first request, of the warm-up, goes well, so that it has measured before it fails."""
    junit = tmp_path / "junit.xml"
    fails = ("options.fail=few_tokens", "options.fail_batch=2", "eos=ignore", "axes.num_steps=[2]")
    done = session(tmp_path, f"--junitxml={junit}", words=("backend=fake", "axes.batch_size=[1,2]", *fails))
    assert done.returncode == 1
    assert "useful tokens with eos ignored, expected 96" in done.text
    assert {b["extra_info"]["cell"]["batch_size"] for b in done.benchmarks} == {1}
    suites = ElementTree.parse(junit).getroot().iter("testsuite")
    assert [(one.get("failures"), one.get("errors")) for one in suites] == [("2", "0")]


def test_only_groups_of_selected_cells_are_measured(tmp_path: Path) -> None:
    words = ("backend=fake", "axes.batch_size=[1,2]", "axes.num_steps=[2,4]")
    done = session(tmp_path, "-k", "s2 and b1", words=words)
    assert done.returncode == 0, done.text
    (run_dir,) = (path.parent for path in done.results.glob("*/*/plan.json"))
    assert {record.cell.batch_size for record in store.read_records(run_dir).records} == {1}
    assert [b["extra_info"]["cell"]["num_steps"] for b in done.benchmarks] == [2]


def test_a_share_is_measured_whole(tmp_path: Path) -> None:
    words = ("backend=fake", "axes.batch_size=[1,2,4]", "axes.num_steps=[2]", "shard=1/2")
    done = session(tmp_path, words=words)
    assert done.returncode == 0, done.text
    assert {b["extra_info"]["cell"]["batch_size"] for b in done.benchmarks} < {1, 2, 4}


def test_another_session_measures_again(tmp_path: Path) -> None:
    first, second = (session(tmp_path, "-k", "not BD") for _ in range(2))
    assert (first.returncode, second.returncode, second.num_runs) == (0, 0, 2)


def test_a_session_whose_cells_are_all_deselected_is_not_green(tmp_path: Path) -> None:
    assert session(tmp_path, "-k", "nonesuch").returncode == NOTHING_RUN


def test_a_session_whose_cells_are_all_skipped_by_the_plan_is_not_green(tmp_path: Path) -> None:
    done = session(tmp_path, "-k", "BD and not s2 and not s4")
    assert (done.returncode, done.num_runs) == (REFUSED, 0)
    assert "every selected one is skipped by the plan" in done.text


def test_a_session_in_which_no_cell_gave_a_number_is_not_green(tmp_path: Path) -> None:
    done = session(tmp_path, words=(*TINY, "options.fail=oom"))
    assert done.returncode == REFUSED
    assert "no selected cell gave a number" in done.text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--benchmark-disable"], "--benchmark-disable would leave every cell unmeasured"),
        (["--benchmark-skip"], "--benchmark-skip would leave every cell out"),
        (["--benchmark-cprofile=tottime"], "--benchmark-cprofile would profile"),
        (["--benchmark-compare", "--benchmark-compare-fail=mean:5%"], "python -m harness gate --base REV"),
        (["tests/test_layers.py"], "leave out tests/test_layers.py"),
        (["-p", "no:benchmark"], "needs pytest-benchmark"),
        (["--suite-override=axes.batch=[1]"], "axes has no 'batch'"),
        (["--suite=smok"], "smoke"),
        (["--benchmark-json=/nosuch/out.json"], "--benchmark-json=/nosuch/out.json: its folder does not exist"),
        (["--benchmark-json=/"], "--benchmark-json=/: is a folder"),
    ],
)
def test_what_would_pass_unmeasured_is_refused_with_one_message(tmp_path: Path, options: list[str], said: str) -> None:
    no_json = "-p" in options
    done = session(tmp_path, *options) if not no_json else without_benchmark(tmp_path)
    assert (done.returncode, done.num_runs, done.benchmarks) == (REFUSED, 0, [])
    assert said in done.text
    assert "Traceback" not in done.text
    assert done.text.count("ERROR") == 1


def without_benchmark(folder: Path) -> Done:
    command = [sys.executable, "-m", "pytest", "-p", "no:benchmark", "--suite=smoke"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    return Done(
        returncode=done.returncode, text=done.stdout + done.stderr, results=folder, json_path=folder / "out.json"
    )


def test_cells_are_not_measured_side_by_side(tmp_path: Path) -> None:
    """Under pytest-xdist pytest-benchmark measures nothing and passes."""
    done = session(tmp_path, "-n", "2")
    assert (done.returncode, done.num_runs) == (REFUSED, 0)
    assert "leave out -n and --dist" in done.text


def test_options_of_a_suite_without_one_are_refused() -> None:
    command = [sys.executable, "-m", "pytest", "--suite-override=seed=1", "tests/test_layers.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert done.returncode == REFUSED
    assert "belong to --suite=NAME" in done.stderr


def of_another_machine(stored: dict[str, Any]) -> None:
    stored["machine_info"]["canvasbench"]["identity"]["cpu"] = "another"


def of_another_stack(stored: dict[str, Any]) -> None:
    stored["machine_info"]["canvasbench"]["stack"]["packages"]["torch"] = "1.0"


def of_other_cells(stored: dict[str, Any]) -> None:
    for one in stored["benchmarks"]:
        one["fullname"] = one["fullname"].replace("smoke", "other")


def compared(measured: Done, folder: Path, change: Callable[[dict[str, Any]], None]) -> Done:
    """A session that is compared with the measured one after a change of what was stored."""
    stored = json.loads(measured.json_path.read_text())
    change(stored)
    storage = folder / "stored" / "Linux-CPython-3-64bit"
    storage.mkdir(parents=True)
    (storage / "0001_base.json").write_text(json.dumps(stored))
    where = f"--benchmark-storage=file://{folder / 'stored'}"
    return session(folder, where, f"--benchmark-compare={storage / '0001_base.json'}")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (of_another_machine, "of another machine"),
        (of_another_stack, "of another stack (packages.torch)"),
        (of_other_cells, "has none of the selected cells"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_measured(
    measured: Done, tmp_path: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    done = compared(measured, tmp_path, change)
    assert (done.returncode, done.num_runs) == (REFUSED, 0)
    assert said in done.text
    assert "Traceback" not in done.text


def outside(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """A session in a folder that is not this repository; pytest-benchmark stores there."""
    words = [f"--suite-override={word}" for word in TINY]
    command = [sys.executable, "-m", "pytest", "-p", "harness.pytest_suite", "--suite=smoke", *words, *options]
    # pytest-benchmark stores nothing in a worker of xdist, which this session is not, though its parent may be one
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300, check=False, env=alone)


def test_the_plugin_works_outside_this_repository_and_compares_with_another_commit(tmp_path: Path) -> None:
    done = outside(tmp_path, "--benchmark-autosave")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed, 2 skipped" in done.stdout
    (path,) = tmp_path.glob(".benchmarks/*/*.json")
    stored = json.loads(path.read_text())
    stored["machine_info"]["canvasbench"]["stack"].update(project_commit="another", project_dirty=None)
    path.write_text(json.dumps(stored))
    done = outside(tmp_path, "--benchmark-compare")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "(NOW)" in done.stdout


def test_a_run_that_is_not_stored_is_not_compared_with(tmp_path: Path) -> None:
    done = outside(tmp_path, "--benchmark-compare=0001")
    assert (done.returncode, list(tmp_path.glob("results/*/*"))) == (REFUSED, [])
    assert "no such stored run" in done.stdout + done.stderr


def test_without_a_suite_the_plugin_loads_nothing_of_the_harness() -> None:
    code = "import harness.pytest_suite, sys; print(*sorted(m for m in sys.modules if m.startswith('harness.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["harness.pytest_suite"]
