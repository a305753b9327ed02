"""What doctor finds, what each finding means, and where a run keeps it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from synthetic import write_run
from test_cli import TINY, harness

from harness.analysis.analyse import analyse
from harness.analysis.run_data import load_run
from harness.measuring import doctor, environment
from harness.records.merge import merge
from harness.records.types import Environment
from harness.report.frame import build_page

QUIET = {
    "load_1min": 0.0,
    "affinity_cpus": os.cpu_count(),
    "available_memory_bytes": 64 << 30,
    "governor": "performance",
}
GPU_NOW = {
    "capabilities": {"sm_clock_mhz": "supported"},
    "persistence": 1,
    "has_application_clocks": False,
    "foreign_processes": 0,
    "free_memory_bytes": 70 << 30,
    "memory_source": "nvml_v2",
}


@pytest.fixture(autouse=True)
def torch_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_torch_cuda", lambda: None)


collected = cache(environment.collect)


def quiet(*, gpu: dict[str, Any] | None = None, stack: dict[str, Any] | None = None, **changes: Any) -> Environment:
    """A machine with nothing to find fault with; gpu: what its GPU says otherwise."""
    here = collected()
    clean = {"project_commit": "0123456789abcdef", "project_dirty": False, "driver": "580.95.05", "cuda_driver": 13000}
    own = {"gpu": {**GPU_NOW, **gpu}} if gpu is not None else {"nvml": "no NVML: library not found"}
    return replace(
        here,
        identity={**here.identity, "gpu": {"name": "NVIDIA H100"} if gpu is not None else None, "num_gpus": 1},
        stack={**here.stack, **clean, **(stack or {})},
        circumstance={**QUIET, **own, **changes},
    )


def status_of(here: Environment, name: str, folder: Path, kind: str | None = None) -> str:
    (check,) = [check for check in doctor.examine(here, folder, kind) if check.name == name]
    assert bool(check.fix) == (check.status != "ok")
    return check.status


@pytest.mark.parametrize(
    ("name", "here", "status"),
    [
        ("load", lambda: quiet(), "ok"),
        ("load", lambda: quiet(load_1min=1e3), "warn"),
        ("load", lambda: quiet(load_1min=None), "ok"),
        ("affinity", lambda: quiet(), "ok"),
        ("affinity", lambda: quiet(affinity_cpus=0), "warn"),
        ("memory", lambda: quiet(), "ok"),
        ("memory", lambda: quiet(available_memory_bytes=1 << 30), "warn"),
        ("cpu governor", lambda: quiet(), "ok"),
        ("cpu governor", lambda: quiet(governor="powersave"), "warn"),
        ("cpu governor", lambda: quiet(governor=None), "ok"),
        ("project", lambda: quiet(), "ok"),
        ("project", lambda: quiet(stack={"project_dirty": True}), "warn"),
        ("gpu", lambda: quiet(), "warn"),
        ("gpu", lambda: quiet(nvml="no NVML: Driver/library version mismatch"), "fail"),
        ("gpu", lambda: quiet(gpu={}), "ok"),
        ("nvml readings", lambda: quiet(gpu={}), "ok"),
        ("nvml readings", lambda: quiet(gpu={"capabilities": {"energy_mj": "unsupported: Not Supported"}}), "warn"),
        ("persistence", lambda: quiet(gpu={}), "ok"),
        ("persistence", lambda: quiet(gpu={"persistence": 0}), "warn"),
        ("gpu processes", lambda: quiet(gpu={}), "ok"),
        ("gpu processes", lambda: quiet(gpu={"foreign_processes": 2}), "warn"),
        ("gpu memory", lambda: quiet(gpu={}), "ok"),
        ("gpu memory", lambda: quiet(gpu={"free_memory_bytes": None}), "warn"),
    ],
)
def test_a_finding_means_what_it_should(
    name: str, here: Callable[[], Environment], status: str, tmp_path: Path
) -> None:
    assert status_of(here(), name, tmp_path) == status


@pytest.mark.parametrize(
    ("driver", "torch", "status"),
    [
        (13000, (13, 0), "ok"),
        (13010, (13, 0), "ok"),
        (13000, (13, 1), "warn"),
        (12080, (13, 0), "fail"),
        (13000, None, "fail"),
        (None, (13, 0), "warn"),
    ],
)
def test_the_driver_must_know_the_cuda_that_torch_was_built_for(
    driver: int | None,
    torch: tuple[int, int] | None,
    status: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = quiet(gpu={}, stack={"cuda_driver": driver})
    monkeypatch.setattr(doctor, "_ASK_TORCH", "print('NVIDIA H100')")
    monkeypatch.setattr(doctor, "_torch_cuda", lambda: torch)
    assert status_of(here, "driver", tmp_path) == status


@pytest.mark.parametrize(("answer", "status"), [("print('NVIDIA H100')", "ok"), ("print('')", "fail"), ("1/0", "fail")])
def test_torch_is_asked_whether_it_sees_the_gpu(
    answer: str, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_torch_cuda", lambda: (13, 0))
    monkeypatch.setattr(doctor, "_ASK_TORCH", answer)
    assert status_of(quiet(gpu={}), "torch", tmp_path) == status


def test_a_package_that_is_absent_or_too_old_is_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert status_of(quiet(), "packages", tmp_path) == "ok"
    monkeypatch.setattr(doctor, "_OLDEST_TORCH", (99, 0))
    assert status_of(quiet(), "packages", tmp_path) == "fail"
    monkeypatch.setattr(doctor, "_PACKAGES", ["no-such-package"])
    assert status_of(quiet(), "packages", tmp_path) == "fail"


def test_a_folder_that_cannot_be_written_or_is_full_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert status_of(quiet(), "results folder", tmp_path / "not" / "yet") == "ok"
    assert status_of(quiet(), "results folder", Path("/proc/nowhere")) == "fail"
    monkeypatch.setattr(doctor, "_LEAST_DISK_BYTES", 1 << 60)
    monkeypatch.setattr(doctor, "_WANTED_DISK_BYTES", 1 << 61)
    assert status_of(quiet(), "results folder", tmp_path) == "fail"


def test_a_suite_for_a_cpu_is_told_nothing_about_gpus(tmp_path: Path) -> None:
    names = {check.name for check in doctor.examine(quiet(gpu={"persistence": 0}), tmp_path, "cpu")}
    assert not names & {"gpu", "driver", "persistence", "nvml readings", "gpu memory"}
    assert {"python", "packages", "load", "locale", "cpu energy (RAPL)"} <= names


def test_json_is_alone_on_stdout_and_every_check_that_is_not_ok_has_a_fix(tmp_path: Path) -> None:
    done = harness("doctor", "--json", folder=tmp_path)
    document = json.loads(done.stdout)
    assert document["doctor_schema"] == 1
    assert len(document["checks"]) >= 11
    assert {check["status"] for check in document["checks"]} <= {"ok", "warn", "fail"}
    assert all(bool(check["fix"]) == (check["status"] != "ok") for check in document["checks"])
    assert done.returncode == 4 * any(check["status"] == "fail" for check in document["checks"])


def test_a_failed_check_is_exit_code_4_and_says_what_to_do(tmp_path: Path) -> None:
    done = harness("doctor", "-q", "--results-dir", "/proc/nowhere", folder=tmp_path)
    assert done.returncode == 4
    assert "fail  results folder: cannot be written" in done.stdout
    assert "fix: choose another one: results_dir=DIR" in done.stdout
    assert "ok " not in done.stdout


def test_doctor_takes_no_words(tmp_path: Path) -> None:
    done = harness("doctor", "suite=h100", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "takes no words" in done.stderr


def test_a_run_keeps_the_findings_that_it_began_with(tmp_path: Path) -> None:
    doctor.attach(tmp_path, quiet(load_1min=1e3), "cpu")
    before = (tmp_path / "doctor.json").read_bytes()
    doctor.attach(tmp_path, quiet(), "cpu")
    assert (tmp_path / "doctor.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["doctor.json"]


def test_the_findings_name_no_folder_user_or_host(tmp_path: Path) -> None:
    doctor.attach(tmp_path, environment.collect(), "cuda")
    text = (tmp_path / "doctor.json").read_text()
    assert not [name for name in (str(tmp_path), str(Path.home()), f'"{socket.gethostname()}"') if name in text]


def test_every_run_has_its_findings_and_tells_what_is_not_in_order(tmp_path: Path) -> None:
    done = harness("run", *TINY, "--json", folder=tmp_path)
    (path,) = tmp_path.glob("results/smoke/*/doctor.json")
    checks = json.loads(path.read_text())["checks"]
    told = [warning for warning in json.loads(done.stdout)["warnings"] if "(doctor: " in warning]
    assert len(told) == sum(check["status"] != "ok" for check in checks)


FOUND = {"doctor_schema": 1, "checks": [
    {"name": "load", "status": "warn", "found": "9 on 2 CPUs", "fix": "wait"},
    {"name": "python", "status": "ok", "found": "3.11.2", "fix": ""},
]}  # fmt: skip


def test_warnings_and_failures_stand_on_the_page_and_what_is_in_order_does_not(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path)
    (run_dir / "doctor.json").write_text(json.dumps(FOUND))
    page = build_page(analyse([load_run(run_dir)]))
    assert "load: 9 on 2 CPUs (doctor: warn)" in page
    assert "3.11.2" not in page


@pytest.mark.parametrize("text", ["{", "[]", '{"checks": 3}', '{"checks": [{"name": 1}]}'])
def test_damaged_findings_are_a_warning_and_no_end(text: str, tmp_path: Path) -> None:
    run_dir = write_run(tmp_path)
    (run_dir / "doctor.json").write_text(text)
    assert any("doctor.json cannot be read" in warning for warning in analyse([load_run(run_dir)]).warnings)


def test_a_merged_run_has_the_findings_of_every_machine(tmp_path: Path) -> None:
    parts = [write_run(tmp_path / name) for name in ("a", "b")]
    for number, part in enumerate(parts):
        found = f"{number} of 8 CPUs"
        check = {"name": "affinity", "status": "warn", "found": found, "fix": "no taskset"}
        (part / "doctor.json").write_text(json.dumps({"doctor_schema": 1, "checks": [check]}))
    merge(parts, tmp_path / "whole")
    told = " ".join(load_run(tmp_path / "whole").machine_warnings)
    assert "0 of 8" in told
    assert "1 of 8" in told
