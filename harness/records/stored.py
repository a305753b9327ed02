"""Parts of a record that stay on the disk until somebody looks at them: a night's need not fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from harness.records.types import Round

Parts = tuple[tuple[Round, ...], dict[str, Any]]  # rounds and counters


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
