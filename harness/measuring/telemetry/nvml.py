"""NVML as far as this machine's driver has it: which GPU CUDA will use, and which readings it gives.

Through nvidia-ml-py (`import pynvml`; the PyPI project called pynvml is another one). A call that the driver lacks
raises NVMLLibraryMismatchError, which is no NVMLError, and a call that an old binding lacks AttributeError: `ask` knows
all three.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

SUPPORTED, UNSUPPORTED, ERROR = "supported", "unsupported", "error"


class NoNvml(Exception):
    """NVML cannot be used here; the message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Capability:
    """Whether a GPU gives a reading, found out by asking for it once."""

    status: str  # supported | unsupported | error
    reason: str | None = None

    @property
    def why_not(self) -> str:
        return f"{self.status}: {self.reason}"


@contextlib.contextmanager
def opened() -> Iterator[Any]:
    """pynvml, ready to be asked.

    Raises:
        NoNvml: no package, no library, no driver, no permission, or a driver of another version than its library.
    """
    try:
        import pynvml

        pynvml.nvmlInit()
    except ImportError:
        raise NoNvml("no NVML: the package nvidia-ml-py is not installed") from None
    except Exception as error:  # the binding's own errors, and whatever loading a library can raise
        raise NoNvml(f"no NVML: {error}") from None
    try:
        yield pynvml
    finally:
        with contextlib.suppress(Exception):
            pynvml.nvmlShutdown()


def ask(nvml: Any, read: Callable[[], Any]) -> tuple[Any, Capability]:
    """A reading and SUPPORTED, or None and why there is none."""
    mismatch = getattr(nvml, "NVMLLibraryMismatchError", AttributeError)
    try:
        return read(), Capability(status=SUPPORTED)
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound) as error:
        return None, Capability(status=UNSUPPORTED, reason=str(error))
    except (mismatch, AttributeError):
        return None, Capability(status=UNSUPPORTED, reason="driver and nvidia-ml-py do not both know this call")
    except nvml.NVMLError as error:
        return None, Capability(status=ERROR, reason=str(error))


def _power_instant_w(nvml: Any, gpu: Gpu) -> float:
    (value,) = nvml.nvmlDeviceGetFieldValues(gpu.card, [nvml.NVML_FI_DEV_POWER_INSTANT])
    if value.nvmlReturn:
        raise nvml.NVMLError(value.nvmlReturn)
    return float(value.value.uiVal) / 1000


def _throttle_bits(nvml: Any, gpu: Gpu) -> int:
    """The clock event reasons, which drivers before 535 call throttle reasons."""
    try:
        return int(nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu.card))
    except (nvml.NVMLError_FunctionNotFound, AttributeError):
        return int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu.card))


# What a GPU can be asked while it works. Sensors are the card's, memory and processes those of what CUDA sees of it.
READINGS: dict[str, Callable[[Any, Any], Any]] = {
    "sm_clock_mhz": lambda n, gpu: n.nvmlDeviceGetClockInfo(gpu.card, n.NVML_CLOCK_SM),
    "memory_clock_mhz": lambda n, gpu: n.nvmlDeviceGetClockInfo(gpu.card, n.NVML_CLOCK_MEM),
    "temperature_c": lambda n, gpu: n.nvmlDeviceGetTemperature(gpu.card, n.NVML_TEMPERATURE_GPU),
    "power_w": lambda n, gpu: n.nvmlDeviceGetPowerUsage(gpu.card) / 1000,
    "power_instant_w": _power_instant_w,
    "throttle_bits": _throttle_bits,
    "utilisation_percent": lambda n, gpu: n.nvmlDeviceGetUtilizationRates(gpu.card).gpu,
    "memory_v2": lambda n, gpu: n.nvmlDeviceGetMemoryInfo(gpu.device, version=n.nvmlMemory_v2),
    "memory_v1": lambda n, gpu: n.nvmlDeviceGetMemoryInfo(gpu.device),
    "energy_mj": lambda n, gpu: n.nvmlDeviceGetTotalEnergyConsumption(gpu.card),
    "compute_pids": lambda n, gpu: [one.pid for one in n.nvmlDeviceGetComputeRunningProcesses(gpu.device)],
}


@dataclass(kw_only=True, slots=True)
class Gpu:
    """One GPU that CUDA sees: a whole card, or a MIG instance on one."""

    nvml: Any
    card: Any  # NVML's handle of the physical GPU
    device: Any  # NVML's handle of what CUDA sees: the card, or the instance
    uuid: str
    _capabilities: dict[str, Capability] = field(default_factory=dict)

    @property
    def is_mig(self) -> bool:
        return self.device is not self.card

    @property
    def capabilities(self) -> dict[str, Capability]:
        """Reading -> whether this GPU gives it; each is asked for once."""
        if not self._capabilities:
            self._capabilities = {name: self.read(name)[1] for name in READINGS}
        return self._capabilities

    def read(self, name: str) -> tuple[Any, Capability]:
        """A reading now, or why there is none."""
        return ask(self.nvml, lambda: READINGS[name](self.nvml, self))

    def fact(self, function: str, *args: Any) -> Any:
        """What a function of NVML says of the card; None where it says nothing."""
        return ask(self.nvml, lambda: getattr(self.nvml, function)(self.card, *args))[0]

    def memory(self) -> tuple[int | None, int | None, str]:
        """Total and free bytes, and who said so: nvml_v2, nvml_v1, proc_meminfo or nobody.

        A GPU that shares the host's memory may have no memory of its own to report (GB10, drivers 580): then NVML calls
        the question unsupported, and the host's memory is the answer. An error is no such answer.
        """
        for name in ("memory_v2", "memory_v1"):
            found, _ = self.read(name)
            if found is not None:
                return int(found.total), int(found.free), f"nvml_{name[-2:]}"
        is_shared = all(self.capabilities[name].status == UNSUPPORTED for name in ("memory_v2", "memory_v1"))
        if is_shared and Path("/proc/meminfo").exists():
            host = psutil.virtual_memory()
            return host.total, host.available, "proc_meminfo"
        return None, None, "nobody"


def visible(nvml: Any, environ: Mapping[str, str] = os.environ) -> list[Gpu]:
    """The GPUs that CUDA shows to a process of this environment, in its order, each known by its UUID.

    Workers run with CUDA_DEVICE_ORDER=PCI_BUS_ID, which is the order of NVML. CUDA takes CUDA_VISIBLE_DEVICES up to the
    first word that names nothing. On a card in MIG mode CUDA uses one instance: the named one, else the first.
    """
    count, _ = ask(nvml, lambda: nvml.nvmlDeviceGetCount())
    cards = [one for i in range(count or 0) if (one := _card(nvml, i)) is not None]
    words = environ.get("CUDA_VISIBLE_DEVICES")
    if words is None:
        return [_first_instance(card) for card in cards]
    found: list[Gpu] = []
    for word in words.split(","):
        one = _named(word.strip(), cards)
        if one is None:
            break
        found.append(one)
    return found


def _card(nvml: Any, index: int) -> Gpu | None:
    handle, _ = ask(nvml, lambda: nvml.nvmlDeviceGetHandleByIndex(index))
    if handle is None:
        return None
    return Gpu(nvml=nvml, card=handle, device=handle, uuid=_uuid(nvml, handle))


def _instances(card: Gpu) -> list[Gpu]:
    """The MIG instances on a card; [] where MIG is off or unknown."""
    mode = card.fact("nvmlDeviceGetMigMode")
    if not mode or not mode[0]:
        return []
    nvml, found = card.nvml, []
    for index in range(card.fact("nvmlDeviceGetMaxMigDeviceCount") or 0):
        handle = card.fact("nvmlDeviceGetMigDeviceHandleByIndex", index)
        if handle is not None:
            found.append(Gpu(nvml=nvml, card=card.card, device=handle, uuid=_uuid(nvml, handle)))
    return found


def _first_instance(gpu: Gpu) -> Gpu:
    """The first instance on a card in MIG mode; else the GPU itself."""
    return gpu if gpu.is_mig else next(iter(_instances(gpu)), gpu)


def _named(word: str, cards: list[Gpu]) -> Gpu | None:
    """The GPU that a word of CUDA_VISIBLE_DEVICES names: an index, or the beginning of a UUID that only one has."""
    if word.isdecimal():
        return _first_instance(cards[int(word)]) if int(word) < len(cards) else None
    if not word.startswith(("GPU-", "MIG-")):
        return None
    instances = [one for card in cards for one in _instances(card)]
    fitting = [one for one in (*cards, *instances) if one.uuid.startswith(word)]
    return _first_instance(fitting[0]) if len(fitting) == 1 else None


def _uuid(nvml: Any, handle: Any) -> str:
    return ask(nvml, lambda: nvml.nvmlDeviceGetUUID(handle))[0] or ""
