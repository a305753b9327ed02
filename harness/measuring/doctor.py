"""What this machine can measure: every check is ok, warn or fail, with the fix in words.

It judges what `environment.collect` found and adds what that does not ask. No torch in this process: its version and
its CUDA are read from its files, and whether it sees the GPU is asked of a process of its own, meanwhile. Attached to
every run as doctor.json, whose warnings and failures the page shows. No paths, user names or host names.
"""

from __future__ import annotations

import json
import locale
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

from harness.records import store
from harness.records.types import Environment

DOCTOR_SCHEMA = 1
OK, WARN, FAIL = "ok", "warn", "fail"
FILE = "doctor.json"

_OLDEST_PYTHON, _OLDEST_TORCH = (3, 11), (2, 11)
_PACKAGES = [
    "torch",
    "nvtx",
    "nvidia-ml-py",
    "hydra-core",
    "omegaconf",
    "pandas",
    "pyarrow",
    "numpy",
    "matplotlib",
    "jinja2",
    "rich",
    "scipy",
    "statsmodels",
    "safetensors",
    "tokenizers",
    "pyyaml",
    "psutil",
]
_WANTED_MEMORY_BYTES, _WANTED_DISK_BYTES, _LEAST_DISK_BYTES = 4 << 30, 1 << 30, 64 << 20
_MOST_LOAD_PER_CPU = 0.5
_RAPL = Path("/sys/class/powercap/intel-rapl:0/energy_uj")
_ASK_TORCH = "import torch; print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else '')"
_TORCH_LIMIT_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One finding; `fix` says what to do where it is not ok."""

    name: str
    status: str  # ok | warn | fail
    found: str
    fix: str = ""


def examine(here: Environment, results_dir: Path, device_kind: str | None = None) -> list[Check]:
    """All checks. device_kind: of the suite that is about to run; a suite for a CPU asks for no GPU."""
    gpu = here.identity["gpu"] if device_kind in (None, "cuda") else None
    asked = _ask_torch() if gpu is not None and _torch_cuda() else None
    checks = [
        _python(),
        _packages(),
        _memory(here),
        _results_folder(results_dir),
        _governor(here),
        _load(here),
        _affinity(here),
        _rapl(),
        _locale(),
        _git(here),
    ]
    if device_kind in (None, "cuda"):
        checks += [_gpu(here), *(_gpu_checks(here) if gpu is not None else [])]
    if asked is not None:
        checks.append(_torch_sees(asked))
    return checks


def to_json(checks: list[Check]) -> dict[str, Any]:
    return {"doctor_schema": DOCTOR_SCHEMA, "checks": [asdict(check) for check in checks]}


def attach(run_dir: Path, here: Environment, device_kind: str) -> None:
    """Leave the findings in a run's directory, once: a run that goes on keeps those that it began with."""
    path = run_dir / FILE
    if not path.exists():
        store.write_atomic(path, json.dumps(to_json(examine(here, run_dir, device_kind)), indent=1) + "\n")


def _warn_unless(is_ok: bool, name: str, found: str, fix: str) -> Check:
    return Check(name=name, status=OK if is_ok else WARN, found=found, fix="" if is_ok else fix)


def _python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] >= _OLDEST_PYTHON:
        return Check(name="python", status=OK, found=found)
    wanted = ".".join(map(str, _OLDEST_PYTHON))
    return Check(name="python", status=FAIL, found=found, fix=f"install Python {wanted} or newer, then make clean demo")


def _packages() -> Check:
    found: dict[str, str] = {}
    absent = []
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            absent.append(name)
    fix = "make .venv/.installed, or: pip install -e . -c constraints.txt"
    if absent:
        return Check(name="packages", status=FAIL, found=f"not installed: {', '.join(absent)}", fix=fix)
    torch = found["torch"]
    if tuple(map(int, re.findall(r"\d+", torch)[:2])) < _OLDEST_TORCH:
        wanted = ".".join(map(str, _OLDEST_TORCH))
        return Check(name="packages", status=FAIL, found=f"torch {torch}, older than {wanted}", fix=fix)
    return Check(name="packages", status=OK, found=f"torch {torch} and {len(found) - 1} others")


def _memory(here: Environment) -> Check:
    free = here.circumstance["available_memory_bytes"]
    found = f"{free / 2**30:.1f} GiB free"
    return _warn_unless(free >= _WANTED_MEMORY_BYTES, "memory", found, "end other programs; a model takes memory")


def _results_folder(folder: Path) -> Check:
    """The folder, or the nearest one above it that is there, can be written and has room."""
    name = "results folder"
    place = next((one for one in (folder.absolute(), *folder.absolute().parents) if one.exists()), Path("/"))
    try:
        with tempfile.TemporaryFile(dir=place):
            free = shutil.disk_usage(place).free
    except OSError as error:
        why = f"cannot be written: {error.strerror or error}"
        return Check(name=name, status=FAIL, found=why, fix="choose another one: results_dir=DIR")
    found = f"can be written, {free / 2**30:.1f} GiB free"
    if free < _WANTED_DISK_BYTES:
        status = FAIL if free < _LEAST_DISK_BYTES else WARN
        return Check(name=name, status=status, found=found, fix="make room, or choose another one: results_dir=DIR")
    return Check(name=name, status=OK, found=found)


def _governor(here: Environment) -> Check:
    governor = here.circumstance["governor"]
    if governor is None:
        return Check(name="cpu governor", status=OK, found="not readable, as in most virtual machines and containers")
    if governor == "performance":
        return Check(name="cpu governor", status=OK, found=governor)
    fix = "sudo cpupower frequency-set -g performance"
    return Check(name="cpu governor", status=WARN, found=f"{governor}: clocks follow the load", fix=fix)


def _load(here: Environment) -> Check:
    load, count = here.circumstance["load_1min"], os.cpu_count() or 1
    if load is None:
        return Check(name="load", status=OK, found="not known on this system")
    found = f"{load:g} over the last minute, on {count} CPUs"
    is_low = load <= _MOST_LOAD_PER_CPU * count
    return _warn_unless(is_low, "load", found, "end other programs, or wait; times will be noisy")


def _affinity(here: Environment) -> Check:
    own, count = here.circumstance["affinity_cpus"], os.cpu_count() or 1
    if own is None or own >= count:
        return Check(name="affinity", status=OK, found=f"all {count} CPUs")
    fix = "start it without taskset, a cpuset or a job's limit, unless that is what you want to measure"
    return Check(name="affinity", status=WARN, found=f"{own} of {count} CPUs", fix=fix)


def _rapl() -> Check:
    name = "cpu energy (RAPL)"
    if not _RAPL.exists():
        return Check(name=name, status=WARN, found="no counter", fix="none; energy of the CPU will be missing")
    try:
        _RAPL.read_text(encoding="ascii")
    except OSError:
        fix = "sudo chmod a+r /sys/class/powercap/intel-rapl*/energy_uj; else energy of the CPU will be missing"
        return Check(name=name, status=WARN, found="a counter that may not be read", fix=fix)
    return Check(name=name, status=OK, found="readable")


def _locale() -> Check:
    found = locale.getpreferredencoding(False)
    return _warn_unless(found.lower().replace("-", "") == "utf8", "locale", found, "export LC_ALL=C.UTF-8")


def _git(here: Environment) -> Check:
    commit, dirty = here.stack["project_commit"], here.stack["project_dirty"]
    if commit is None:
        return Check(
            name="project", status=OK, found="an installed copy, or git cannot read it; the source hash counts"
        )
    if not dirty:
        return Check(name="project", status=OK, found=f"commit {commit[:12]}")
    fix = "commit the changes, so that results name a source that others can get"
    return Check(name="project", status=WARN, found=f"commit {commit[:12]} with changes", fix=fix)


def _gpu(here: Environment) -> Check:
    gpu, why_not = here.identity["gpu"], here.circumstance.get("nvml")
    if gpu is not None and gpu["name"]:
        return Check(name="gpu", status=OK, found=f"{gpu['name']}, {here.identity['num_gpus']} to be seen by CUDA")
    if gpu is not None:
        return Check(name="gpu", status=FAIL, found="NVML shows one that does not answer", fix="reset it, or reboot")
    if "mismatch" in str(why_not).lower():
        return Check(name="gpu", status=FAIL, found=str(why_not), fix="reboot, so that driver and library agree again")
    fix = "install NVIDIA's driver to measure a GPU; without one: python -m harness run suite=cpu"
    return Check(name="gpu", status=WARN, found=str(why_not or "NVML shows no GPU that CUDA would see"), fix=fix)


def _gpu_checks(here: Environment) -> Iterator[Check]:
    now = here.circumstance["gpu"]
    yield _driver(here)
    without = sorted(name for name, status in now["capabilities"].items() if status != "supported")
    lost = f"not to be had: {', '.join(without)}"
    yield (
        Check(
            name="nvml readings",
            status=WARN,
            found=lost,
            fix="a newer driver may have them; records say what is missing",
        )
        if without
        else Check(name="nvml readings", status=OK, found=f"all {len(now['capabilities'])}")
    )
    found = {0: "off: the driver unloads between runs", 1: "on"}.get(now["persistence"], "not readable")
    yield _warn_unless(now["persistence"] != 0, "persistence", found, "sudo nvidia-smi -pm 1")
    found = "application clocks are set" if now["has_application_clocks"] else "no application clocks are set"
    yield Check(name="clocks", status=OK, found=f"{found}; NVML does not tell whether they are locked")
    foreign = now["foreign_processes"]
    found = {None: "not readable", 0: "none but ours"}.get(foreign, f"{foreign} that are not ours")
    yield _warn_unless(not foreign, "gpu processes", found, "end them: nvidia-smi lists them")
    free, source = now["free_memory_bytes"], now["memory_source"]
    found = f"{free / 2**30:.1f} GiB free, according to {source}" if free is not None else "not readable"
    yield _warn_unless(free is not None, "gpu memory", found, "none; whether a cell fits is found out by trying")


def _driver(here: Environment) -> Check:
    """Does the driver know the CUDA that torch was built for?"""
    driver, torch = here.stack["cuda_driver"], _torch_cuda()
    if torch is None:
        fix = "pip install torch from plain PyPI, which has the CUDA build on Linux"
        return Check(name="driver", status=FAIL, found="torch is a build without CUDA", fix=fix)
    if driver is None:
        return Check(name="driver", status=WARN, found="its CUDA version is not readable", fix="reinstall the driver")
    offered = (driver // 1000, driver % 1000 // 10)
    found = f"driver {here.stack['driver']} for CUDA {offered[0]}.{offered[1]}, torch for CUDA {torch[0]}.{torch[1]}"
    if offered >= torch:
        return Check(name="driver", status=OK, found=found)
    fix = "update the driver, or install a torch built for an older CUDA"
    return Check(name="driver", status=WARN if offered[0] == torch[0] else FAIL, found=found, fix=fix)


def _torch_cuda() -> tuple[int, int] | None:
    """The CUDA version that torch was built for, out of its version.py; None for a build without."""
    try:
        text = Path(str(distribution("torch").locate_file("torch/version.py"))).read_text(encoding="utf-8")
    except (PackageNotFoundError, OSError):
        return None
    found = re.search(r"^cuda\b[^=]*=\s*['\"](\d+)\.(\d+)", text, re.MULTILINE)
    return (int(found[1]), int(found[2])) if found else None


def _ask_torch() -> subprocess.Popen[str]:
    env = {**os.environ, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    command = [sys.executable, "-c", _ASK_TORCH]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env)


def _torch_sees(asked: subprocess.Popen[str]) -> Check:
    try:
        seen = asked.communicate(timeout=_TORCH_LIMIT_S)[0].strip()
    except subprocess.TimeoutExpired:
        asked.kill()
        asked.communicate()
        seen = ""
    if seen:
        return Check(name="torch", status=OK, found=f"sees {seen}")
    fix = 'python -c "import torch; torch.zeros(1).cuda()" says why'
    return Check(name="torch", status=FAIL, found="does not see the GPU that NVML sees", fix=fix)
