"""What a run has to show before anything is compared with it: where it was measured, and that it was."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from harness.analysis.run_data import Run
from harness.records import strict
from harness.records.store import StoreError
from harness.records.types import Environment


def check_measured(runs: Iterable[Run]) -> None:
    """A record counts where it says on what it was measured, and once: a copy of a launch is no launch.

    Raises:
        StoreError: as `environments_of`, or a measurement stands in two places.
    """
    places: dict[tuple[str, ...], tuple[Path, int]] = {}
    for run in runs:
        environments_of(run)
        for record in run.final.values():
            place = run.directory, record.launch
            first = places.setdefault((record.run_id, record.worker, record.started_at, record.cell_id), place)
            if first != place:
                raise StoreError(
                    f"{run.directory}: launch {record.launch} of {record.cell_id} is a copy of launch {first[1]} in "
                    f"{first[0]}\nwhat was measured once counts once; measure it again"
                )


def environments_of(run: Run) -> list[Environment]:
    """Those that its records were measured in, of which there is at least one.

    Raises:
        StoreError: one is absent, or is not what its name, a hash, says.
    """
    used = sorted({record.environment_id for record in run.final.values()}) or sorted(run.environments)
    if not used:
        raise StoreError(f"{run.directory}: has no environment-*.json, so nobody knows what machine it is of")
    for name in used:
        path = run.directory / f"environment-{strict.quoted(name)}.json"
        if name not in run.environments:
            raise StoreError(f"{path}: is absent, so nobody knows what machine the run is of")
        if not _is_named(run.environments[name], name):
            raise StoreError(f"{path}: was altered: its machine and software are not those that its name is a hash of")
    return [run.environments[name] for name in used]


def _is_named(environment: Environment, name: str) -> bool:
    with suppress(ValueError):  # NaN has no canonical spelling
        return bool(environment.identity and environment.stack) and environment.environment_id == name
    return False
