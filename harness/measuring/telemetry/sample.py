"""One look at a sensor, and the energy that a counter gives over a series of looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

PERIOD_S = 0.1
# Every reason for which a window or a round has no energy. Closed: records hold no other.
REASONS = {
    "no_nvml": "NVML cannot be used",
    "no_counter": "the GPU has no energy counter",
    "mig_shared_card": "the energy counter is the whole card's, and CUDA sees one MIG instance of it",
    "no_rapl": "this machine shows no RAPL package",
    "rapl_unreadable": "RAPL is there and may not be read",
    "no_sample": "the counter stopped answering",
    "counter_reset": "the energy counter was reset",
    "counter_stands_still": "the energy counter did not move",
    "window_too_short": "it is shorter than the counter needs",
    "foreign_process": "a foreign process was on the GPU, and the counter is the whole card's",
}


class NoEnergy(Exception):
    """There is no energy; `code` is one of REASONS, and the message says more."""

    def __init__(self, code: str, why: str | None = None) -> None:
        super().__init__(REASONS[code] if why is None else why)
        self.code = code

    @property
    def as_json(self) -> dict[str, str]:
        """What a record has in place of an energy."""
        return {"reason": self.code, "why": str(self)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One look. A reading that failed is absent."""

    at_s: float  # time.monotonic(), which is the same clock in every process
    readings: Mapping[str, float]
    num_foreign: int = 0  # compute processes that are not ours


def series(samples: Sequence[Sample], name: str) -> list[tuple[float, float]]:
    """(time, reading) of the samples that have it."""
    return [(one.at_s, one.readings[name]) for one in samples if name in one.readings]


def counted_j(samples: Sequence[Sample], *, time_s: float, least_s: float) -> float:
    """Joules in time_s by the counter, which the samples read inside it.

    The first and the last sample lie up to a period from the ends, so their difference is taken for the whole time.

    Raises:
        NoEnergy: no_sample, counter_reset, window_too_short (the samples span less than least_s), counter_stands_still.
    """
    readings = series(samples, "energy_mj")
    if not readings:
        raise NoEnergy("no_sample")
    if any(later < earlier for (_, earlier), (_, later) in pairwise(readings)):
        raise NoEnergy("counter_reset")
    (first_s, first_mj), (last_s, last_mj) = readings[0], readings[-1]
    if last_s - first_s < least_s:
        raise NoEnergy("window_too_short", f"it is shorter than the {least_s:g} s that the energy counter needs")
    if last_mj == first_mj:
        raise NoEnergy("counter_stands_still")
    return (last_mj - first_mj) / 1000 * time_s / (last_s - first_s)


def integrated_j(samples: Sequence[Sample], *, time_s: float) -> float | None:
    """Joules in time_s by the sampled power, trapezoid after trapezoid; None with fewer than two samples of it."""
    power = series(samples, "power_w")
    if len(power) < 2:
        return None
    area_j = sum(
        (late_s - early_s) * (early_w + late_w) / 2 for (early_s, early_w), (late_s, late_w) in pairwise(power)
    )
    return area_j * time_s / (power[-1][0] - power[0][0])
