"""Which parts of the network a step's time goes to, of both decoders."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from harness.analysis.parts import StepParts
from harness.analysis.rows import CellRow
from harness.report import svg
from harness.report.figures.base import Figure, NotDrawn, drawing_with_caption, measured
from harness.report.slices import Slice
from harness.report.wording import listed, percent, setting

QUESTION = "Where does a step's time go?"
_BANDS = "mean over all steps of an untimed request whose parts were timed"
_REST = "other"
# Part -> its name here and its colour, in the order of a pass; the rest last. The colours, whose neighbours differ in
# lightness, too, are those of Okabe and Ito, https://jfly.uni-koeln.de/color/, and serve both themes.
_PARTS = {
    "self_conditioning": ("self-conditioning", "#cc79a7"),
    "attention": ("attention", "#0072b2"),
    "dense_mlp": ("dense MLP", "#56b4e9"),
    "router": ("router", "#f0e442"),
    "experts": ("experts", "#d55e00"),
    "lm_head": ("head", "#e69f00"),
    "sampler": ("sampler", "#009e73"),
    _REST: ("other", "#888888"),
}
_WHITE_ON = ("attention", "experts")
_LEAST_NAMED = 0.06  # of a step: a smaller share has no room for its number
_ROW_IN = 0.46

Bars = list[tuple[CellRow, StepParts]]


def parts(part: Slice, name: str) -> Figure:
    """A bar for each decoder at the smallest and the largest batch.

    Of diffusion the setting with the most steps, of which only the first has no self-conditioning to compute.
    """
    bars = _bars(part)
    with svg.style():
        drawing, foot = drawing_with_caption(part, 0.95 + _ROW_IN * len(bars), _BANDS)
        height_in = drawing.get_size_inches()[1]
        axes = drawing.add_axes((0.27, foot + 0.3 / height_in, 0.6, 1 - foot - 0.75 / height_in))
        _draw(axes, bars)
        answer = _answer(bars)
        picture = svg.to_svg(drawing, name=name, title=QUESTION, description=answer)
    return Figure(answer=answer, next_step=_next_step(bars[0][1]), rows_filter=_rows_filter(bars), picture=picture)


def _bars(part: Slice) -> Bars:
    """Raises NotDrawn where no step was split."""
    split = {row.cell_id: row.parts for row in measured(part.rows) if row.parts is not None}
    rows = [row for row in part.rows if row.cell_id in split]
    if not rows:
        raise NotDrawn("the backend did not take the times of a step's parts (protocol.counters)")
    batches = sorted({row.cell.batch_size for row in rows})
    bars: Bars = []
    for batch_size in dict.fromkeys((batches[0], batches[-1])):
        for is_autoregressive in (False, True):
            of_kind = [r for r in rows if (r.cell.batch_size, r.is_autoregressive) == (batch_size, is_autoregressive)]
            if of_kind:
                best = max(of_kind, key=lambda row: _rank(part, row))
                step = split[best.cell_id]
                assert step is not None
                bars.append((best, step))
    return bars


def _rank(part: Slice, row: CellRow) -> tuple[bool, int, float]:
    cell = row.cell
    return not part.is_untrained(cell.block_length), cell.num_steps or 0, row.metrics["useful_tok_s"].value


def _shares(step: StepParts) -> dict[str, float]:
    """Share of each part that has a name here; what a backend calls otherwise is with the rest."""
    shares = dict.fromkeys(_PARTS, 0.0)
    for name, share in step.largest:
        shares[name if name in _PARTS else _REST] += share
    return shares


def _draw(axes: Axes, bars: Bars) -> None:
    for y, (_, step) in enumerate(bars):
        left = 0.0
        for name, share in _shares(step).items():
            label, colour = _PARTS[name]
            axes.barh(y, share, left=left, height=0.62, color=colour, linewidth=0, label=label if y == 0 else None)
            if share >= _LEAST_NAMED:
                ink = "#ffffff" if name in _WHITE_ON else "#000000"
                text = f"{100 * share:.0f}"
                axes.text(left + share / 2, y, text, color=ink, fontsize=8.5, ha="center", va="center")
            left += share
        axes.text(1.012, y, _milliseconds(step), fontsize=9, va="center")
    axes.set_yticks(range(len(bars)), [_bar_name(row) for row, _ in bars], fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
    axes.grid(visible=False, axis="y")
    axes.legend(
        frameon=False, fontsize=8, ncols=len(_PARTS), loc="lower center", bbox_to_anchor=(0.36, 1.0),
        handlelength=0.9, handletextpad=0.4, columnspacing=1.1, borderaxespad=0.3,
    )  # fmt: skip


def _bar_name(row: CellRow) -> str:
    kind = "decode pass" if row.is_autoregressive else f"denoise step, {row.cell.block_length} tokens"
    return f"batch {row.cell.batch_size}: {kind}"


def _milliseconds(step: StepParts) -> str:
    return f"{1e3 * step.step_s:.3g} ms"


def _answer(bars: Bars) -> str:
    told = []
    for row, step in bars:
        what = "a decode pass" if row.is_autoregressive else f"a denoise step with {setting(row.cell)}"
        most = [f"{_PARTS[name][0]} {percent(share)}" for name, share in _ranked(step)[:3] if share > 0]
        told.append(f"at batch {row.cell.batch_size} {what} takes {_milliseconds(step)}: {listed(most)}")
    sentence = "; ".join(told)
    return f"{sentence[0].upper()}{sentence[1:]}. {_how_far([step.ratio for _, step in bars])}"


def _ranked(step: StepParts) -> list[tuple[str, float]]:
    return sorted(_shares(step).items(), key=lambda one: -one[1])


def _how_far(ratios: list[float | None]) -> str:
    """What taking the times cost: the parts' sum against steps that nobody disturbed."""
    known = sorted(ratio for ratio in ratios if ratio is not None)
    if not known:
        return "These are steps of an untimed request; timed ones to compare with are missing."
    span = " to ".join(dict.fromkeys(f"{ratio:.2f}" for ratio in (known[0], known[-1])))
    return (
        f"These are steps of an untimed request, which taking the times of parts disturbs: they took {span} times as "
        "long as those of the timed round with the same seed."
    )


def _rows_filter(bars: Bars) -> str:
    batches = {row.cell.batch_size for row, _ in bars}
    return f"batch_size={batches.pop()}" if len(batches) == 1 else ""


def _next_step(step: StepParts) -> str:
    name, _ = next(one for one in _ranked(step) if one[0] != _REST)
    return (
        f"compare {_PARTS[name][0]} with its floor (`plan --json` has one for each operation): a part far from it is "
        "where a better kernel helps; one near it needs fewer bytes."
    )
