"""What the figure of predictions says of itself: its answer, its caption, and the table of every device."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from harness.analysis.assumptions import EXPONENTS, UNIFORM
from harness.analysis.efficiency import MEASURED, Efficiency
from harness.analysis.prediction import BATCHES, PROMPT_TOKENS, STATIC_REPLAY, DevicePrediction, Predictions
from harness.analysis.run_data import GIVEN_PRICE
from harness.records.texts import short
from harness.records.types import AUTOREGRESSIVE, BLOCK_DIFFUSION
from harness.report.figures.base import Table
from harness.report.wording import (
    AUTOREGRESSIVE_NAME,
    BLOCK_DIFFUSION_NAME,
    batch,
    counted,
    crossover_range,
    device_in_short,
    either,
    listed,
    percent,
    ratio,
    tok_s,
    up_to,
    whose_prices,
)

NAMES = {BLOCK_DIFFUSION: BLOCK_DIFFUSION_NAME, AUTOREGRESSIVE: AUTOREGRESSIVE_NAME}
OTHERS = f"{either([name for name in EXPONENTS if name != UNIFORM])} routing, or with {STATIC_REPLAY}"


def short_name(one: DevicePrediction) -> str:
    return device_in_short(one.device.display_name)


def caption(found: Predictions) -> str:
    parts = [
        f"PREDICTED: {found.model}, {found.num_steps} steps, {PROMPT_TOKENS} -> {found.block_length} tokens, prefill "
        "in the clock, uniform routing, weights in the fastest format that the device computes in and holds",
        "thin lines: floors by the device files' roofs",
    ]
    if found.efficiencies:
        parts.append("thick lines, bands: at the median and over the range of the shares of the floor that were seen")
    at = "at the floors" if found.advantage is None else "at these shares"
    parts += [
        f"dotted: where the lead changes {at}, bar at the foot: its range, with {OTHERS}, too",
        "hollow: obtained otherwise, see the table",
        "a stroke ends curves whose next batch does not fit into memory; the others end at batch "
        f"{BATCHES[-1]}, the largest that is evaluated",
    ]
    return "; ".join(parts)


def answer(found: Predictions) -> str:
    fitting = [one for one in found.devices if one.fits] or list(found.devices)
    speeds = sorted((one.floors[BLOCK_DIFFUSION][0][1], short_name(one)) for one in fitting)
    ends = dict.fromkeys(f"{tok_s(speed)} tok/s on {name}" for speed, name in (speeds[0], speeds[-1]))
    return (
        f"Predicted at the floors, with {found.num_steps} steps at batch 1, block diffusion gives {' to '.join(ends)}; "
        f"{_leads(fitting)}. {_moved(fitting)} {_learnt(found)}"
    )


def _leads(devices: Sequence[DevicePrediction]) -> str:
    """Up to which batches diffusion leads, and why no end is known where there is none."""
    places = [(one.crossover_range().place(UNIFORM), one) for one in devices]
    inside = sorted(((place, short_name(one)) for place, one in places if one.largest >= place > 0))
    never = [one for place, one in places if place == 0]
    beyond = [one for place, one in places if place > one.largest]
    full, evaluated = ([one for one in beyond if one.ends_at_memory == is_full] for is_full in (True, False))
    told = []
    if inside:
        told.append(f"it loses its lead at batch {_span(inside)}")
    if full:
        told.append(f"on {counted(len(full), 'device')} it leads until the memory is full")
    if evaluated:
        told.append(f"on {counted(len(evaluated), 'device')} up to batch {BATCHES[-1]}, the largest that is evaluated")
    if never:
        told.append(f"on {counted(len(never), 'device')} it never leads")
    return ", ".join(told)


def _moved(devices: Sequence[DevicePrediction]) -> str:
    """What the other assumptions make of the lead's end."""
    ranges = [(one.crossover_range(), one) for one in devices]
    lows = sorted((found.low, up_to(found.low, found.batches), short_name(one)) for found, one in ranges)
    (_, first, on_first), (_, last, on_last) = lows[0], lows[-1]
    span = f"{first} on {on_first}" + (f" to {last} on {on_last}" if len(lows) > 1 else "")
    return f"With {OTHERS}, it loses it as early as at batch {span}."


def _span(places: Sequence[tuple[float, str]]) -> str:
    (first, on_first), (last, on_last) = places[0], places[-1]
    return f"{batch(first)} on {on_first}" + (f" to {batch(last)} on {on_last}" if len(places) > 1 else "")


def _learnt(found: Predictions) -> str:
    """What engines were seen to reach, how well that foretells another device, and what was left out of it."""
    told = ["No row here and no published figure says what share of its floor an engine of this shape reaches."]
    if found.efficiencies:
        told = [f"Engines were seen to reach {' and '.join(_share(one) for one in found.efficiencies.values())}."]
    missed = [
        f"{NAMES[one.decoding]} {percent_off(min(one.errors.values()))} to {percent_off(max(one.errors.values()))}"
        for one in found.efficiencies.values()
        if one.errors
    ]
    told += [f"Each device predicted from the others is off by: {listed(missed)}."] if missed else []
    if found.above_floor:
        rows = [f"{counted(count, 'row')} of {NAMES[decoding]}" for decoding, count in found.above_floor.items()]
        told.append(f"Nothing is learnt from {listed(rows)} faster than the floor, which then is not the machine's.")
    return " ".join(told)


def _share(one: Efficiency) -> str:
    """What an efficiency is, and from where."""
    devices = counted(len(one.by_device), "device")
    basis = f"{counted(one.count, 'published figure')} of {devices}"
    if one.source == MEASURED:
        basis = f"{counted(one.count, 'measured row')} of {counted(one.num_runs, 'run')} on {devices}"
    span = f"{percent(one.low)} to {percent(one.high)} over " if one.count > 1 else ""
    return f"{percent(one.median)} of the floor for {NAMES[one.decoding]} ({span}{basis})"


def percent_off(share: float) -> str:
    return f"{100 * share:+.0f} %"


def table(found: Predictions) -> Table:
    return Table(
        caption=(
            f"PREDICTED: {found.model}, {found.num_steps} steps, batch 1; pairs are diffusion | autoregressive; "
            f"{_prices(found)}; ranges: with {OTHERS}, too"
        ),
        head=(
            *("device", "weights", "floor, tok/s", "expected, tok/s", "speed-up at the floors", "last batch, and why"),
            *("crossover batch at the floors", "its range", "crossover batch expected", "its range"),
            *("USD per million at the floors", "points obtained otherwise, and how"),
        ),
        rows=tuple(_row(one, found) for one in found.devices),
        numbers=(2, 3, 4, 6, 7, 8, 9, 10),
        wide=(11,),
    )


def _prices(found: Predictions) -> str:
    """Whose prices the table uses, and how a device gets one that has none."""
    hours = [(one, one.device.price_usd_per_hour) for one in found.devices]
    given = [short_name(one) for one, hour in hours if hour.source == GIVEN_PRICE]
    unknown = next((one.device.name for one, hour in hours if hour.value is None), None)
    return whose_prices(given) + (f"; another: `report RUN --usd-per-hour {unknown}=PRICE`" if unknown else "")


def _row(one: DevicePrediction, found: Predictions) -> tuple[str, ...]:
    floors = {decoding: one.floors[decoding][0][1] for decoding in NAMES}
    expected = {name: floors[name] * share.median for name, share in found.efficiencies.items()}
    prices = [one.usd_per_million(decoding) for decoding in NAMES]
    return (
        short_name(one),
        one.form.name + ("" if one.fits else ", does not fit"),
        _pair([tok_s(floor) for floor in floors.values()]),
        _pair([tok_s(expected[decoding]) for decoding in NAMES if decoding in expected]),
        ratio(one.speedups[0][1]),
        f"{one.largest}, " + ("memory" if one.ends_at_memory else "largest evaluated"),
        *_crossover(one, 1.0),
        *(("unknown", "unknown") if found.advantage is None else _crossover(one, found.advantage)),
        _pair([f"{price:.2g}" for price in prices if price is not None], "no price"),
        _points(one, found),
    )


def _pair(texts: Sequence[str], otherwise: str = "unknown") -> str:
    """Of both decoders, or a word where one of them is not there."""
    return " | ".join(texts) if len(texts) == 2 else otherwise


def _crossover(one: DevicePrediction, advantage: float) -> tuple[str, str]:
    """Where the lead changes, and the range of where diffusion loses it."""
    found = one.crossover_range(advantage)
    places = [batch(place) for place in one.crossings(advantage)]
    return listed(places) or up_to(found.place(UNIFORM), found.batches), crossover_range(found)


def _points(one: DevicePrediction, found: Predictions) -> str:
    """How many points are not comparable with the curves, and all in which they differ."""
    others = [point for point in found.points.get(one.device.name, ()) if point.differs]
    told = []
    for source in dict.fromkeys(point.source for point in others):
        differs = [point.differs for point in others if point.source == source]
        told.append(f"{len(differs)} {source}: {short(', '.join(dict.fromkeys(chain.from_iterable(differs))), 400)}")
    return "; ".join(told)
