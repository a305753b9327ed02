"""Finished rounds of cells that are not done yet, so that a killed process loses none of them.

A worker appends each round to rounds-<worker>.jsonl as it ends (a write without fsync: it survives the process, not
the machine) and holds a lock on the file while it lives. Whoever comes next turns the rounds of a dead worker's
unfinished cells into records and removes the file.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from harness.records.parse import cell_from_json, round_from_json
from harness.records.store import StoreError
from harness.records.types import Cell, Round, to_json

_ENCODE = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode  # not canonical: sorting keys takes time


@dataclass(frozen=True, kw_only=True, slots=True)
class Unfinished:
    """A cell that a worker was measuring, and the rounds of it that ended."""

    cell: Cell
    launch: int
    attempt: int
    worker: str
    seed: int
    started_at: str
    rounds: tuple[Round, ...]

    @property
    def key(self) -> tuple[str, int, int]:
        """The cell's id, the launch, and the attempt."""
        return (self.cell.cell_id, self.launch, self.attempt)


def now_utc() -> str:
    """The time as records write it: ISO 8601, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class RoundJournal:
    """Appends rounds to a file of this worker's own, locked until `close`, which removes it."""

    def __init__(self, run_dir: Path, worker: str) -> None:
        self.path = run_dir / f"rounds-{worker}.jsonl"
        try:
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be written: {error.strerror or error}") from None

    def append(self, unfinished: Unfinished) -> None:
        """Write what the cell has so far gained: `unfinished.rounds` holds the new rounds alone."""
        line = {**_header(unfinished), "rounds": [to_json(r) for r in unfinished.rounds]}
        data = (_ENCODE(line) + "\n").encode()
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be written: {error.strerror or error}") from None

    def close(self) -> None:
        """Every cell has its record: the rounds are in there."""
        self.path.unlink(missing_ok=True)
        os.close(self._descriptor)


def _header(unfinished: Unfinished) -> dict[str, object]:
    return {
        "cell": to_json(unfinished.cell),
        "launch": unfinished.launch,
        "attempt": unfinished.attempt,
        "worker": unfinished.worker,
        "seed": unfinished.seed,
        "started_at": unfinished.started_at,
    }


@contextmanager
def dead_journals(run_dir: Path) -> Iterator[list[Unfinished]]:
    """What dead workers left; their journals are removed when the block ends well, and kept when it raises.

    A journal whose worker lives is locked and left alone; so is one that another process is just taking over.
    """
    taken: list[tuple[Path, int]] = []
    try:
        found: list[Unfinished] = []
        for path in sorted(run_dir.glob("rounds-*.jsonl")):
            descriptor = _take(path)
            if descriptor is not None:
                taken.append((path, descriptor))
                found += _read(path)
        yield found
        for path, _ in taken:
            path.unlink(missing_ok=True)
    finally:
        for _, descriptor in taken:
            os.close(descriptor)


def _take(path: Path) -> int | None:
    """Lock a journal whose worker is gone; None where somebody holds it."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _read(path: Path) -> list[Unfinished]:
    """The journal's cells with all their rounds; a torn last line is a round that did not end."""
    cells: dict[tuple[str, int, int], Unfinished] = {}
    for line in path.read_bytes().split(b"\n"):
        try:
            data = json.loads(line)
            rounds = tuple(round_from_json(r) for r in data.pop("rounds"))
            one = Unfinished(**{**data, "cell": cell_from_json(data["cell"]), "rounds": rounds})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
        before = cells[one.key].rounds if one.key in cells else ()
        cells[one.key] = Unfinished(**{**data, "cell": one.cell, "rounds": before + one.rounds})
    return list(cells.values())
