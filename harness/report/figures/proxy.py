"""Proxies of quality against the number of steps, for answers that nobody can check."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from harness.analysis.rows import CellRow
from harness.report import svg
from harness.report.figures.base import Figure, NotDrawn, drawing_with_caption, log2_axis, measured
from harness.report.figures.compared import ADAPTIVE_MARKER
from harness.report.slices import Slice
from harness.report.wording import counted, listed, percent

QUESTION = "How many steps does the quality need? (a proxy, for prompts without checkers)"
_BANDS = "proxies of quality, from the untimed counting round; means over prompt sets"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Point:
    """The cells of all prompt sets with one number of steps and one stopping rule."""

    stopping: str
    num_steps: int
    steps: float  # of a canvas, mean
    nll_nats: float | None
    agreement: float | None


def proxy(part: Slice, name: str) -> Figure:
    """Both proxies at the smallest batch and the trained block length."""
    rows = _chosen(part)
    cell = rows[0].cell
    points = _points(rows)
    twin = _mean([row for row in part.autoregressive if row.cell.batch_size == cell.batch_size], "proxy_nll_nats")
    with svg.style():
        drawing, foot = drawing_with_caption(part, 3.4, _BANDS)
        likelihood, agreement = (
            drawing.add_axes((0.095 + 0.49 * i, foot + 0.145, 0.395, 0.815 - foot)) for i in range(2)
        )
        _panel(likelihood, [(p, p.nll_nats) for p in points], twin)
        known = [nats for nats in (*(p.nll_nats for p in points), twin) if nats is not None]
        likelihood.set_ylim(0, 1.12 * max(known, default=1))  # room for whole markers
        likelihood.set_ylabel("PROXY: negative log-likelihood, nats", fontsize=9)
        _panel(agreement, [(p, p.agreement) for p in points], None)
        agreement.set_ylim(-0.04, 1.06)
        agreement.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
        agreement.set_ylabel("PROXY: tokens as with the most steps", fontsize=9)
        answer = _answer(part, rows[0], points, twin)
        picture = svg.to_svg(drawing, name=name, title=QUESTION, description=answer)
    return Figure(
        answer=answer,
        next_step="believe no proxy alone; a prompt set whose lines have answers says what is right.",
        rows_filter=f"batch_size={cell.batch_size} block_length={cell.block_length}|",
        picture=picture,
    )


def _chosen(part: Slice) -> list[CellRow]:
    """Raises NotDrawn where the proxies are not needed, mean nothing or were not counted."""
    if any("exact_match" in row.metrics for row in part.rows):
        raise NotDrawn("its answers were graded, so no proxy is needed")
    if not part.run.is_trained:
        raise NotDrawn("random weights: their likelihood says nothing of quality")
    known = [row for row in measured(part.diffusion) if row.metrics.keys() & {"proxy_nll_nats", "proxy_agreement"}]
    if not known:
        raise NotDrawn("the backend counted neither likelihoods nor outputs")
    best = max(known, key=lambda row: (not part.is_untrained(row.cell.block_length), -row.cell.batch_size))
    place = (best.cell.block_length, best.cell.batch_size)
    return [row for row in known if (row.cell.block_length, row.cell.batch_size) == place]


def _points(rows: list[CellRow]) -> list[_Point]:
    grouped: dict[tuple[str, int], list[CellRow]] = {}
    for row in rows:
        grouped.setdefault((row.cell.stopping or "", row.cell.num_steps or 0), []).append(row)
    return [
        _Point(
            stopping=stopping,
            num_steps=num_steps,
            steps=_mean(members, "steps_per_canvas") or num_steps,
            nll_nats=_mean(members, "proxy_nll_nats"),
            agreement=_mean(members, "proxy_agreement"),
        )
        for (stopping, num_steps), members in sorted(grouped.items())
    ]


def _mean(rows: list[CellRow], metric: str) -> float | None:
    values = [value for row in rows if (value := row.value(metric)) is not None]
    return fmean(values) if values else None


def _panel(axes: Axes, points: list[tuple[_Point, float | None]], twin: float | None) -> None:
    known = [(point, value) for point, value in points if value is not None]
    fixed = [(point.num_steps, value) for point, value in known if point.stopping == "fixed"]
    adaptive = [(point.steps, value) for point, value in known if point.stopping == "adaptive"]
    if fixed:
        axes.plot(*zip(*fixed, strict=True), "-o", color=svg.DIFFUSION, label="fixed steps")
    if adaptive:
        axes.plot(
            *zip(*adaptive, strict=True), ADAPTIVE_MARKER, color=svg.DIFFUSION, markersize=8, markerfacecolor="none",
            markeredgewidth=1.8, label="adaptive, at its mean steps",
        )  # fmt: skip
    if twin is not None:
        axes.axhline(twin, linestyle="--", color=svg.AUTOREGRESSIVE, label="autoregressive")
    places = [place for place, _ in [*fixed, *adaptive]]
    log2_axis(axes, [place for place, _ in fixed] or places or [1], "denoising steps per canvas")
    axes.set_xlim(min(places, default=1) / 1.25, max(places, default=1) * 1.25)
    if known:
        axes.legend(frameon=False, fontsize=8.5)


def _answer(part: Slice, row: CellRow, points: list[_Point], twin: float | None) -> str:
    where = f"At batch {row.cell.batch_size} with {row.cell.block_length}-token blocks"
    nll = [f"{p.nll_nats:.3g} nats {_with(p)}" for p in _ends(points) if p.nll_nats is not None]
    nll += [] if twin is None else [f"{twin:.3g} for autoregressive decoding"]
    same = [f"{percent(p.agreement)} {_with(p)}" for p in _ends(points) if p.agreement is not None]
    told = []
    if nll:
        told.append(
            "by one proxy of quality, the negative log-likelihood of the output under the same weights in causal mode "
            f"(lower is likelier, not always better), a token has {listed(nll)}"
        )
    if same:
        told.append(
            "by another proxy, the share of tokens that equal those of the cell with the most steps, the output agrees "
            f"in {listed(same)}"
        )
    return f"{where}, {'; '.join(told)}."


def _ends(points: list[_Point]) -> list[_Point]:
    """The fewest and the most fixed steps, and adaptive stopping at its largest cap; points come in order of steps."""
    fixed, adaptive = ([point for point in points if point.stopping == rule] for rule in ("fixed", "adaptive"))
    return [*fixed[:1], *fixed[1:][-1:], *adaptive[-1:]]


def _with(point: _Point) -> str:
    if point.stopping == "adaptive":
        return f"with adaptive stopping (at most {point.num_steps})"
    return f"with {counted(point.num_steps, 'step')}"
