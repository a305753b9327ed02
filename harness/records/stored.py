"""Parts of a record that lie on the disk until somebody looks at them: a night's need not fit into memory."""

from __future__ import annotations

import marshal
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import lru_cache, partial
from operator import attrgetter
from typing import Any

from harness.records.types import Record, Round

Parts = tuple[tuple[Round, ...], dict[str, Any]]  # rounds and counters
_NAMES = tuple(f.name for f in fields(Round))
_values_of = attrgetter(*_NAMES)


class Shelf:
    """Where the parts of records that were read and checked lie: a file without a name, which goes with the process."""

    def __init__(self) -> None:
        """Raises OSError: the folder for temporary files cannot be written."""
        self._file = tempfile.TemporaryFile(prefix="canvasbench-")  # noqa: SIM115
        weakref.finalize(self, self._file.close)  # open for as long as somebody holds a record
        self._size = 0
        self._taken = lru_cache(maxsize=64)(self._take)  # who looks at a cell does so many times

    def put(self, parts: bytes) -> Callable[[], Parts]:
        """What gives the rounds and counters back; raises OSError as above."""
        self._file.write(parts)
        self._file.flush()
        start, self._size = self._size, self._size + len(parts)
        return partial(self._taken, start, len(parts))

    def _take(self, start: int, size: int) -> Parts:
        rounds, counters = marshal.loads(os.pread(self._file.fileno(), size, start))
        return tuple(Round(**dict(zip(_NAMES, values, strict=True))) for values in rounds), counters


def parts_of(record: Record) -> bytes:
    """The record's rounds and counters as a shelf takes them."""
    parts = [_values_of(one) for one in record.rounds], dict(record.counters)
    return marshal.dumps(parts, 2)  # later versions look for what occurs twice, which takes as long again


class StoredRounds(Sequence[Round]):
    """The rounds of a record line."""

    def __init__(self, look: Callable[[], Parts], count: int) -> None:
        self._look, self._count = look, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return self._look()[0][index]

    def __iter__(self) -> Iterator[Round]:
        return iter(self._look()[0])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._look()[0] == tuple(other)


class StoredCounters(Mapping[str, Any]):
    """The counters of a record line."""

    def __init__(self, look: Callable[[], Parts]) -> None:
        self._look = look

    def __len__(self) -> int:
        return len(self._look()[1])

    def __getitem__(self, name: str) -> Any:
        return self._look()[1][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._look()[1])


def in_memory(record: Record) -> Record:
    """The record with its parts taken from where they lie, once for many looks."""
    return replace(record, rounds=tuple(record.rounds), counters=dict(record.counters))
