"""Speed-up over batch and block length, one panel per number of steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure as Drawing
from matplotlib.patches import Rectangle

from harness.analysis.rows import CellRow
from harness.records.types import FAILED_STATUSES, PRUNED
from harness.report import svg
from harness.report.figures.base import Figure, NotDrawn, drawing_with_caption, thinned
from harness.report.slices import Slice
from harness.report.wording import counted, is_clear, listed, ratio, setting

QUESTION = "At which batch and block length is it worth it?"
_COLOURS = "PuOr"  # orange: autoregressive is faster, purple: block diffusion is
_PANELS_A_ROW = 3
_MOST_PANELS, _MOST_A_SIDE = 6, 12  # what can still be read; the table has every cell
_PANEL_IN, KEY_IN = 2.35, 0.5
_LARGEST_SCALE = 3.0  # colours saturate at 8x at the latest, so that one extreme cell does not bleach the others


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """The values on the panels' sides, and the panels; thinned where there are too many to read."""

    batches: list[int]
    blocks: list[int]
    steps: list[int]
    note: str

    @classmethod
    def of(cls, part: Slice, most_a_side: int = _MOST_A_SIDE) -> Grid:
        cells = [row.cell for row in part.diffusion] + [s.cell for s in part.skipped if s.cell.block_length is not None]
        batches = sorted({cell.batch_size for cell in cells})
        blocks = sorted({cell.block_length or 0 for cell in cells})
        steps = sorted({row.cell.num_steps or 0 for row in part.diffusion})
        shown = thinned(batches, most_a_side), thinned(blocks, most_a_side), thinned(steps, _MOST_PANELS)
        names = ("batch sizes", "block lengths", "step counts")
        less = [
            f"{len(few)} of {len(every)} {name}"
            for few, every, name in zip(shown, (batches, blocks, steps), names, strict=True)
            if len(few) < len(every)
        ]
        note = f" Drawn are {listed(less)}; the table has all." if less else ""
        return cls(batches=shown[0], blocks=shown[1], steps=shown[2], note=note)


def heat_map(part: Slice, name: str) -> Figure:
    """A number and a colour per cell; what has no number says why: hatched, x or !."""
    rows = part.diffusion
    known = [row for row in rows if "speedup_vs_ar" in row.metrics]
    if not rows:
        raise NotDrawn("no block-diffusion cell was planned")
    if not known:
        raise NotDrawn("no cell has a speed-up: " + first_reason(rows))
    grid = Grid.of(part)
    panel_rows = -(-len(grid.steps) // _PANELS_A_ROW)
    with svg.style():
        drawing, foot = drawing_with_caption(part, panel_rows * _PANEL_IN + KEY_IN)
        scale = scale_of(known)
        height_in = drawing.get_size_inches()[1]
        top, panel = 1 - 0.02, _PANEL_IN / height_in
        for i, num_steps in enumerate(grid.steps):
            column, line = i % _PANELS_A_ROW, i // _PANELS_A_ROW
            box = (0.075 + column * 0.315, top - (line + 1) * panel + 0.5 / height_in, 0.275, panel - 0.78 / height_in)
            axes = drawing.add_axes(box)
            draw_panel(axes, part, grid, num_steps, scale, is_first=column == 0)
            axes.set_title(steps_label(part, num_steps), fontsize=10, loc="left", pad=4)
        draw_key(drawing, foot, height_in, scale, signs(rows))
        answer = _answer(known) + grid.note
        picture = svg.to_svg(drawing, name=name, title=QUESTION, description=answer)
    return Figure(answer=answer, next_step=next_step(rows), rows_filter="decoding=block_diffusion", picture=picture)


def steps_label(part: Slice, num_steps: int) -> str:
    return f"{'' if part.stopping == 'fixed' else 'at most '}{counted(num_steps, 'step')}"


def first_reason(rows: list[CellRow]) -> str:
    return next((row.reason or row.missing.get("speedup_vs_ar", "") for row in rows), "no reason recorded")


def scale_of(known: list[CellRow]) -> float:
    """log2 of the speed-up at which the colours are strongest, the same in both directions."""
    furthest = max(abs(math.log2(row.metrics["speedup_vs_ar"].value)) for row in known)
    return min(_LARGEST_SCALE, max(1.0, math.ceil(furthest)))


def _colour(speedup: float, scale: float) -> tuple[str, str]:
    """The cell's colour and that of a number on it."""
    position = 0.5 + 0.5 * max(-1.0, min(1.0, math.log2(speedup) / scale)) * 0.92  # the map's very ends are too dark
    red, green, blue, _ = mpl.colormaps[_COLOURS](position)
    luminance = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2
    return to_hex((red, green, blue)), "#000000" if luminance > 0.18 else "#ffffff"


def draw_panel(axes: Axes, part: Slice, grid: Grid, num_steps: int, scale: float, *, is_first: bool) -> None:
    batches, blocks = grid.batches, grid.blocks
    rows = {(r.cell.batch_size, r.cell.block_length): r for r in part.diffusion if r.cell.num_steps == num_steps}
    size = max(6.0, min(9.0, 52 / len(batches)))
    for x, batch_size in enumerate(batches):
        for y, block in enumerate(blocks):
            _square(axes, x, y, rows.get((batch_size, block)), scale, size)
    axes.set_xlim(0, len(batches))
    axes.set_ylim(0, len(blocks))
    axes.set_xticks([x + 0.5 for x in range(len(batches))], [str(b) for b in batches], fontsize=8.5)
    axes.set_yticks([y + 0.5 for y in range(len(blocks))], [part.block_label(b) for b in blocks], fontsize=8.5)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("batch size", fontsize=9)
    if is_first:
        axes.set_ylabel("block length", fontsize=9)


def _square(axes: Axes, x: int, y: int, row: CellRow | None, scale: float, size: float) -> None:
    summary = row.metrics.get("speedup_vs_ar") if row is not None else None
    if summary is not None:
        fill, ink = _colour(summary.value, scale)
        axes.add_artist(Rectangle((x + 0.02, y + 0.02), 0.96, 0.96, facecolor=fill, edgecolor="none"))
        value = summary.value
        text = f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.5 else f"{value:.0f}"
        axes.text(x + 0.5, y + 0.5, text, color=ink, fontsize=size, ha="center", va="center")
        return
    text, hatch = _without_number(row)
    axes.add_artist(
        Rectangle((x + 0.02, y + 0.02), 0.96, 0.96, fill=False, edgecolor=svg.GRID, hatch=hatch, linewidth=0.8)
    )
    axes.text(x + 0.5, y + 0.5, text, fontsize=size + 1, ha="center", va="center")


def _without_number(row: CellRow | None) -> tuple[str, str | None]:
    """Text and hatching of a cell that has no speed-up."""
    if row is not None and row.status == "oom":
        return "x", None
    if row is not None and row.status == PRUNED:
        return "(x)", None
    if row is not None and row.status in FAILED_STATUSES:
        return "!", None
    if row is not None and row.status == "ok":
        return "-", None  # measured, but its twin was not
    return "", "////"


def signs(rows: Sequence[CellRow]) -> list[str]:
    """What the signs that occur in this figure mean."""
    meanings = {
        "x": "x: out of memory",
        "(x)": "(x): a smaller batch was",
        "!": "!: failed",
        "-": "-: no twin to compare with",
    }
    used = {_without_number(row)[0] for row in rows if "speedup_vs_ar" not in row.metrics}
    return [meaning for sign, meaning in meanings.items() if sign in used]


def draw_key(drawing: Drawing, foot: float, height_in: float, scale: float, signs: list[str]) -> None:
    """What colours and signs mean, in one line above the conditions. Places are inches: fonts differ by browser."""
    axes = drawing.add_axes((0.0, foot, 1.0, 0.3 / height_in))
    axes.set_xlim(0, svg.WIDTH_IN)
    axes.set_ylim(0, 0.3)
    axes.axis("off")

    def write(x: float, text: str, align: str = "left") -> None:
        axes.text(x, 0.15, text, fontsize=8.5, va="center", ha=align)

    write(1.75, "autoregressive is faster", "right")
    for i, exponent in enumerate((-scale, -scale / 2, 0.0, scale / 2, scale)):
        fill, ink = _colour(2**exponent, scale)
        left = 1.83 + 0.44 * i
        axes.add_patch(Rectangle((left, 0.03), 0.42, 0.24, facecolor=fill, edgecolor="none"))
        axes.text(left + 0.21, 0.15, f"{2**exponent:.2g}x", color=ink, fontsize=8, ha="center", va="center")
    write(4.08, "block diffusion is faster")
    axes.add_patch(Rectangle((5.8, 0.04), 0.3, 0.22, fill=False, edgecolor=svg.GRID, hatch="////"))
    write(6.18, ", ".join(["not run", *signs]))


def _answer(known: list[CellRow]) -> str:
    best = max(known, key=lambda row: row.metrics["speedup_vs_ar"].value)
    worst = min(known, key=lambda row: row.metrics["speedup_vs_ar"].value)
    answer = sides(known)
    answer = answer[0].upper() + answer[1:]
    if len(known) == 1:
        return f"{answer}: {at(best)}."
    return f"{answer}. Best for it: {at(best)}; worst: {at(worst)}."


def sides(known: Sequence[CellRow]) -> str:
    """In how many of the cells, at least one, block diffusion is faster, slower or neither."""
    summaries = [row.metrics["speedup_vs_ar"] for row in known]
    clear = [summary.value for summary in summaries if is_clear(summary)]
    faster = sum(1 for value in clear if value > 1)
    counts = ((faster, "faster"), (len(clear) - faster, "slower"), (len(known) - len(clear), "within the noise"))
    told = [f"{side} in {count}" for count, side in counts if count]
    if len(told) > 1:
        return f"of {len(known)} measured cells block diffusion is {listed(told)}"
    where = "the one measured cell" if len(known) == 1 else f"all {len(known)} measured cells"
    return f"in {where} block diffusion is {next(side for count, side in counts if count)}"


def at(row: CellRow) -> str:
    speedup = ratio(row.metrics["speedup_vs_ar"].value)
    return f"{speedup} at batch {row.cell.batch_size} with {setting(row.cell)}"


def next_step(rows: list[CellRow]) -> str:
    broken = sum(1 for row in rows if row.status in FAILED_STATUSES)
    if broken:
        return f"{counted(broken, 'cell')} failed: the table says why, and retry_failed=true measures again."
    known = [row.metrics["speedup_vs_ar"] for row in rows if "speedup_vs_ar" in row.metrics]
    if not any(is_clear(speedup) and speedup.value > 1 for speedup in known):
        return (
            "it wins in none of them: see below whether fewer steps turn it, and how far each side is from its floor."
        )
    return "take the block length that wins at your batch, then see below how many steps it may take."
