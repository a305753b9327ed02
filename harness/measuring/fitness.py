"""Is this machine the one that the suite is for?"""

from __future__ import annotations

from collections.abc import Iterable

from harness.records.types import Environment
from harness.spec.config import DeviceConfig


def unfit(device: DeviceConfig, environment: Environment, nvml_names_of: Iterable[tuple[str, list[str]]]) -> str | None:
    """None where the suite's device is here, else what was found and what to do instead.

    nvml_names_of: (device file, its NVML names) of every device file, to name the one that fits this machine.
    """
    if device.kind == "cpu":
        return None
    gpu = environment.identity["gpu"]
    wanted = f"device {device.name} is {device.display_name}"
    if gpu is None:
        return (
            f"{wanted}; this machine has no GPU that NVML sees, only {environment.identity['cpu']}\n"
            "to see what would run and what it should cost: python -m harness plan with the same words\n"
            "to measure this machine: python -m harness run suite=cpu"
        )
    found = str(gpu["name"])
    if _matches(found, device.nvml_names):
        return None
    fitting = next((name for name, names in nvml_names_of if _matches(found, names)), None)
    advice = (
        f"add device={fitting} to measure it"
        if fitting
        else "no device file names it; docs/glossary.md says what a device is, suites/device/ shows how one looks"
    )
    return f"{wanted}; this machine has {found}\n{advice}"


def _matches(found: str, names: list[str]) -> bool:
    return found.casefold() in {name.casefold() for name in names}
