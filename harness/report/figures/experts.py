"""Tokens in flight against the share of experts that a pass reads: when a mixture of experts stops saving bandwidth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from harness.analysis.experts import expected_share
from harness.analysis.rows import CellRow
from harness.report import svg
from harness.report.figures.base import Figure, NotDrawn, drawing_with_caption, log2_axis
from harness.report.slices import Slice
from harness.report.wording import AUTOREGRESSIVE_NAME, BLOCK_DIFFUSION_NAME, counted, percent

QUESTION = "Do all experts get loaded?"
_BANDS = (
    "dots: distinct experts a layer, mean over the passes of a counting round; bars: from the layer with the fewest to "
    "that with the most"
)
_NEARLY_ALL = 0.9
_MOST_BARS = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class _Point:
    row: CellRow
    share: float
    low: float
    high: float

    @property
    def tokens(self) -> int:
        """That a pass computes: rows that are done run along in a static batch."""
        return self.row.cell.batch_size * (self.row.cell.block_length or 1)


def experts(part: Slice, name: str) -> Figure:
    """Every cell whose experts were counted, of all steps and block lengths; those of equal tokens stand together."""
    shape = part.run.shape
    if shape is None:
        raise NotDrawn("the run's plan is of an earlier version, which does not hold the model's shape")
    points = _points(part, shape.num_experts)
    with svg.style():
        drawing, foot = drawing_with_caption(part, 3.5, _BANDS)
        axes = drawing.add_axes((0.085, foot + 0.135, 0.88, 0.83 - foot))
        tokens = sorted({point.tokens for point in points})
        _curve(axes, shape.num_experts, shape.top_k_experts, tokens)
        for is_autoregressive in (False, True):
            _draw(axes, [one for one in points if one.row.is_autoregressive == is_autoregressive])
        _scales(axes, tokens)
        answer = _answer(points, shape.num_experts, shape.top_k_experts)
        picture = svg.to_svg(drawing, name=name, title=QUESTION, description=answer)
    return Figure(answer=answer, next_step=_next_step(points), rows_filter="status=ok", picture=picture)


def _points(part: Slice, num_experts: int) -> list[_Point]:
    found = []
    for row in part.rows:
        if row.experts is not None:
            read = row.experts
            found.append(
                _Point(
                    row=row,
                    share=read.mean / num_experts,
                    low=read.fewest / num_experts,
                    high=read.most / num_experts,
                )
            )
    if not found:
        raise NotDrawn("the backend counted no experts (protocol.counters)")
    return sorted(found, key=lambda one: (one.tokens, one.share))


def _curve(axes: Axes, num_experts: int, top_k: int, tokens: Sequence[int]) -> None:
    low, high = tokens[0] / 1.25, tokens[-1] * 1.25
    places = np.geomspace(max(low, 0.8), max(high, 2), 60)
    axes.plot(
        places, [expected_share(num_experts, top_k, place) for place in places], ":", color=svg.MUTED, linewidth=1.6,
        label=f"expected: {top_k} of {num_experts} evenly at random",
    )  # fmt: skip


def _draw(axes: Axes, points: Sequence[_Point]) -> None:
    if not points:
        return
    is_autoregressive = points[0].row.is_autoregressive
    colour, marker = (svg.AUTOREGRESSIVE, "s") if is_autoregressive else (svg.DIFFUSION, "o")
    by_tokens = {point.tokens: point for point in points}  # of equal ones the last, which has the most
    shown = list(by_tokens.values())
    if len(shown) <= _MOST_BARS:
        for point in shown:
            same = [one for one in points if one.tokens == point.tokens]
            axes.vlines(
                point.tokens, min(one.low for one in same), max(one.high for one in same), color=colour, alpha=0.4,
                linewidth=5,
            )  # fmt: skip
    others = [(one.tokens, one.share) for one in points if one is not by_tokens[one.tokens]]
    svg.cloud(axes, others, colour, is_round=not is_autoregressive)
    axes.plot(
        [one.tokens for one in shown], [one.share for one in shown], marker, color=colour, markersize=6,
        label=AUTOREGRESSIVE_NAME if is_autoregressive else BLOCK_DIFFUSION_NAME,
    )  # fmt: skip


def _scales(axes: Axes, tokens: Sequence[int]) -> None:
    log2_axis(axes, tokens, "tokens in flight: batch size x block length (autoregressive: batch size)")
    axes.set_ylim(0, 1.05)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
    axes.set_ylabel("experts of a layer read in a pass")
    axes.legend(frameon=False, fontsize=9, loc="lower right")


def _answer(points: Sequence[_Point], num_experts: int, top_k: int) -> str:
    told = []
    for is_autoregressive, name in ((False, BLOCK_DIFFUSION_NAME), (True, AUTOREGRESSIVE_NAME)):
        own = [one for one in points if one.row.is_autoregressive == is_autoregressive]
        ends = own if len(own) < 2 else [own[0], own[-1]]
        each = [
            f"{percent(one.share)} with {counted(one.tokens, 'token')} in flight (expected "
            f"{percent(expected_share(num_experts, top_k, one.tokens))})"
            for one in ends
        ]
        told.append(f"a pass of {name} {'reads ' + ' and '.join(each) if each else 'was not counted'}")
    short = max((one.tokens for one in points if one.share < _NEARLY_ALL), default=0)
    enough = next((one.tokens for one in points if one.tokens > short), None)
    nearly = (
        f"{percent(_NEARLY_ALL)} of them are read from {counted(enough, 'token')} on"
        if enough is not None
        else f"{percent(_NEARLY_ALL)} of them are read at no measured number of tokens"
    )
    return f"A layer has {num_experts} experts, of which a token takes {top_k}: {'; '.join(told)}; {nearly}."


def _next_step(points: Sequence[_Point]) -> str:
    if points[0].row.cell.routing != "model":
        return "the experts were drawn, not chosen by a router: measure with trained weights and routing=model."
    if all(point.share >= _NEARLY_ALL for point in points):
        return "a pass loads nearly all of them anyway, so a larger batch costs no further expert's weights."
    return "left of the bend every further token loads more weights; right of it a larger batch is nearly free of them."
