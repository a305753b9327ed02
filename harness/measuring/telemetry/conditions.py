"""What samples of a GPU say about one round: its clocks, what held them back, its energy, and whether it counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import median, median_low
from typing import Any

from harness.measuring.telemetry.nvml import SUPPORTED, Capability
from harness.measuring.telemetry.sample import REASONS, NoEnergy, Sample, counted_j
from harness.records.types import Round
from harness.spec.config import LEAST_ENERGY_WINDOW_S

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
# A reading of a sample -> what gives it, the better one first. Memory is the bytes in use.
READ_FROM: dict[str, tuple[str, ...]] = {
    "sm_clock_mhz": ("sm_clock_mhz",),
    "memory_clock_mhz": ("memory_clock_mhz",),
    "throttle_bits": ("throttle_bits",),
    "energy_mj": ("energy_mj",),
    "power_w": ("power_instant_w", "power_w"),  # the second is a mean over up to a second
    "memory_bytes": ("memory_v2", "memory_v1"),
    "temperature_c": ("temperature_c",),
    "utilisation_percent": ("utilisation_percent",),
}
# A round's reading of the GPU -> of which samples it is what.
_GPU: dict[str, tuple[str, Callable[[list[float]], float]]] = {
    "temperature_c_max": ("temperature_c", max),
    "power_w": ("power_w", median),
    "power_w_max": ("power_w", max),
    "utilisation_percent": ("utilisation_percent", median),
    "memory_bytes": ("memory_bytes", max),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """The GPU during a round. What could not be seen is None, with its reason in `missing`."""

    clocks_mhz: dict[str, int] | None = None  # sm (median), sm_min, sm_max, memory
    throttle_reasons: tuple[str, ...] | None = None
    energy_j: float | None = None
    gpu: dict[str, float] | None = None  # keys of _GPU, and foreign_processes
    disturbance: str | None = None  # the physical cause for which the round should not count
    missing: dict[str, str] = field(default_factory=dict)

    def noted_in(self, round: Round) -> Round:
        """The round with what was seen."""
        return replace(
            round,
            clocks_mhz=self.clocks_mhz,
            throttle_reasons=self.throttle_reasons,
            energy_j=self.energy_j,
            gpu=self.gpu,
            missing={**round.missing, **self.missing},
        )


Observe = Callable[[float, float], Conditions]  # begin and end of a round, in time.monotonic()


def unseen(why: str) -> Conditions:
    """Where nobody looks."""
    return Conditions(missing=dict.fromkeys(("clocks_mhz", "throttle_reasons", "energy_j", "gpu"), why))


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

    def read(name: str, of: str) -> list[float]:
        values = [one.readings[name] for one in inside if name in one.readings]
        if not values:
            missing[of] = _why_absent(name, capabilities)
        return values

    sm, memory = read("sm_clock_mhz", "clocks_mhz"), read("memory_clock_mhz", "clocks_mhz.memory")
    clocks = {"sm": int(median_low(sm)), "sm_min": int(min(sm)), "sm_max": int(max(sm))} if sm else None
    if clocks and memory:
        clocks["memory"] = int(median_low(memory))
    bits = [int(value) for value in read("throttle_bits", "throttle_reasons")]
    energy_j = None
    if is_mig:
        missing["energy_j"] = REASONS["mig_shared_card"]
    elif read("energy_mj", "energy_j"):
        try:
            energy_j = counted_j(inside, time_s=end_s - begin_s, least_s=LEAST_ENERGY_WINDOW_S)
        except NoEnergy as why:
            missing["energy_j"] = str(why)
    gpu, lacking = _gpu_of(inside, capabilities, is_mig)
    missing |= lacking
    return Conditions(
        clocks_mhz=clocks,
        throttle_reasons=throttle_names(bits) if bits else None,
        energy_j=energy_j,
        gpu=gpu,
        disturbance=_disturbance(inside, bits),
        missing=missing,
    )


def _gpu_of(
    inside: Sequence[Sample], capabilities: Mapping[str, Capability], is_mig: bool
) -> tuple[dict[str, float] | None, dict[str, str]]:
    """What a round says of the GPU besides its clocks, and why it lacks the rest."""
    found: dict[str, float] = {}
    missing: dict[str, str] = {}
    for key, (name, what) in _GPU.items():
        values = [one.readings[name] for one in inside if name in one.readings]
        if is_mig and name == "power_w":
            missing[f"gpu.{key}"] = "NVML has the power of the whole card alone"
        elif values:
            found[key] = what(values)
        else:
            missing[f"gpu.{key}"] = _why_absent(name, capabilities)
    pids = capabilities["compute_pids"]
    if pids.status == SUPPORTED:
        found["foreign_processes"] = max(one.num_foreign for one in inside)
    else:
        missing["gpu.foreign_processes"] = f"compute_pids is {pids.why_not}"
    return (found, missing) if found else (None, {**missing, "gpu": "none of its readings came"})


def _why_absent(name: str, capabilities: Mapping[str, Capability]) -> str:
    """Why no sample has a reading."""
    asked = READ_FROM[name]
    if any(capabilities[one].status == SUPPORTED for one in asked):
        return "NVML stopped answering"
    return f"{asked[-1]} is {capabilities[asked[-1]].why_not}"


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


def throttle_names(bits: Iterable[int]) -> tuple[str, ...]:
    seen = 0
    for value in bits:
        seen |= value
    return tuple(
        THROTTLE_REASONS.get(1 << i, f"unnamed_{1 << i:#x}") for i in range(seen.bit_length()) if seen >> i & 1
    )


def _disturbance(samples: Sequence[Sample], bits: Sequence[int]) -> str | None:
    spoiling = throttle_names(value & SPOILING_BITS for value in bits)
    if spoiling:
        return f"throttled ({', '.join(spoiling)})"
    return "beside a foreign process on the GPU" if any(one.num_foreign for one in samples) else None
