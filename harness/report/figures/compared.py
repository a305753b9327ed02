"""The graded settings that figures of quality compare: those of one batch and one block length, and their twin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from harness.analysis.quality import Setting
from harness.analysis.rows import CellRow
from harness.analysis.summary import Summary
from harness.report import svg
from harness.report.figures.base import NotDrawn
from harness.report.slices import Slice
from harness.report.wording import counted

ADAPTIVE_MARKER = "D"  # hollow, beside the filled circle of fixed steps


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    fixed: list[Setting]  # by number of steps
    adaptive: list[Setting]  # by their cap
    twin: Setting | None

    @property
    def diffusion(self) -> list[Setting]:
        return [*self.fixed, *self.adaptive]

    @property
    def batch_size(self) -> int:
        return self.diffusion[0].cell.batch_size

    @property
    def block_length(self) -> int:
        return self.diffusion[0].cell.block_length or 0

    def where(self) -> str:
        """The beginning of a sentence about them."""
        prompts = counted(len(self.diffusion[0].prompts), "prompt")
        return f"At batch {self.batch_size} with {self.block_length}-token blocks, over {prompts}"

    @property
    def rows_filter(self) -> str:
        return f"batch_size={self.batch_size} block_length={self.block_length}|"


def compared(part: Slice) -> Compared:
    """Those of the batch with the most graded prompts, the smallest of equals, and of the trained block length if any.

    Raises:
        NotDrawn: no block-diffusion cell was graded.
    """
    graded = [one for one in part.settings if one.exact_match is not None]
    diffusion = [one for one in graded if not one.rows[0].is_autoregressive]
    if not diffusion:
        raise NotDrawn(f"no answer was graded: {_why(part.diffusion or list(part.rows))}")
    best = max(
        diffusion,
        key=lambda one: (len(one.prompts), not part.is_untrained(one.cell.block_length), -one.cell.batch_size),
    )
    shown = sorted(
        (one for one in diffusion if _place(one) == _place(best) and one.prompts == best.prompts),
        key=lambda one: one.cell.num_steps or 0,
    )
    twins = (one for one in graded if one.rows[0].is_autoregressive and one.cell.batch_size == best.cell.batch_size)
    return Compared(
        fixed=[one for one in shown if one.cell.stopping == "fixed"],
        adaptive=[one for one in shown if one.cell.stopping == "adaptive"],
        twin=next((one for one in twins if one.prompts == best.prompts), None),
    )


def exact(setting: Setting) -> Summary:
    assert setting.exact_match is not None
    return setting.exact_match


def interval_bars(axes: Axes, places: Sequence[float], summaries: Sequence[Summary]) -> None:
    axes.vlines(
        list(places), [s.low for s in summaries], [s.high for s in summaries], color=svg.DIFFUSION, linewidth=1.3
    )


def horizontal(axes: Axes, summary: Summary, *, width: float = 2.2) -> None:
    """The autoregressive twin, which has no steps."""
    axes.axhspan(summary.low, summary.high, color=svg.AUTOREGRESSIVE, alpha=0.15, linewidth=0)
    axes.axhline(summary.value, linestyle="--", color=svg.AUTOREGRESSIVE, linewidth=width)


def _place(setting: Setting) -> tuple[int, int | None]:
    return setting.cell.batch_size, setting.cell.block_length


def _why(rows: list[CellRow]) -> str:
    return next((row.reason or row.missing.get("exact_match", "") for row in rows), "no cell was planned")
