"""Tokens per second of each user against those of the whole device: what speed costs in throughput."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from harness.analysis.frontier import Served, clearly_beats, device_tok_s_at, frontier, is_clearly_more, served
from harness.report import svg
from harness.report.figures.base import Figure, NotDrawn, Table, drawing_with_caption, log_axis, thousands
from harness.report.slices import Slice
from harness.report.wording import (
    AUTOREGRESSIVE_NAME,
    BLOCK_DIFFUSION_NAME,
    lead,
    listed,
    setting,
    steps_in_short,
    tok_s,
)

QUESTION = "What does interactivity cost?"
TARGETS_TOK_S = (50, 100, 200, 400)
_BANDS = (
    "a user's tok/s: the device's / batch size; lines: cells that no other of their decoder beats in both; faint: the "
    "others, once where they would cover one another"
)
_MOST_LABELS = 5  # of a line
_STYLES = {
    BLOCK_DIFFUSION_NAME: ("-", "o", svg.DIFFUSION, (6, 7), "left"),
    AUTOREGRESSIVE_NAME: ("--", "s", svg.AUTOREGRESSIVE, (-6, -12), "right"),
}

Box = tuple[float, float, float, float]  # left, low, right, high
Lines = dict[str, list[Served]]  # decoder -> its frontier


def interactivity(part: Slice, name: str) -> Figure:
    """Every measured cell of the slice, whatever its block length and steps: quality is not compared here."""
    points = {BLOCK_DIFFUSION_NAME: served(part.diffusion), AUTOREGRESSIVE_NAME: served(part.autoregressive)}
    lines = {decoder: frontier(found) for decoder, found in points.items() if found}
    if not lines:
        raise NotDrawn("no finished cell")
    with svg.style():
        drawing, foot = drawing_with_caption(part, 4.1, _BANDS)
        axes = drawing.add_axes((0.085, foot + 0.125, 0.88, 0.80 - foot))
        axes.set_xscale("log")
        axes.set_yscale("log")
        for decoder, line in lines.items():
            _draw(axes, decoder, points[decoder], line)
        _scales(axes)
        _label_all(axes, part, lines)
        answer = _answer(lines)
        picture = svg.to_svg(drawing, name=name, title=QUESTION, description=answer)
    return Figure(
        answer=answer,
        next_step=_next_step(part, lines),
        rows_filter="status=ok",
        picture=picture,
        table=_table(lines),
    )


def _draw(axes: Axes, decoder: str, points: Sequence[Served], line: Sequence[Served]) -> None:
    style, marker, colour, _, _ = _STYLES[decoder]
    beaten = [(one.user_tok_s, one.device_tok_s) for one in points if one not in line]
    svg.cloud(axes, beaten, colour, is_round=decoder == BLOCK_DIFFUSION_NAME)
    xs, ys = [one.user_tok_s for one in line], [one.device_tok_s for one in line]
    axes.step(xs, ys, style, where="pre", color=colour, marker=marker, markersize=6, label=decoder)


def _scales(axes: Axes) -> None:
    low, high = axes.get_ylim()
    room = (high / low) ** 0.1  # for labels
    axes.set_ylim(low / room, high * room)
    log_axis(axes, "useful tok/s of the device")
    low, high = axes.get_xlim()
    low, high = low / 1.1, low * (high / low) ** 1.25
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5) if high / low > 6 else range(1, 10)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: thousands(value)))
    axes.set_xlabel("useful tok/s of each user")
    axes.legend(frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1.0, 0.99), ncols=2, borderaxespad=0.2)


def _label_all(axes: Axes, part: Slice, lines: Lines) -> None:
    """Names of cells on the lines: of each line's ends first, and of those between them that have room."""
    at = {id(one): _place(axes, one) for line in lines.values() for one in line}
    taken = [(x - 0.01, y - 0.02, x + 0.01, y + 0.02) for x, y in at.values()]
    for decoder, line in lines.items():
        _, _, _, (right, up), align = _STYLES[decoder]
        named = 0
        for one in [line[-1], line[0], *line[1:-1]]:
            text, (x, y) = _short(part, one), at[id(one)]
            side = "right" if x > 0.82 else align
            left, low = x - 0.007 * len(text) if side == "right" else x, y + (0.025 if up > 0 else -0.08)
            box = (left, low, left + 0.007 * len(text), low + 0.05)
            if named < _MOST_LABELS and not any(_overlap(box, other) for other in taken):
                axes.annotate(
                    text, (one.user_tok_s, one.device_tok_s), xytext=(right, up), textcoords="offset points",
                    fontsize=8, ha=side,
                )  # fmt: skip
                taken.append(box)
                named += 1


def _place(axes: Axes, one: Served) -> tuple[float, float]:
    """In shares of the axes."""
    x, y = axes.transAxes.inverted().transform(axes.transData.transform((one.user_tok_s, one.device_tok_s)))
    return float(x), float(y)


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _short(part: Slice, one: Served) -> str:
    cell = one.row.cell
    if cell.block_length is None:
        return f"batch {cell.batch_size}"
    return f"batch {cell.batch_size}, {part.block_label(cell.block_length)} x {steps_in_short(cell)}"


def _table(lines: Lines) -> Table | None:
    """Throughput at the speeds that services promise, read off the lines, never beyond their fast ends."""

    def read(line: Sequence[Served], target: int) -> str:
        found = device_tok_s_at(line, target)
        return "not measured" if found is None else tok_s(found)

    if all(device_tok_s_at(line, target) is None for line in lines.values() for target in TARGETS_TOK_S):
        return None
    return Table(
        caption="Useful tok/s of the device where each user gets at least so many, read off the lines",
        head=("decoder", *(f"{target} tok/s a user" for target in TARGETS_TOK_S)),
        rows=tuple((decoder, *(read(line, target) for target in TARGETS_TOK_S)) for decoder, line in lines.items()),
        numbers=tuple(range(1, len(TARGETS_TOK_S) + 1)),
    )


def _answer(lines: Lines) -> str:
    told = []
    for decoder, line in lines.items():
        most, fastest = line[0], line[-1]
        if most is fastest:
            both = f"a user {tok_s(most.user_tok_s)} and the device {tok_s(most.device_tok_s)} useful tok/s"
            told.append(f"{decoder} gives {both} ({_where(most)})")
        else:
            told.append(
                f"{decoder} gives a user at most {tok_s(fastest.user_tok_s)} useful tok/s ({_where(fastest)}) and the "
                f"device at most {tok_s(most.device_tok_s)} ({_where(most)})"
            )
    sentence = "; ".join(told)
    return f"{sentence[0].upper()}{sentence[1:]}. {_at_targets(lines)}"


def _where(one: Served) -> str:
    cell = one.row.cell
    return f"batch {cell.batch_size}" + ("" if cell.block_length is None else f", {setting(cell)}")


def _at_targets(lines: Lines) -> str:
    """The largest of the promised speeds at which both were measured, or what is lacking."""
    if len(lines) < 2:
        return f"Only {next(iter(lines))} was measured, so there is nothing to compare."
    both = []
    for target in TARGETS_TOK_S:
        ours, theirs = (device_tok_s_at(lines[one], target) for one in (BLOCK_DIFFUSION_NAME, AUTOREGRESSIVE_NAME))
        if ours is not None and theirs is not None:
            both.append((target, ours, theirs))
    if not both:
        return f"{_who_beats(lines)}At none of {listed(TARGETS_TOK_S)} tok/s a user were both measured."
    target, ours, theirs = both[-1]
    first, second = (lines[one] for one in (BLOCK_DIFFUSION_NAME, AUTOREGRESSIVE_NAME))
    is_clear = is_clearly_more(first, second, target) or is_clearly_more(second, first, target)
    told = lead(ours / theirs) if is_clear else "within the noise, nobody is ahead"
    return (
        f"{_who_beats(lines)}Where a user gets at least {target} tok/s, the device gives {tok_s(ours)} useful tok/s "
        f"with {BLOCK_DIFFUSION_NAME} and {tok_s(theirs)} with {AUTOREGRESSIVE_NAME}: {told}."
    )


def _who_beats(lines: Lines) -> str:
    """Whether one decoder has for each cell of the other one that is better for users and device alike."""
    for one, other in ((BLOCK_DIFFUSION_NAME, AUTOREGRESSIVE_NAME), (AUTOREGRESSIVE_NAME, BLOCK_DIFFUSION_NAME)):
        if _beats(lines, one, other):
            return f"Every measured cell of {other} is beaten in both by one of {one}. "
    return ""


def _beats(lines: Lines, one: str, other: str) -> bool:
    return all(any(clearly_beats(ours, theirs) for ours in lines[one]) for theirs in lines[other])


def _next_step(part: Slice, lines: Lines) -> str:
    if len(lines) > 1 and _beats(lines, AUTOREGRESSIVE_NAME, BLOCK_DIFFUSION_NAME):
        return f"take {AUTOREGRESSIVE_NAME}, whatever speed your users need, and read off what a device carries at it."
    if any(not one.row.is_autoregressive for line in lines.values() for one in line) and part.stopping == "fixed":
        return "choose the speed that your users need and read off the batch; then see what so few steps do to quality."
    return "choose the speed that your users need, and read off what a device carries at it."
