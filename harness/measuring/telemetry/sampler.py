"""Looks at the GPU now and then, in a thread of the supervisor: never in the process that measures.

All calls of NVML are made by that thread, because a driver in trouble can keep one for ever, and the supervisor has to
stay able to end a worker.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import getpid

import psutil

from harness.measuring.telemetry import nvml
from harness.measuring.telemetry.conditions import READ_FROM, Conditions, conditions_of, unseen
from harness.measuring.telemetry.sample import PERIOD_S, Sample

_SLOW = ("temperature_c", "utilisation_percent")  # change slowly, or are NVML's own mean over up to a second
_SLOW_EVERY = 10  # looks; so seldom processes are listed, too, which costs more than the rest together
_KEPT = 20_000  # half an hour, longer than any round
_START_LIMIT_S, _STOP_LIMIT_S = 10.0, 1.0


class Telemetry:
    """A watched GPU, or the reason why none is watched."""

    def __init__(self, why_not: str | None = None) -> None:
        self.why_not = why_not
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

    def start(self) -> None:
        """Look at the first GPU that CUDA shows, until `stop`."""
        self._thread = threading.Thread(target=self._run, daemon=True, name="telemetry")
        self._thread.start()
        if not self._ready.wait(_START_LIMIT_S):
            self.why_not = f"NVML did not answer within {_START_LIMIT_S:g} s"

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(_STOP_LIMIT_S)  # one that NVML keeps is left behind

    def _run(self) -> None:
        try:
            with nvml.opened() as library:
                gpus = nvml.visible(library)
                if not gpus:
                    self.why_not = "NVML shows no GPU that CUDA would see"
                    return
                self.capabilities, self._is_mig = gpus[0].capabilities, gpus[0].is_mig
                self._ready.set()
                self._sample(gpus[0])
        except nvml.NoNvml as why:
            self.why_not = str(why)
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


@contextmanager
def watching(device_kind: str) -> Iterator[Telemetry]:
    """Telemetry while the block runs; where there is no GPU to look at, nothing runs beside it."""
    if device_kind != "cuda":
        yield Telemetry(f"the suite's device is of kind {device_kind}, which NVML does not know")
        return
    telemetry = Telemetry()
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
