"""Looks at the GPU now and then, in a thread of the supervisor: never in the process that measures.

All calls of NVML are made by that thread, because a driver in trouble can keep one for ever, and the supervisor has to
stay able to end a worker. Where the device is a CPU it looks at RAPL instead, and only if a suite asks for energy.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import getpid
from pathlib import Path
from typing import Any

import psutil

from harness.measuring.telemetry import nvml, rapl
from harness.measuring.telemetry.conditions import READ_FROM, Conditions, conditions_of, unseen
from harness.measuring.telemetry.energy import IDLE_S, energy_of, idle_w_of
from harness.measuring.telemetry.sample import PERIOD_S, NoEnergy, Sample

_SLOW = ("temperature_c", "utilisation_percent")  # change slowly, or are NVML's own mean over up to a second
_SLOW_EVERY = 10  # looks; so seldom processes are listed, too, which costs more than the rest together
_KEPT = 20_000  # half an hour, longer than any round
_START_LIMIT_S, _STOP_LIMIT_S = 10.0, 1.0


class Telemetry:
    """A watched GPU, or the reason why none is watched."""

    def __init__(self, why_not: str | None = None) -> None:
        self.why_not = why_not  # no conditions of a round
        self.no_energy: NoEnergy | None = None if why_not is None else NoEnergy("no_nvml", why_not)
        self.idle_w: float | None = None
        self._why_no_idle = "not measured"
        self.capabilities: Mapping[str, nvml.Capability] = {}
        self._is_mig = False
        self._samples: deque[Sample] = deque(maxlen=_KEPT)
        self._ready, self._stop = threading.Event(), threading.Event()

    def during(self, begin_s: float, end_s: float) -> Conditions:
        """What was seen between two times of time.monotonic()."""
        if self.why_not is not None:
            return unseen(self.why_not)
        return conditions_of(
            self._samples.copy(),
            self.capabilities,
            begin_s=begin_s,
            end_s=end_s,
            period_s=PERIOD_S,
            is_mig=self._is_mig,
        )

    def energy(self, begin_s: float, end_s: float, least_s: float) -> dict[str, Any]:
        """What a record has of the energy between two times of time.monotonic(); more than least_s lie between them."""
        if self.no_energy is not None:
            return self.no_energy.as_json
        found = energy_of(self._samples.copy(), begin_s=begin_s, end_s=end_s, least_s=least_s)
        if "energy_j" not in found:
            return found
        if self.idle_w is None:
            return {**found, "missing": {**found["missing"], "idle_w": self._why_no_idle}}
        return {**found, "idle_w": self.idle_w}

    def measure_idle(self) -> str:
        """Take what is drawn while nothing runs yet; in words."""
        if self.no_energy is not None:
            return f"no energy: {self.no_energy.code}: {self.no_energy}"
        begin_s = time.monotonic()
        time.sleep(IDLE_S)
        try:
            self.idle_w = idle_w_of(self._samples.copy(), begin_s=begin_s, end_s=time.monotonic())
        except NoEnergy as why:
            self._why_no_idle = str(why)
            return f"idle power not known: {why}"
        return f"idle power: {self.idle_w:.4g} W, mean of {IDLE_S:g} s before the first worker"

    def start(self) -> None:
        """Look at the first GPU that CUDA shows, until `stop`."""
        self._thread = threading.Thread(target=self._run, daemon=True, name="telemetry")
        self._thread.start()
        if not self._ready.wait(_START_LIMIT_S):
            self._give_up(f"NVML did not answer within {_START_LIMIT_S:g} s")

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(_STOP_LIMIT_S)  # one that NVML keeps is left behind

    def _give_up(self, why: str) -> None:
        self.why_not, self.no_energy = why, NoEnergy("no_nvml", why)

    def _run(self) -> None:
        try:
            with nvml.opened() as library:
                gpus = nvml.visible(library)
                if not gpus:
                    self._give_up("NVML shows no GPU that CUDA would see")
                    return
                self.capabilities, self._is_mig = gpus[0].capabilities, gpus[0].is_mig
                self.no_energy = _no_energy(gpus[0])
                self._ready.set()
                self._sample(gpus[0])
        except nvml.NoNvml as why:
            self._give_up(str(why))
        finally:
            self._ready.set()

    def _sample(self, gpu: nvml.Gpu) -> None:
        asked = {name: self._supported(names) for name, names in READ_FROM.items()}
        fast = {name: one for name, one in asked.items() if one and name not in _SLOW}
        slow = {name: one for name, one in asked.items() if one and name in _SLOW}
        count = foreign = 0
        kept: dict[str, float] = {}  # what was read slowly is said again until it is read again
        while True:
            at_s = time.monotonic()
            if count % _SLOW_EVERY == 0:
                foreign = num_foreign(gpu.read("compute_pids")[0] or ())
                kept = _read(gpu, slow)
            self._samples.append(Sample(at_s=at_s, readings=kept | _read(gpu, fast), num_foreign=foreign))
            count += 1
            if self._stop.wait(PERIOD_S):
                return

    def _supported(self, names: Iterable[str]) -> str | None:
        """The first of the readings that this GPU gives."""
        return next((name for name in names if self.capabilities[name].status == nvml.SUPPORTED), None)


def _read(gpu: nvml.Gpu, asked: Mapping[str, str]) -> dict[str, float]:
    """What the GPU answers now; of memory the bytes in use."""
    answers = {name: gpu.read(one)[0] for name, one in asked.items()}
    return {name: getattr(value, "used", value) for name, value in answers.items() if value is not None}


class CpuEnergy(Telemetry):
    """Watched packages of the CPU: they have energy, and no conditions of a round."""

    def __init__(self, why_not: str, powercap: Path) -> None:
        super().__init__(why_not)
        self._powercap = powercap

    def _run(self) -> None:
        try:
            packages = rapl.Packages(self._powercap)
            self.no_energy = None
        except NoEnergy as why:
            self.no_energy = why
            return
        finally:
            self._ready.set()
        while True:
            energy_mj = packages.energy_mj()
            if energy_mj is not None:
                self._samples.append(Sample(at_s=time.monotonic(), readings={"energy_mj": energy_mj}))
            if self._stop.wait(PERIOD_S):
                return


def _no_energy(gpu: nvml.Gpu) -> NoEnergy | None:
    """Why this GPU can give no energy, as far as that is known beforehand."""
    counter = gpu.capabilities["energy_mj"]
    if gpu.is_mig:
        return NoEnergy("mig_shared_card")
    return None if counter.status == nvml.SUPPORTED else NoEnergy("no_counter", f"energy_mj is {counter.why_not}")


@contextmanager
def watching(device_kind: str, *, wants_energy: bool = False, powercap: Path = rapl.POWERCAP) -> Iterator[Telemetry]:
    """Telemetry while the block runs; where there is nothing to look at, nothing runs beside it."""
    if device_kind == "cuda":
        telemetry = Telemetry()
    else:
        why_not = f"the suite's device is of kind {device_kind}, which NVML does not know"
        if device_kind != "cpu" or not wants_energy:
            yield Telemetry(why_not)
            return
        telemetry = CpuEnergy(why_not, powercap)
    telemetry.start()
    try:
        yield telemetry
    finally:
        telemetry.stop()


def num_foreign(pids: Iterable[int], own_pid: int | None = None) -> int:
    """How many of the processes on a GPU neither are the supervisor nor descend from it.

    In a container NVML tells the host's process ids, which mean nothing here. So while none of the processes is
    recognised as ours, one that does not exist in here is taken for our worker.
    """
    own_pid = getpid() if own_pid is None else own_pid
    pids = list(pids)
    others = [pid for pid in pids if not _descends(pid, own_pid)]
    hides_ours = len(others) == len(pids) and any(not psutil.pid_exists(pid) for pid in others)
    return len(others) - hides_ours


def _descends(pid: int, own_pid: int) -> bool:
    try:
        return pid == own_pid or any(parent.pid == own_pid for parent in psutil.Process(pid).parents())
    except psutil.Error:
        return False
