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

from harness.records.types import Environment

_PACKAGES = ("torch", "triton", "nvtx", "nvidia-ml-py", "numpy", "safetensors", "tokenizers", "transformers")
_ROOT = Path(__file__).resolve().parents[2]
_T = TypeVar("_T")


def collect() -> Environment:
    """Identity, stack and circumstance of this machine now."""
    gpus = read_gpus()
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
            "load_1min": _or_none(lambda: round(os.getloadavg()[0], 2)),
            "affinity_cpus": _or_none(lambda: len(os.sched_getaffinity(0))),
            "available_memory_bytes": psutil.virtual_memory().available,
            "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        },
    )


def read_gpus() -> list[dict[str, Any]]:
    """One dictionary per GPU that NVML sees; [] without NVML, a driver or a GPU. A value NVML refuses is None."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no package, no library, no driver, no permission: all mean that there is no GPU to name
        return []
    try:
        return [_gpu(pynvml, pynvml.nvmlDeviceGetHandleByIndex(i)) for i in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()


def _gpu(nvml: Any, handle: Any) -> dict[str, Any]:
    def ask(function: str, *args: Any) -> Any:
        # a call that the driver lacks raises NVMLLibraryMismatchError or AttributeError, which are no NVMLError
        try:
            answer = getattr(nvml, function)(*args)
        except Exception:
            return None
        return answer.decode() if isinstance(answer, bytes) else answer

    memory = ask("nvmlDeviceGetMemoryInfo", handle)
    mig = ask("nvmlDeviceGetMigMode", handle)
    power = ask("nvmlDeviceGetPowerManagementLimit", handle)
    return {
        "name": ask("nvmlDeviceGetName", handle),
        "memory_bytes": None if memory is None else memory.total,
        "num_cores": ask("nvmlDeviceGetNumGpuCores", handle),
        "power_limit_w": None if power is None else power / 1000,
        "mig": None if mig is None else bool(mig[0]),
        "driver": ask("nvmlSystemGetDriverVersion"),
        "cuda_driver": ask("nvmlSystemGetCudaDriverVersion_v2"),
        "circumstance": {
            "temperature_c": ask("nvmlDeviceGetTemperature", handle, 0),
            "sm_clock_mhz": ask("nvmlDeviceGetClockInfo", handle, 1),
            "memory_clock_mhz": ask("nvmlDeviceGetClockInfo", handle, 2),
            "ecc": ask("nvmlDeviceGetEccMode", handle),
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
    for _ in range(3):  # a git that was killed says nothing of the project, and its answer is part of run_id
        try:
            done = subprocess.run(["git", "-C", str(_ROOT), *args], capture_output=True, text=True, timeout=10)
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
