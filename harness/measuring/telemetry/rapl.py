"""The energy of a CPU's packages, from the counters that Linux shows of RAPL (powercap).

A package's domain is intel-rapl:N, on AMD processors, too. Its parts (intel-rapl:N:M) are in it, the whole platform
(psys) is not a package, and what is not read here is not counted: neither memory nor disks nor the power supply. Since
CVE-2020-8694 only root may read the counters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from harness.measuring.telemetry.sample import NoEnergy

POWERCAP = Path("/sys/class/powercap")


@dataclass(kw_only=True, slots=True)
class _Package:
    """One package's counter, which starts again at 0 when it has reached its range."""

    counter: Path  # microjoules
    range_uj: int
    before_uj: int

    def moved_uj(self) -> int:
        """By how much it moved since it was last asked; once round at most, which takes minutes."""
        now_uj = int(self.counter.read_text(encoding="ascii"))
        moved_uj = (now_uj - self.before_uj) % (self.range_uj + 1)
        self.before_uj = now_uj
        return moved_uj


class Packages:
    """All packages of this machine: one counter that never starts again."""

    def __init__(self, powercap: Path = POWERCAP) -> None:
        """Raises NoEnergy: no_rapl or rapl_unreadable."""
        self._total_uj = 0
        try:
            self._packages = [_package(folder) for folder in sorted(powercap.glob("intel-rapl:*")) if _is_one(folder)]
        except (OSError, ValueError) as error:
            text = error.strerror if isinstance(error, OSError) else error
            raise NoEnergy("rapl_unreadable", f"RAPL is there and may not be read ({text}); root may") from None
        if not self._packages:
            raise NoEnergy("no_rapl", f"no RAPL package in {powercap}")

    def energy_mj(self) -> float | None:
        """Millijoules since the packages were opened; None where a counter cannot be read any more."""
        try:
            self._total_uj += sum(package.moved_uj() for package in self._packages)
        except (OSError, ValueError):
            return None
        return self._total_uj / 1000


def _is_one(folder: Path) -> bool:
    is_top = re.fullmatch(r"intel-rapl:\d+", folder.name) is not None
    return is_top and (folder / "name").read_text(encoding="ascii").startswith("package")


def _package(folder: Path) -> _Package:
    counter = folder / "energy_uj"
    range_uj = int((folder / "max_energy_range_uj").read_text(encoding="ascii"))
    return _Package(counter=counter, range_uj=range_uj, before_uj=int(counter.read_text(encoding="ascii")))
