"""When a cell is warm and when it has rounds enough: its own times decide, within the protocol's caps."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from harness.spec.config import Protocol
from harness.spec.intervals import WANTED_CONFIDENCE, median_interval

# Why a cell needs no more. Whatever else is said is the key of the cap that ended it.
FIXED, STABLE, NARROW = "fixed number", "stable", "narrow"


def warm_up_ended(seconds: Sequence[float], total_s: float, protocol: Protocol) -> str | None:
    """Why a cell needs no further warm-up; None while it needs one.

    seconds: of its requests, the cold one first, by the clock that decides. total_s: of them all, wall time.
    """
    if len(seconds) < protocol.warmup_rounds:
        return None
    if protocol.max_warmup_rounds is None:
        return FIXED
    if is_stable(seconds[1:], protocol.warmup_window, protocol.warmup_tolerance):
        return STABLE
    if len(seconds) >= protocol.max_warmup_rounds:
        return "max_warmup_rounds"
    return "max_warmup_s" if total_s >= protocol.max_warmup_s else None


def rounds_ended(seconds: Sequence[float], group_s: float, protocol: Protocol) -> str | None:
    """Why a cell needs no further round; None while it needs one.

    seconds: of its rounds, by the clock that decides. group_s: of all rounds of its group, wall time.
    """
    if len(seconds) < protocol.rounds:
        return None
    if protocol.max_rounds is None:
        return FIXED
    if is_narrow(seconds, protocol.half_width):
        return NARROW
    if len(seconds) >= protocol.max_rounds:
        return "max_rounds"
    return "max_rounds_s" if group_s >= protocol.max_rounds_s else None


def is_stable(seconds: Sequence[float], window: int, tolerance: float) -> bool:
    """Whether the median of the newest window is that of the window before it, up to a share of it."""
    if len(seconds) < 2 * window:
        return False
    before, newest = median(seconds[-2 * window : -window]), median(seconds[-window:])
    return abs(newest - before) <= tolerance * before


def is_narrow(seconds: Sequence[float], half_width: float) -> bool:
    """Whether the median is known to within +- a share of it, with the confidence that reports want."""
    interval = median_interval(seconds)
    wide = (interval.high - interval.low) / 2 > half_width * median(seconds)
    return interval.confidence >= WANTED_CONFIDENCE and not wide


def warnings_of(warm_up: str | None, rounds: str | None, protocol: Protocol) -> list[str]:
    """What the record has to say when a cap came first."""
    warnings = []
    if warm_up in ("max_warmup_rounds", "max_warmup_s"):
        cap = f"protocol.{warm_up}={getattr(protocol, warm_up):g}"
        warnings.append(f"warm-up was ended by {cap} before request times were stable")
    if rounds in ("max_rounds", "max_rounds_s"):
        cap = f"protocol.{rounds}={getattr(protocol, rounds):g}"
        warnings.append(f"rounds were ended by {cap} with an interval wider than +-{protocol.half_width:.1%}")
    return warnings
