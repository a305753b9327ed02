"""Peak resident memory of this process since a reset (Linux: VmHWM, reset through clear_refs; see proc(5))."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path


def reset_peak() -> bool:
    """Start a new peak; False where the system cannot."""
    try:
        os.pwrite(_file("clear_refs", os.O_WRONLY), b"5", 0)
    except OSError:
        return False
    return True


def peak_bytes() -> int | None:
    """Peak since the last reset; None where the system does not say."""
    try:
        _, _, kilobytes = os.pread(_file("status", os.O_RDONLY), 8192, 0).partition(b"\nVmHWM:")
    except OSError:
        return None
    return int(kilobytes.split(maxsplit=1)[0]) * 1024 if kilobytes else None


@cache  # opening it takes longer than reading it
def _file(name: str, flags: int) -> int:
    return os.open(f"/proc/self/{name}", flags | os.O_CLOEXEC)


def resident_bytes() -> int:
    """What this process has in memory now; 0 where the system does not say (Linux: /proc/self/statm, second number)."""
    try:
        pages = os.pread(_file("statm", os.O_RDONLY), 128, 0).split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def oom_kills() -> int:
    """How many processes the kernel has ended for want of memory since boot (Linux: /proc/vmstat); 0 where unknown."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
