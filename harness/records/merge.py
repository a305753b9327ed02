"""Joins the parts of one plan, measured on several machines, into one run directory. Standard library only.

Nothing measured is rewritten: records files are copied as they are, so every line keeps its worker, its environment and
the run it came from. What is written anew is plan.json and config.yaml, without the shard.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.records.store import StoreError, json_lines, read_environments, read_json, read_records, write_atomic
from harness.records.types import FAILED_STATUSES, content_hash

WHOLE = "1/1"  # the shard of a run that measures everything


class NotComparable(Exception):
    """The parts are not of one plan; the message names the keys that differ."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Merged:
    """What a merge gave."""

    run_dir: Path
    run_id: str
    num_records: int
    num_duplicates: int  # kept apart, never averaged
    missing: int  # (cell, launch) pairs without a final record
    failed: int  # (cell, launch) pairs that ended in error or timeout
    warnings: tuple[str, ...]

    @property
    def is_incomplete(self) -> bool:
        return bool(self.missing or self.failed)


def merge(parts: Sequence[Path], run_dir: Path) -> Merged:
    """Join runs of the same plan into run_dir, which appears whole or not at all.

    Raises:
        NotComparable: the parts differ in what they were asked to measure.
        StoreError: a part cannot be read, or run_dir holds something else.
    """
    resolved = [part.resolve() for part in parts]
    twice = next((str(part) for part, place in zip(parts, resolved, strict=True) if resolved.count(place) > 1), None)
    if twice:
        raise StoreError(f"{twice}: is named twice; each part counts once")
    plans = [read_json(part / "plan.json") for part in parts]
    for part, plan in zip(parts, plans, strict=True):
        _compare(parts[0], _asked(parts[0], plans[0]), part, _asked(part, plan))
    run_id = content_hash({"merged": sorted([path.name, _digest(path)] for path in _records_of(parts))}, length=12)
    if not _is_done_already(run_dir, run_id):
        _write(parts, _whole_plan(plans, run_id), run_dir)
    return _outcome(parts, plans[0], run_id, run_dir)


def _records_of(parts: Sequence[Path]) -> list[Path]:
    return [path for part in parts for path in sorted(part.glob("records-*.jsonl"))]


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from None


def _asked(part: Path, plan: dict[str, Any]) -> dict[str, Any]:
    """What has to be equal for records to belong together; where a machine keeps its files is not part of it."""
    try:
        return {
            "plan_schema": plan["plan_schema"],
            "suite": plan["suite"],
            "cells": [entry["cell_id"] for entry in plan["cells"]],
            "skipped": [entry["cell_id"] for entry in plan["skipped"]],
            "protocol": plan["protocol"],
            "isolation": plan.get("isolation", "launch"),
            "energy": plan.get("energy", []),
            "seed": plan["seed"],
            "prompts": plan["prompts"],
            "device": plan["device"],
            "model": {key: value for key, value in plan["model"].items() if key != "path"},
            "weights_hash": plan["provenance"].get("weights_hash"),
            "source_hash": plan["provenance"].get("source_hash"),
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{part / 'plan.json'}: is no plan that can be merged ({error})") from None


def _compare(first: Path, wanted: dict[str, Any], part: Path, asked: dict[str, Any]) -> None:
    keys = [key for key in wanted if asked[key] != wanted[key]]
    if keys:
        raise NotComparable(
            f"{part} was asked something else than {first}: {', '.join(keys)} differ\n"
            "merge takes parts of one plan: the same suite, overrides, weights and version, with shard=1/n to shard=n/n"
        )


def _is_done_already(run_dir: Path, run_id: str) -> bool:
    """Whether run_dir holds this very merge.

    Raises:
        StoreError: it holds something else.
    """
    try:
        if not run_dir.exists() or (run_dir.is_dir() and not any(run_dir.iterdir())):
            return False
        if read_json(run_dir / "plan.json").get("run_id") == run_id:
            return True
    except (StoreError, OSError):
        pass
    raise StoreError(f"{run_dir}: holds something else than these parts; choose an empty or new folder with -o DIR")


def _write(parts: Sequence[Path], plan: dict[str, Any], run_dir: Path) -> None:
    """Fill a folder beside run_dir and rename it, so that no reader meets half a run."""
    place = run_dir.resolve()
    temporary = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        for path in _records_of(parts):
            shutil.copyfile(path, temporary / _free_name(temporary, path.name))
        for part in parts:
            for path in sorted([*part.glob("environment-*.json"), *part.glob("roof-*.json")]):
                shutil.copyfile(path, temporary / path.name)  # the name is the hash of what identifies it
            for path in sorted(part.glob("doctor*.json")):
                shutil.copyfile(path, temporary / _free_name(temporary, path.name))
        write_atomic(temporary / "plan.json", json_lines(plan))
        config = parts[0] / "config.yaml"
        if config.is_file():
            text = re.sub(r"(?m)^shard: .*$", f"shard: {WHOLE}", config.read_text(encoding="utf-8"))
            write_atomic(temporary / "config.yaml", text)
        read_records(temporary, rounds=False)  # a part that a newer version wrote ends the merge here
        temporary.rename(place)
    except OSError as error:
        raise StoreError(f"{run_dir}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _free_name(folder: Path, name: str) -> str:
    """The name, with a number where another part's worker had the same one."""
    free, number = name, 1
    while (folder / free).exists():
        number += 1
        free = f"{Path(name).stem}-{number}{Path(name).suffix}"
    return free


def _whole_plan(plans: list[dict[str, Any]], run_id: str) -> dict[str, Any]:
    """The first part's plan without its shard; of the provenance, what all parts have in common."""
    first = plans[0]
    common = {
        key: value
        for key, value in first["provenance"].items()
        if all(plan["provenance"].get(key) == value for plan in plans)
    }
    return {
        **first,
        "run_id": run_id,
        "shard": WHOLE,
        "merged_from": [{key: plan.get(key) for key in ("run_id", "shard", "command")} for plan in plans],
        "provenance": common,
        "cells": [{**entry, "share": 1} for entry in first["cells"]],
    }


def _outcome(parts: Sequence[Path], plan: dict[str, Any], run_id: str, run_dir: Path) -> Merged:
    read = read_records(run_dir, rounds=False)
    environments = read_environments(run_dir)
    final, duplicates = read.final, read.duplicates
    wanted = [(entry["cell_id"], launch) for entry in plan["cells"] for launch in range(plan["protocol"]["launches"])]
    done = [final[key] for key in wanted if key in final and not final[key].is_interrupted]
    warnings = list(read.warnings)
    warnings += [
        f"{record.cell.label}, launch {record.launch}, attempt {record.attempt} was recorded twice; both are kept"
        for record in duplicates
    ]
    if len(environments) > 1:
        warnings.append(f"the parts were measured in {len(environments)} environments")
    warnings += [
        f"{part}: holds rounds of cells that are not done; go on with its command, then merge again"
        for part in parts
        if any(part.glob("rounds-*.jsonl"))
    ]
    return Merged(
        run_dir=run_dir,
        run_id=run_id,
        num_records=len(read.records),
        num_duplicates=len(duplicates),
        missing=len(wanted) - len(done),
        failed=sum(record.status in FAILED_STATUSES for record in done),
        warnings=tuple(warnings),
    )
