"""The speed of every round against its cell's median, in the order in which they ran, with clocks and temperature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isnan, nan
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FuncFormatter, MaxNLocator

from harness.analysis.rows import CellRow
from harness.analysis.stability import Pace, Stability, relative, stability_of
from harness.report import svg
from harness.report.figures.base import Figure, NotDrawn, drawing_with_caption
from harness.report.slices import Slice
from harness.report.wording import counted, percent

QUESTION = "Can I trust this?"
_BANDS = (
    "speed: useful tok/s, or passes/s where the content decides how many passes there are; rounds of a launch stand by "
    "their number, for cells take turns; grey: warm-up; a triangle at the edge: beyond the axis"
)
_MOST_CELLS = 12
_NOTHING_HELD_BACK = "no round ran with its clocks held back by heat or a power brake"
_MOST_OFF = 0.5  # of the median: the axis ends there at the latest


def trust(part: Slice, name: str) -> Figure:
    """One line a cell, of the cells whose rounds differ most; the sentence is of them all."""
    rows = [row for row in part.rows if row.paces]
    found = stability_of([row.paces for row in rows])
    if not rows:
        raise NotDrawn("no finished cell")
    if found is None:
        raise NotDrawn("every cell has one round, so nothing says how steady it is: set protocol.rounds")
    shown = sorted(rows, key=_spread, reverse=True)[:_MOST_CELLS]
    below = _recorded(rows)
    with svg.style():
        drawing, foot = drawing_with_caption(part, 3.3 + 1.05 * len(below), _BANDS)
        axes = _axes(drawing, foot, len(below))
        places = _Places(rows)
        _speeds(axes[0], shown, places, rows)
        for one, (label, read) in zip(axes[1:], below, strict=True):
            _machine(one, rows, places, label, read)
        for one in axes:
            _finish(one, places, is_last=one is axes[-1])
        answer = _answer(part, rows, found, has_clocks=bool(below))
        picture = svg.to_svg(drawing, name=name, title=QUESTION, description=answer)
    return Figure(answer=answer, next_step=_next_step(rows, found), rows_filter="status=ok", picture=picture)


def _spread(row: CellRow) -> float:
    speeds = [speed for launch in relative(row.paces) for speed in launch]
    return max(speeds, default=0.0) - min(speeds, default=0.0)


class _Places:
    """Where rounds stand on the horizontal axis: launch after launch, each with room for its warm-up before it."""

    def __init__(self, rows: Sequence[CellRow]) -> None:
        paces = [pace for row in rows for pace in row.paces]
        self.launches = sorted({pace.launch for pace in paces})
        self.warm_up = max(len(pace.warm_up) for pace in paces)
        self.rounds = max(len(pace.speeds) for pace in paces)

    def start(self, launch: int) -> int:
        """Of the first round of a launch."""
        return self.launches.index(launch) * (self.warm_up + self.rounds + 1) + self.warm_up

    @property
    def limits(self) -> tuple[float, float]:
        return -0.7, self.start(self.launches[-1]) + self.rounds - 0.3


def _axes(drawing: Drawing, foot: float, num_below: int) -> list[Axes]:
    """The speeds' axes, and the smaller ones under them."""
    height_in = drawing.get_size_inches()[1]
    low = foot + 0.5 / height_in
    each = 1.05 / height_in
    boxes = [(0.085, low + each * num_below, 0.88, 0.93 - low - each * num_below)]
    boxes += [(0.085, low + each * (num_below - 1 - i), 0.88, each * 0.8) for i in range(num_below)]
    return [drawing.add_axes(box) for box in boxes]


def _recorded(rows: Sequence[CellRow]) -> list[tuple[str, Callable[[Pace], tuple[float, ...]]]]:
    readings: list[tuple[str, Callable[[Pace], tuple[float, ...]]]] = [
        ("SM clock, MHz", lambda pace: pace.clocks_mhz),
        ("hottest, °C", lambda pace: pace.temperatures_c),
    ]
    return [(label, read) for label, read in readings if any(read(pace) for row in rows for pace in row.paces)]


def _speeds(axes: Axes, shown: Sequence[CellRow], places: _Places, rows: Sequence[CellRow]) -> None:
    every = [speed for row in shown for launch in relative(row.paces) for speed in launch]
    off = min(_MOST_OFF, max(0.02, 1.15 * max(abs(speed - 1) for speed in every)))
    axes.set_ylim(1 - off, 1 + off)
    axes.set_xlim(*places.limits)
    for is_autoregressive in (False, True):
        own = [row for row in shown if row.is_autoregressive == is_autoregressive]
        _decoder(axes, own, places, off, is_autoregressive=is_autoregressive)
    throttled = sorted({places.start(p.launch) + i for row in rows for p in row.paces for i in p.throttled})
    if throttled:
        foot = [1 - 0.93 * off] * len(throttled)
        axes.plot(throttled, foot, "|", color=svg.INK, markersize=9, label="clocks held back")
    axes.legend(frameon=False, fontsize=8.5, loc="lower right", bbox_to_anchor=(1.0, 0.99), ncols=3, borderaxespad=0.2)
    less = f" (the {len(shown)} of {len(rows)} cells that differ most)" if len(shown) < len(rows) else ""
    axes.set_title(f"speed of a round / its cell's median{less}", fontsize=10, loc="left", pad=5)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.4g} %"))


def _decoder(axes: Axes, rows: Sequence[CellRow], places: _Places, off: float, *, is_autoregressive: bool) -> None:
    """A line a cell, with a gap between launches; and the warm-up requests before each of them. What is further `off`
    than the axis reaches stands at its edge, pointing there.
    """
    colour, style, marker, name = svg.DIFFUSION, "-", "o", "block diffusion"
    if is_autoregressive:
        colour, style, marker, name = svg.AUTOREGRESSIVE, "--", "s", "autoregressive"
    rounds: list[tuple[float, float]] = []
    warm_up: list[tuple[float, float]] = []
    for row in rows:
        middle = median(speed for pace in row.paces for speed in pace.speeds)
        line: list[tuple[float, float]] = []
        for pace in row.paces:
            start = places.start(pace.launch)
            line += [*((start + i, speed / middle) for i, speed in enumerate(pace.speeds)), (nan, nan)]
            before = start - len(pace.warm_up)
            warm_up += [(before + i, speed / middle) for i, speed in enumerate(pace.warm_up)]
        axes.plot(*zip(*line, strict=True), style, color=colour, linewidth=1.0, alpha=0.7)
        rounds += [point for point in line if not isnan(point[1])]
    for points, alpha in ((rounds, 0.8), (warm_up, 0.4)):
        inside = [(place, speed) for place, speed in points if abs(speed - 1) < off]
        svg.cloud(axes, inside, colour, is_round=not is_autoregressive, alpha=alpha)
        for marker, way in (("v", -1), ("^", 1)):
            beyond = sorted({place for place, speed in points if way * (speed - 1) >= off})
            axes.plot(
                beyond, [1 + way * off] * len(beyond), marker, color=colour, markersize=5, alpha=alpha, clip_on=False
            )
    if rows:
        axes.plot([], [], style, color=colour, marker=marker, markersize=3, linewidth=1, label=name)


def _machine(
    axes: Axes, rows: Sequence[CellRow], places: _Places, label: str, read: Callable[[Pace], tuple[float, ...]]
) -> None:
    """What the GPU reported in the rounds of one number: the median over cells, and from the least to the most."""
    at: dict[int, list[float]] = {}
    for row in rows:
        for pace in row.paces:
            for i, value in enumerate(read(pace)):
                at.setdefault(places.start(pace.launch) + i, []).append(value)
    for launch in places.launches:
        own = [place for place in sorted(at) if 0 <= place - places.start(launch) < places.rounds]
        if own:
            low, high = ([choose(at[place]) for place in own] for choose in (min, max))
            axes.fill_between(own, low, high, color=svg.INK, alpha=0.15, linewidth=0)
            axes.plot(own, [median(at[place]) for place in own], "-", color=svg.INK, linewidth=1.4, marker=".")
    axes.set_ylabel(label, fontsize=8.5)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))


def _finish(axes: Axes, places: _Places, *, is_last: bool) -> None:
    axes.set_xlim(*places.limits)
    for launch in places.launches:
        start = places.start(launch)
        if places.warm_up:
            axes.axvspan(start - places.warm_up - 0.5, start - 0.5, color=svg.MUTED, alpha=0.15, linewidth=0)
    numbers = range(places.rounds) if places.rounds * len(places.launches) <= 24 else [0, places.rounds - 1]
    ticks = [(places.start(launch) + i, i) for launch in places.launches for i in numbers]
    if len(places.launches) > 12:
        ticks = ticks[:1]
    axes.tick_params(labelsize=8.5)
    axes.set_xticks([place for place, _ in ticks] if is_last else [], [str(i) for _, i in ticks] if is_last else [])
    axes.grid(visible=False, axis="x")
    if is_last:
        launches = "" if len(places.launches) == 1 else f", {len(places.launches)} launches one after another"
        axes.set_xlabel(f"number of the round{launches}", fontsize=9)


def _answer(part: Slice, rows: Sequence[CellRow], found: Stability, *, has_clocks: bool) -> str:
    tenths = "" if found.nine_tenths is None else f", nine of ten within {percent(found.nine_tenths)}"
    discarded = sum(pace.num_discarded for row in rows for pace in row.paces)
    held_back = sum(len(pace.throttled) for row in rows for pace in row.paces)
    sentences = [
        f"Over {counted(found.num_rounds, 'round')} of {counted(len(rows), 'cell')}, half lie within "
        f"{percent(found.noise)} of their cell's median{tenths}",
        _drift(found),
        f"{_rounds(discarded)} discarded and repeated",
    ]
    if has_clocks:
        ran = f"{counted(held_back, 'round')} ran with clocks held back by heat or a power brake"
        sentences.append(ran if held_back else _NOTHING_HELD_BACK)
    else:
        sentences.append(f"clocks and temperature were not recorded ({_why_no_clocks(part, rows)})")
    return "; ".join(sentences) + "."


def _rounds(count: int) -> str:
    return f"{counted(count, 'round') if count else 'no round'} {'were' if count > 1 else 'was'}"


def _drift(found: Stability) -> str:
    if found.drift is None:
        return "too few rounds to tell a drift"
    by = percent(abs(found.drift))
    way = f"{by} {'faster' if found.drift > 0 else 'slower'} than" if by != "0 %" else "as fast as"
    text = f"the last third of a launch's rounds is {way} the first"
    return f"they drift: {text}" if found.is_drifting else f"no drift that noise does not explain: {text}"


def _why_no_clocks(part: Slice, rows: Sequence[CellRow]) -> str:
    records = part.run.ok_records(rows[0].cell_id)
    return next((round.missing.get("clocks_mhz", "no reason recorded") for one in records for round in one.rounds), "")


def _next_step(rows: Sequence[CellRow], found: Stability) -> str:
    noisiest = max(rows, key=_spread)
    if found.is_drifting:
        return "lock the clocks or let the machine warm up longer (`doctor` says how), and measure again."
    if found.nine_tenths is None:
        return "few rounds say little about noise: protocol=publish takes more of them, in five launches."
    return f"the least steady cell is {noisiest.cell.label}: measure it again before arguing from it alone."
