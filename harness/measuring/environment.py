"""What this machine is, in the three layers of `Environment`. No torch: `plan` asks too, and answers in a second.

No user names, host names, paths or environment variables.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import psutil

from harness.measuring.telemetry import nvml
from harness.measuring.telemetry.sampler import num_foreign
from harness.records.types import Environment

_PACKAGES = ("torch", "triton", "nvtx", "nvidia-ml-py", "numpy", "safetensors", "tokenizers", "transformers")
_ROOT = Path(__file__).resolve().parents[2]
_T = TypeVar("_T")


def collect() -> Environment:
    """Identity, stack and circumstance of this machine now."""
    gpus, why_no_nvml = read_gpus()
    driver = gpus[0].pop("driver", None) if gpus else None
    cuda = gpus[0].pop("cuda_driver", None) if gpus else None
    circumstance = {"gpu": gpus[0].pop("circumstance")} if gpus else {}
    return Environment(
        identity={"gpu": gpus[0] if gpus else None, "num_gpus": len(gpus), **_cpu()},
        stack={
            "driver": driver,
            "cuda_driver": cuda,
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "packages": {name: _version(name) for name in _PACKAGES},
            **_project(),
        },
        circumstance={
            **circumstance,
            **({"nvml": why_no_nvml} if why_no_nvml else {}),
            "load_1min": _or_none(lambda: round(os.getloadavg()[0], 2)),
            "affinity_cpus": _or_none(lambda: len(os.sched_getaffinity(0))),
            "available_memory_bytes": psutil.virtual_memory().available,
            "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        },
    )


def read_gpus() -> tuple[list[dict[str, Any]], str | None]:
    """A dictionary for each GPU that CUDA would show, and why there is no NVML. A value that NVML refuses is None."""
    try:
        with nvml.opened() as library:
            return [_gpu(gpu) for gpu in nvml.visible(library)], None
    except nvml.NoNvml as why:
        return [], str(why)


def _gpu(gpu: nvml.Gpu) -> dict[str, Any]:
    library = gpu.nvml
    memory_bytes, free_bytes, memory_source = gpu.memory()
    pids, throttle_bits = gpu.read("compute_pids")[0], gpu.read("throttle_bits")[0]
    mig = gpu.fact("nvmlDeviceGetMigMode")
    power = gpu.fact("nvmlDeviceGetPowerManagementLimit")
    return {
        "name": gpu.fact("nvmlDeviceGetName"),
        "memory_bytes": memory_bytes,
        "num_cores": gpu.fact("nvmlDeviceGetNumGpuCores"),
        "power_limit_w": None if power is None else power / 1000,
        "mig": None if mig is None else bool(mig[0]),
        "driver": nvml.ask(library, lambda: library.nvmlSystemGetDriverVersion())[0],
        "cuda_driver": nvml.ask(library, lambda: library.nvmlSystemGetCudaDriverVersion_v2())[0],
        "circumstance": {
            "memory_source": memory_source,
            "free_memory_bytes": free_bytes,
            "foreign_processes": None if pids is None else num_foreign(pids),
            "has_application_clocks": None if throttle_bits is None else bool(throttle_bits & 0x2),
            "temperature_c": gpu.read("temperature_c")[0],
            "sm_clock_mhz": gpu.read("sm_clock_mhz")[0],
            "memory_clock_mhz": gpu.read("memory_clock_mhz")[0],
            "ecc": gpu.fact("nvmlDeviceGetEccMode"),
            "persistence": gpu.fact("nvmlDeviceGetPersistenceMode"),
            "capabilities": {
                name: one.status if one.reason is None else one.why_not for name, one in gpu.capabilities.items()
            },
        },
    }


def _cpu() -> dict[str, Any]:
    model = platform.processor()
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {
        "cpu": model or platform.machine(),
        "cpu_count": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
    }


def _project() -> dict[str, Any]:
    """Commit and dirty flag of the checkout; None where this is an installed copy."""
    commit = _git("rev-parse", "HEAD")
    changes = None if commit is None else _git("status", "--porcelain", "--untracked-files=no")
    return {"project_commit": commit, "project_dirty": None if changes is None else bool(changes)}


def _git(*args: str) -> str | None:
    if not (_ROOT / ".git").exists():
        return None
    # Without optional locks: a status that is killed with its run would leave the user's index locked.
    command = ["git", "--no-optional-locks", "-C", str(_ROOT), *args]
    for _ in range(3):  # a git that was killed says nothing of the project, and its answer is part of run_id
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.SubprocessError):
            return None
        if done.returncode >= 0:
            return done.stdout.strip() if done.returncode == 0 else None
    return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _read(path: str) -> str | None:
    return _or_none(lambda: Path(path).read_text(encoding="utf-8", errors="replace").strip())


def _or_none(ask: Callable[[], _T]) -> _T | None:
    try:
        return ask()
    except (OSError, AttributeError):
        return None
