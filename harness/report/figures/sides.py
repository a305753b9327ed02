"""The two decoders of a slice as figures over batches show them: the fastest setting's line, and autoregressive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.analysis.crossover import line_key
from harness.analysis.rows import CellRow
from harness.report import svg
from harness.report.figures.base import NotDrawn, fastest_first, measured
from harness.report.slices import Slice
from harness.report.wording import AUTOREGRESSIVE_NAME, BLOCK_DIFFUSION_NAME, setting, steps_in_short


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One decoder's measured cells by growing batch, in the style that is its own everywhere."""

    rows: Sequence[CellRow]
    is_autoregressive: bool

    @property
    def name(self) -> str:
        return AUTOREGRESSIVE_NAME if self.is_autoregressive else BLOCK_DIFFUSION_NAME

    @property
    def colour(self) -> str:
        return svg.AUTOREGRESSIVE if self.is_autoregressive else svg.DIFFUSION

    @property
    def line(self) -> Literal["-", "--"]:
        return "--" if self.is_autoregressive else "-"

    @property
    def marker(self) -> str:
        return "s" if self.is_autoregressive else "o"

    def label(self, part: Slice) -> str:
        """What the end of its line is called."""
        cell = self.rows[0].cell
        if cell.block_length is None:
            return "autoregressive"
        return f"block {part.block_label(cell.block_length)}, {steps_in_short(cell)}"

    @property
    def rows_filter(self) -> str:
        return "decoding=autoregressive" if self.is_autoregressive else f"num_steps={self.rows[0].cell.num_steps}|"

    def said(self) -> str:
        """The beginning of what a sentence says of it."""
        return self.name if self.is_autoregressive else f"{self.name} with {setting(self.rows[0].cell)}"


def sides(part: Slice, has: Callable[[CellRow], bool] = lambda row: True) -> list[Side]:
    """Block diffusion at the setting that is fastest at the smallest batch, and autoregressive decoding.

    has: which cells have what the figure shows; a side without any is left out.

    Raises:
        NotDrawn: no cell finished.
    """
    if not measured(part.rows):
        raise NotDrawn("no finished cell")
    found = []
    known = [row for row in measured(part.diffusion) if has(row)]
    best = next(iter(fastest_first(known)), None)
    if best is not None:
        line = [row for row in known if line_key(row.cell) == line_key(best.cell)]
        found.append(Side(rows=sorted(line, key=lambda row: row.cell.batch_size), is_autoregressive=False))
    twins = [row for row in measured(part.autoregressive) if has(row)]
    return [*found, Side(rows=twins, is_autoregressive=True)] if twins else found


def batches_of(lines: Sequence[Side]) -> list[int]:
    return sorted({row.cell.batch_size for side in lines for row in side.rows})


def lacking(lines: Sequence[Side], what: str) -> str:
    """A sentence of its own about the decoder that has nothing to show; "" where both have."""
    missing = {BLOCK_DIFFUSION_NAME, AUTOREGRESSIVE_NAME} - {side.name for side in lines}
    if not missing or not lines:
        return ""
    (name,) = missing
    return f" {name[0].upper()}{name[1:]} has {what}."
