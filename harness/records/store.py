"""Run directories on disk: append-only records, everything else replaced whole. Standard library only.

A run directory is results/<suite>/<run_id>/ with records-<worker>.jsonl (each process writes its own new file),
environment-<id>.json, config.yaml, plan.json, heartbeat-<worker> and run.log.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from harness.records import processes
from harness.records.parse import is_shallow, record_from_json
from harness.records.stored import Shelf, StoredCounters, StoredRounds, parts_of
from harness.records.types import RECORD_SCHEMA, Cell, Environment, Record, canonical_json, to_json
from harness.records.upgrades import UPGRADES

_CHUNK_BYTES, _LARGE_BYTES = 1 << 20, 16 << 20  # of records that a process reads at a time, and that several read
_OTHER_FIELDS = tuple(f.name for f in fields(Record) if f.name not in ("cell", "rounds", "counters"))
# A record's other fields, its cell unless the reader knows it, how many rounds it has, and what a shelf takes.
_Line = tuple[dict[str, Any], Cell | None, int, bytes]


class StoreError(Exception):
    """A file or folder of results that cannot be read or written; the message says which and what to do."""


class NewerSchemaError(StoreError):
    """A file that a newer canvasbench wrote."""


def write_atomic(path: Path, content: str | bytes | Iterable[str]) -> None:
    """Replace a file's content whole, so that a reader or a crash never sees half of it.

    Raises:
        StoreError: the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                parts = [content] if isinstance(content, str) else content
                file.writelines(part.encode() for part in parts)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from None


def json_lines(document: dict[str, Any]) -> Iterator[str]:
    """A JSON object with a line for each key, and for each item of a list: quick to write, and grep finds a cell."""
    before = "{\n"
    for key, value in document.items():
        yield f"{before}{json.dumps(key)}: "
        if isinstance(value, list):
            for i, item in enumerate(value):
                yield (",\n" if i else "[\n") + json.dumps(item)
            yield "\n]" if value else "[]"
        else:
            yield json.dumps(value)
        before = ",\n"
    yield "\n}\n"


class RecordWriter:
    """Appends records to a file of its own, one line each, on disk before `append` returns.

    A sync costs more than a line, so records that came to be together are handed over together.
    """

    def __init__(self, run_dir: Path, worker: str) -> None:
        self.path = run_dir / f"records-{worker}.jsonl"
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be written: {error.strerror or error}") from None

    def append(self, *records: Record) -> None:
        """Raises StoreError when a line did not reach the disk, for example because that is full."""
        try:
            for record in records:
                line = (canonical_json(to_json(record)) + "\n").encode()
                while line:
                    line = line[os.write(self._descriptor, line) :]
            os.fsync(self._descriptor)
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be written: {error.strerror or error}") from None

    def close(self) -> None:
        os.close(self._descriptor)
        if not self.path.stat().st_size:
            self.path.unlink()


@dataclass(kw_only=True, slots=True)
class RunRecords:
    """All records of a run directory, and what its reader stumbled over."""

    records: list[Record] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def final(self) -> dict[tuple[str, int], Record]:
        """(cell_id, launch) -> the record of the latest attempt."""
        latest: dict[tuple[str, int], Record] = {}
        for record in sorted(self.records, key=lambda r: (r.attempt, r.started_at, r.worker)):
            latest[record.key] = record
        return latest

    @property
    def duplicates(self) -> list[Record]:
        """Records of a (cell, launch, attempt) that another record is final for; kept apart, never averaged."""
        final = self.final
        return [r for r in self.records if final[r.key] is not r and final[r.key].attempt == r.attempt]


def read_records(run_dir: Path, *, rounds: bool = True, cells: Mapping[str, Cell] | None = None) -> RunRecords:
    """Every whole record line of the directory; torn and foreign lines are skipped and named in `warnings`.

    rounds: False leaves rounds and counters out, for who only asks what is done. True puts them on a shelf, from which
        they come when somebody looks: a night's need not fit into memory.
    cells: cell_id -> what to use in place of an equal cell of a record.

    Raises:
        NewerSchemaError: a line was written by a newer version.
    """
    found, known = RunRecords(), cells or {}
    with _temporary_files():
        shelf = Shelf() if rounds else None
    for path in sorted(run_dir.glob("records-*.jsonl")):
        try:
            is_worth_it = path.stat().st_size > _LARGE_BYTES
            read = partial(_read_chunk, path, rounds, known)
            for lines in processes.of_each(read, _chunks(path), is_worth_it=is_worth_it):
                found.warnings += [line for line in lines if isinstance(line, str)]
                found.records += [_record(line, known, shelf) for line in lines if not isinstance(line, str)]
        except OSError as error:
            raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from None
    return found


def _record(line: _Line, known: Mapping[str, Cell], shelf: Shelf | None) -> Record:
    others, cell, num_rounds, parts = line
    cell = cell or known[others["cell_id"]]
    if shelf is None:
        return Record(cell=cell, rounds=(), counters={}, **others)
    with _temporary_files():
        look = shelf.put(parts)
    return Record(cell=cell, rounds=StoredRounds(look, num_rounds), counters=StoredCounters(look), **others)


def _chunks(path: Path) -> list[tuple[int, int, int]]:
    """Of about _CHUNK_BYTES each: number of the first line, where it starts, and the bytes to the end of the last."""
    chunks, first, start, end = [], 1, 0, 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            end += len(line)
            if end - start >= _CHUNK_BYTES:
                chunks.append((first, start, end - start))
                first, start = number + 1, end
    return [*chunks, (first, start, end - start)] if end > start else chunks


def _read_chunk(path: Path, rounds: bool, known: Container[str], chunk: tuple[int, int, int]) -> list[_Line | str]:
    """What each line of the chunk holds, or why it is skipped."""
    first, start, size = chunk
    with path.open("rb") as file:
        file.seek(start)
        lines = file.read(size).split(b"\n")
    return [_read_line(f"{path.name}:{n}", line, rounds, known) for n, line in enumerate(lines, first) if line.strip()]


@contextmanager
def _temporary_files() -> Iterator[None]:
    """What goes wrong with a shelf is no fault of the file that is read."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"the folder for temporary files cannot be written: {error.strerror or error}") from None


def _upgraded(line: bytes, where: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(line)
    if not isinstance(data, dict) or not isinstance(data.get("record_schema"), int):
        raise ValueError("not a record")
    while data["record_schema"] < RECORD_SCHEMA:
        data = UPGRADES[data["record_schema"]](data)
    if data["record_schema"] > RECORD_SCHEMA:
        raise NewerSchemaError(
            f"{where}: record_schema {data['record_schema']} is newer than this version's {RECORD_SCHEMA}; "
            "upgrade canvasbench to read it"
        )
    return data


def _read_line(where: str, line: bytes, rounds: bool, known: Container[str]) -> _Line | str:
    """known: ids of the cells that need not be handed on."""
    try:
        data = _upgraded(line, where)
        if not rounds:
            data |= {"rounds": [], "counters": {}}
        record = record_from_json(data)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"{where}: skipped a torn or foreign line ({error})"
    others = {name: getattr(record, name) for name in _OTHER_FIELDS}
    cell = None if record.cell_id in known else record.cell
    return others, cell, len(record.rounds), parts_of(record) if rounds else b""


def write_environment(run_dir: Path, environment: Environment) -> None:
    path = run_dir / f"environment-{environment.environment_id}.json"
    if not path.exists():
        write_atomic(path, json.dumps(to_json(environment), indent=2, sort_keys=True) + "\n")


def read_environments(run_dir: Path) -> dict[str, Environment]:
    """environment_id -> Environment, of every readable environment file."""
    environments = {}
    for path in sorted(run_dir.glob("environment-*.json")):
        data = read_json(path)
        layers = {"identity", "stack", "circumstance"}
        if set(data) != layers or not all(isinstance(data[one], dict) and is_shallow(data[one]) for one in layers):
            raise StoreError(f"{path}: is not an environment file")
        environments[path.stem.removeprefix("environment-")] = Environment(**data)
    return environments


def read_json(path: Path, keep: Callable[[dict[str, Any]], Any] | None = None) -> dict[str, Any]:
    """A JSON object from a file.

    keep: what to put in place of each object inside, as soon as it is read; so a large file need not be held whole.

    Raises:
        StoreError: absent, unreadable or not a JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"), object_hook=keep)
    except FileNotFoundError:
        raise StoreError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path}: cannot be read: {error}") from None
    if not isinstance(data, dict):
        raise StoreError(f"{path}: expected a JSON object")
    return data


def find_run(name: str, results_dir: Path) -> Path:
    """The run directory that RUN names: a directory, <suite>/<run_id>, or a suite's name (its newest run).

    Raises:
        StoreError: there is none; the message lists what there is.
    """
    for candidate in (Path(name), results_dir / name):
        if (candidate / "plan.json").is_file():
            return candidate
    runs = [p.parent for p in (results_dir / name).glob("*/plan.json")]
    if runs:
        return max(runs, key=lambda run: (run / "plan.json").stat().st_mtime_ns)
    there = sorted({f"{p.parent.parent.name}/{p.parent.name}" for p in results_dir.glob("*/*/plan.json")})
    raise StoreError(
        f"{name}: no run by that name in {results_dir}\n"
        + (f"there are: {_first(there)}" if there else "measure one first: python -m harness run suite=smoke")
    )


def _first(names: Iterable[str], count: int = 8) -> str:
    names = list(names)
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def open_run_dir(results_dir: Path, suite: str, run_id: str, *, fresh: bool) -> Path:
    """The directory of a run, made if need be: <run_id>, or after fresh starts the newest of <run_id>-2, -3, ...

    With fresh a new one is made, even when two fresh runs start at once.

    Raises:
        StoreError: the folder cannot be written.
    """
    base = results_dir / suite
    try:
        base.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            run_dir, following = (base / (f"{run_id}-{n}" if n > 1 else run_id) for n in (number, number + 1))
            if not fresh and following.exists():
                continue
            try:
                run_dir.mkdir()
            except FileExistsError:
                if fresh:
                    continue
            return run_dir
    except OSError as error:
        why = error.strerror or error
        raise StoreError(f"{base}: cannot be written: {why}\nchoose another folder with results_dir=DIR") from None
    raise AssertionError("itertools.count ended")
