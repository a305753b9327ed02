"""Which launches and cells do not count, for a physical cause: heat, a neighbour, another clock, a memory error."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from harness.measuring.telemetry import nvml
from harness.measuring.telemetry.conditions import MAX_CLOCK_CHANGE, SPOILING_BITS, clock_warnings, throttle_names
from harness.records.types import Record, Round

_SPOILING = frozenset(throttle_names([SPOILING_BITS]))
_ECC_KINDS = (0, 1)  # NVML_MEMORY_ERROR_TYPE_CORRECTED, _UNCORRECTED
_SINCE_BOOT = 0  # NVML_VOLATILE_ECC


def reason_of(record: Record) -> str | None:
    """Why a cell's rounds do not count; None: they do. Its worker has already repeated rounds as often as it may."""
    reasons = [reason for one in record.rounds if (reason := _reason_of_round(one))]
    return next(iter([*reasons, *clock_warnings(record.rounds)]), None)


def _reason_of_round(one: Round) -> str | None:
    throttled = sorted(_SPOILING.intersection(one.throttle_reasons or ()))
    if throttled:
        return f"throttled ({', '.join(throttled)})"
    return "beside a foreign process on the GPU" if (one.gpu or {}).get("foreign_processes") else None


def clock_of(records: Sequence[Record]) -> float | None:
    """MHz of the SMs: the median over all rounds; None where nobody saw it."""
    clocks = [one.clocks_mhz["sm"] for record in records for one in record.rounds if one.clocks_mhz]
    return float(median(clocks)) if clocks else None


def off_clock(clock: float | None, others: Sequence[float]) -> str | None:
    """Why a launch does not count beside the job's others; None: it does.

    Those that were thrown away stand among the others: if the first launch had the odd clock, its followers soon are
    the majority.
    """
    if clock is None or not others:
        return None
    usual = others[0] if len(others) == 1 else median([*others, clock])
    if abs(clock - usual) <= MAX_CLOCK_CHANGE * usual:
        return None
    return f"the SM clock was {clock:.0f} MHz, beside {usual:.0f} MHz in other launches"


def ecc_errors() -> int | None:
    """Memory errors of the GPU since it came up, corrected ones included; None where there is no such counter."""
    try:
        with nvml.opened() as library:
            gpus = nvml.visible(library)
            if not gpus:
                return None
            counts = [gpus[0].fact("nvmlDeviceGetTotalEccErrors", kind, _SINCE_BOOT) for kind in _ECC_KINDS]
    except nvml.NoNvml:
        return None
    known = [int(count) for count in counts if count is not None]
    return sum(known) if known else None
