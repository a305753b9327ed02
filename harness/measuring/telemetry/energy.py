"""The energy of a window of repeated requests, and of an idle machine, from the samples taken meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from harness.measuring.telemetry.conditions import SPOILING_BITS, throttle_names
from harness.measuring.telemetry.sample import NoEnergy, Sample, counted_j, integrated_j, series

IDLE_S = 5.0
MAX_DISAGREEMENT = 0.1  # of counter and integrated power, as a share of the counter's energy

ObserveEnergy = Callable[[float, float], dict[str, Any]]  # begin and end of a window, in time.monotonic()


def nobody_counts(begin_s: float, end_s: float) -> dict[str, Any]:
    return NoEnergy("no_sample", "nobody watched the energy").as_json


def energy_of(samples: Sequence[Sample], *, begin_s: float, end_s: float, least_s: float) -> dict[str, Any]:
    """What a record has of a window's energy.

    window_s; energy_j, by the counter; power_w, its mean; integrated_j, by the sampled power; ratio, integrated_j /
    energy_j; throttle_reasons. Or `reason`, a code of sample.REASONS, and `why`. `missing` says why a part is absent.

    least_s: how much of the window the samples must span.
    """
    inside = [one for one in samples if begin_s <= one.at_s <= end_s]
    window_s = end_s - begin_s
    try:
        if any(one.num_foreign for one in inside):
            raise NoEnergy("foreign_process")
        energy_j = counted_j(inside, time_s=window_s, least_s=least_s)
    except NoEnergy as why:
        return why.as_json
    found = {"window_s": window_s, "energy_j": energy_j, "power_w": energy_j / window_s}
    missing = {}
    other_j = integrated_j(inside, time_s=window_s)
    if other_j is None:
        missing["integrated_j"] = missing["ratio"] = "the power was not sampled"
    else:
        found |= {"integrated_j": other_j, "ratio": other_j / energy_j}
    bits = [int(value) for _, value in series(inside, "throttle_bits")]
    return {**found, "throttle_reasons": list(throttle_names(bits)), "missing": missing}


def idle_w_of(samples: Sequence[Sample], *, begin_s: float, end_s: float) -> float:
    """Mean power while nothing ran, by the sampled power, or by the counter where none is sampled.

    Raises:
        NoEnergy: as counted_j, or foreign_process.
    """
    inside = [one for one in samples if begin_s <= one.at_s <= end_s]
    if any(one.num_foreign for one in inside):
        raise NoEnergy("foreign_process", "a foreign process was on the GPU when it should have been idle")
    time_s = end_s - begin_s
    by_power_j = integrated_j(inside, time_s=time_s)
    return (counted_j(inside, time_s=time_s, least_s=time_s / 2) if by_power_j is None else by_power_j) / time_s


def warnings_of(energy: dict[str, Any]) -> list[str]:
    """What a reader of a window's energy must know."""
    found = []
    if abs(energy.get("ratio", 1.0) - 1) > MAX_DISAGREEMENT:
        found.append(f"energy: the counter and the integrated power disagree by more than {MAX_DISAGREEMENT:.0%}")
    spoiling = set(throttle_names([SPOILING_BITS])) & set(energy.get("throttle_reasons", ()))
    if spoiling:
        found.append(f"energy: the window was throttled ({', '.join(sorted(spoiling))})")
    if "reason" in energy:
        found.append(f"energy: none, {energy['reason']}: {energy['why']}")
    return found
