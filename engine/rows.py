"""Which rows of a batch still run, where those that are done leave it: option compaction=on.

What a request keeps of every row (its tokens, its ends, what decides about its stop) stays as large as the batch. What
passes work on (a canvas, keys and values) has the rows that are here alone.

Legend: B batch, b rows of it that are here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows that are here, ascending, out of `batch`: on the host and on the device."""

    batch: int
    here: tuple[int, ...]
    here_b: torch.Tensor

    @classmethod
    def all(cls, batch: int, device: torch.device) -> Rows:
        return cls(batch, tuple(range(batch)), torch.arange(batch, device=device))

    def without(self, is_gone: Sequence[bool]) -> tuple[Rows, torch.Tensor]:
        """The rows that are left, and their places among those that were here."""
        places = [place for place, row in enumerate(self.here) if not is_gone[row]]
        place_b = torch.tensor(places, dtype=torch.long, device=self.here_b.device)
        return Rows(self.batch, tuple(self.here[place] for place in places), self.here_b[place_b]), place_b

    def take(self, x_B: torch.Tensor) -> torch.Tensor:
        """Of something of the whole batch, the rows that are here."""
        return x_B[self.here_b]

    def put(self, before_B: torch.Tensor, x_b: torch.Tensor) -> torch.Tensor:
        """Something of the whole batch: new in the rows that are here, as before in the others."""
        return before_B.index_copy(0, self.here_b, x_b)


def drawn_by_row(rows: Rows | None, batch: int, draw: Callable[[int], torch.Tensor]) -> torch.Tensor:
    """Random numbers of the rows that are here, (b, ...); `draw` gives those of so many rows.

    They are drawn for the whole batch, so that a row has the same whoever is still there. rows None: it is, with all of
    its `batch` rows.
    """
    return draw(batch) if rows is None else rows.take(draw(rows.batch))
