"""What samples of a GPU say about one round: its clocks, what held them back, its energy, and whether it counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from statistics import median_low
from typing import Any

from harness.measuring.telemetry.nvml import SUPPORTED, Capability
from harness.records.types import Round

# Bit -> name, as NVML's clock event reasons have them.
THROTTLE_REASONS = {
    0x1: "gpu_idle",
    0x2: "applications_clocks_setting",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}
SPOILING_BITS = 0x8 | 0x20 | 0x40 | 0x80  # heat or a power brake; a power cap (0x4) is normal at full load
MAX_CLOCK_CHANGE = 0.02
MIN_ENERGY_WINDOW_S = 10.0  # the counter moves about every 0.1 s: shorter windows are off by more than 1 %


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One look at the GPU. A reading that failed is absent."""

    at_s: float  # time.monotonic(), which is the same clock in every process
    readings: Mapping[str, int]
    num_foreign: int = 0  # compute processes that are not ours


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """The GPU during a round. What could not be seen is None, with its reason in `missing`."""

    clocks_mhz: dict[str, int] | None = None  # sm (median), sm_min, sm_max, memory
    throttle_reasons: tuple[str, ...] | None = None
    energy_j: float | None = None
    disturbance: str | None = None  # the physical cause for which the round should not count
    missing: dict[str, str] = field(default_factory=dict)

    def noted_in(self, round: Round) -> Round:
        """The round with what was seen."""
        return replace(
            round,
            clocks_mhz=self.clocks_mhz,
            throttle_reasons=self.throttle_reasons,
            energy_j=self.energy_j,
            missing={**round.missing, **self.missing},
        )


Observe = Callable[[float, float], Conditions]  # begin and end of a round, in time.monotonic()


def unseen(why: str) -> Conditions:
    """Where nobody looks."""
    return Conditions(missing=dict.fromkeys(("clocks_mhz", "throttle_reasons", "energy_j"), why))


def nobody_looks(begin_s: float, end_s: float) -> Conditions:
    return unseen("nobody watched the GPU")


def to_json(conditions: Conditions) -> dict[str, Any]:
    return asdict(conditions)


def from_json(data: dict[str, Any]) -> Conditions:
    reasons = data["throttle_reasons"]
    return Conditions(**{**data, "throttle_reasons": None if reasons is None else tuple(reasons)})


def conditions_of(
    samples: Sequence[Sample],
    capabilities: Mapping[str, Capability],
    *,
    begin_s: float,
    end_s: float,
    period_s: float,
    is_mig: bool = False,
) -> Conditions:
    """What the samples inside a round say; of a round that has none, the last one before its end, if it is recent."""
    inside = _inside(samples, begin_s, end_s, period_s)
    if not inside:
        return unseen(f"NVML gave no sample within {2 * period_s:.2g} s of the round")
    missing: dict[str, str] = {}

    def read(name: str, of: str) -> list[int]:
        values = [one.readings[name] for one in inside if name in one.readings]
        if not values:
            capability = capabilities[name]
            answers = capability.status == SUPPORTED
            missing[of] = "NVML stopped answering" if answers else f"{name} is {capability.why_not}"
        return values

    sm, memory = read("sm_clock_mhz", "clocks_mhz"), read("memory_clock_mhz", "clocks_mhz.memory")
    clocks = {"sm": median_low(sm), "sm_min": min(sm), "sm_max": max(sm)} if sm else None
    if clocks and memory:
        clocks["memory"] = median_low(memory)
    bits = read("throttle_bits", "throttle_reasons")
    read("energy_mj", "energy_j")
    energy_j = None
    if "energy_j" not in missing:
        energy_j, why_not = _energy_j(inside, end_s - begin_s, is_mig)
        missing |= {"energy_j": why_not} if why_not else {}
    return Conditions(
        clocks_mhz=clocks,
        throttle_reasons=_names(bits) if bits else None,
        energy_j=energy_j,
        disturbance=_disturbance(inside, bits),
        missing=missing,
    )


def _inside(samples: Sequence[Sample], begin_s: float, end_s: float, period_s: float) -> list[Sample]:
    found: list[Sample] = []
    for one in reversed(samples):  # the newest are asked for
        if one.at_s < begin_s:
            return found[::-1] or [one] * (end_s - one.at_s <= 2 * period_s)
        if one.at_s <= end_s:
            found.append(one)
    return found[::-1]


def clock_warnings(rounds: Sequence[Round]) -> list[str]:
    """Whether the SM clock moved so far within one launch that its rounds are not alike."""
    clocks = [one.clocks_mhz for one in rounds if one.clocks_mhz]
    if not clocks:
        return []
    low, high = min(one["sm_min"] for one in clocks), max(one["sm_max"] for one in clocks)
    return [f"the SM clock changed by more than {MAX_CLOCK_CHANGE:.0%} within a launch"] * (
        high - low > MAX_CLOCK_CHANGE * high
    )


def _names(bits: Iterable[int]) -> tuple[str, ...]:
    seen = 0
    for value in bits:
        seen |= value
    return tuple(
        THROTTLE_REASONS.get(1 << i, f"unnamed_{1 << i:#x}") for i in range(seen.bit_length()) if seen >> i & 1
    )


def _disturbance(samples: Sequence[Sample], bits: Sequence[int]) -> str | None:
    spoiling = _names(value & SPOILING_BITS for value in bits)
    if spoiling:
        return f"throttled ({', '.join(spoiling)})"
    return "beside a foreign process on the GPU" if any(one.num_foreign for one in samples) else None


def _energy_j(samples: Sequence[Sample], round_s: float, is_mig: bool) -> tuple[float | None, str]:
    """Energy of a round that is long enough for the counter, or why there is none."""
    if is_mig:
        return None, "the energy counter is the whole card's, and CUDA sees one MIG instance of it"
    readings = [(one.at_s, one.readings["energy_mj"]) for one in samples if "energy_mj" in one.readings]
    if any(later < earlier for (_, earlier), (_, later) in pairwise(readings)):
        return None, "the energy counter was reset during the round"
    span_s = readings[-1][0] - readings[0][0]
    if span_s < MIN_ENERGY_WINDOW_S:
        return None, f"the round is shorter than the {MIN_ENERGY_WINDOW_S:g} s that the energy counter needs"
    return (readings[-1][1] - readings[0][1]) / 1000 * round_s / span_s, ""
