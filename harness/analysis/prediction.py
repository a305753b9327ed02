"""What both decoders would do on devices that nobody here owns: floors, and floors at an efficiency that was seen.

The floor of a request by the device file's roofs is what a perfect engine needs. Real engines reach a share of it that
differs by decoder (harness/analysis/efficiency.py). predicted tok/s = tok/s at the floor x share.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

from harness.analysis.assumptions import EXPONENTS, UNIFORM
from harness.analysis.crossover import Points, passings_of
from harness.analysis.crossover_range import CrossoverRange
from harness.analysis.efficiency import Efficiency, of_figures, of_rows
from harness.analysis.points import Curve, Point, points_of
from harness.analysis.published import ASSUMED_STEPS, Judged, seconds_of
from harness.analysis.rows import CellRow
from harness.analysis.run_data import GIVEN_PRICE, Run
from harness.records.types import AUTOREGRESSIVE, BLOCK_DIFFUSION
from harness.spec import draws
from harness.spec.config import DeviceConfig, Figure
from harness.spec.data import devices
from harness.spec.floor import Phase, Shape
from harness.spec.formats import RELEASED, WeightFormat, phases_of, released_shape
from harness.spec.published import Published

BATCHES: tuple[int, ...] = tuple(2**i for i in range(10))
PROMPT_TOKENS = 1024
SMALLEST_FORMAT = "nvfp4"  # where the weights in a device's own format do not fit
_NATIVE_FORMATS = ("nvfp4", "fp8", "bf16")  # the fastest arithmetic first
STATIC_REPLAY = f"published steps ({draws.PUBLISHED_STEPS}) in a static batch"


@dataclass(frozen=True, kw_only=True, slots=True)
class DevicePrediction:
    """Both decoders on one device: one request of PROMPT_TOKENS in and a canvas out, prefill in the clock.

    Batches whose weights, keys and values do not fit are left out; where none fits, all are kept and not `fits`.
    """

    device: DeviceConfig
    form: WeightFormat
    fits: bool
    floors: Mapping[str, Points]  # decoding -> (batch, tok/s at the floor), uniform routing and a fixed number of steps
    others: Mapping[str, Points]  # other assumption -> (batch, speed-up at the floors)

    @property
    def speedups(self) -> Points:
        pairs = zip(self.floors[BLOCK_DIFFUSION], self.floors[AUTOREGRESSIVE], strict=True)
        return tuple((batch, ours / theirs) for (batch, ours), (_, theirs) in pairs)

    @property
    def largest(self) -> int:
        """The batch at which the curves end."""
        return self.floors[BLOCK_DIFFUSION][-1][0]

    @property
    def ends_at_memory(self) -> bool:
        """Whether they end because the next larger batch does not fit, and not because no larger one is evaluated."""
        return self.largest < BATCHES[-1]

    def crossings(self, advantage: float = 1.0) -> list[float]:
        """Batches at which the lead changes; advantage: diffusion's share of its floor / autoregressive's of its."""
        return [one.batch_size for one in passings_of(_times(self.speedups, advantage))]

    def crossover_range(self, advantage: float = 1.0) -> CrossoverRange:
        """Over the routings and the step counts that were assumed."""
        lines = {UNIFORM: self.speedups, **self.others}
        return CrossoverRange(lines={name: _times(points, advantage) for name, points in lines.items()})

    def usd_per_million(self, decoding: str) -> float | None:
        """At batch 1 and the floor, by the device's price of an hour, used without a pause."""
        price = self.device.price_usd_per_hour.value
        return None if price is None else price / 3600 / self.floors[decoding][0][1] * 1e6


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """Of every device file with roofs. is_released: the shape is that of the launch and of published figures."""

    is_released: bool
    model: str
    shape: Shape
    num_steps: int
    block_length: int
    devices: tuple[DevicePrediction, ...]
    efficiencies: Mapping[str, Efficiency]  # by decoding; only where there is something to learn from
    above_floor: Mapping[str, int]  # by decoding: rows that are faster than their floor, from which nothing is learnt
    points: Mapping[str, tuple[Point, ...]]  # by device: what was measured or published beside its curves

    @property
    def advantage(self) -> float | None:
        """Diffusion's median share of its floor / autoregressive's; None where one of them is not known."""
        if len(self.efficiencies) < 2:
            return None
        return self.efficiencies[BLOCK_DIFFUSION].median / self.efficiencies[AUTOREGRESSIVE].median

    def to_json(self) -> dict[str, Any]:
        return {
            "source": "predicted",
            "model": self.model,
            "num_steps": self.num_steps,
            "block_length": self.block_length,
            "prompt_tokens": PROMPT_TOKENS,
            "output_tokens": self.block_length,
            "efficiencies": [one.to_json() for one in self.efficiencies.values()],
            "rows_above_their_floor": dict(self.above_floor),
            "devices": [self._device_json(one) for one in self.devices],
        }

    def _device_json(self, one: DevicePrediction) -> dict[str, Any]:
        advantage = self.advantage
        return {
            "device": one.device.name,
            "format": one.form.name,
            "fits": one.fits,
            "ends_at": "memory" if one.ends_at_memory else "largest batch that is evaluated",
            "floor_tok_s": {decoding: [list(point) for point in points] for decoding, points in one.floors.items()},
            "crossings_at_floors": one.crossings(),
            "crossings_at_efficiencies": None if advantage is None else one.crossings(advantage),
            "crossover_range_at_floors": one.crossover_range().to_json(),
            "crossover_range_at_efficiencies": None if advantage is None else one.crossover_range(advantage).to_json(),
            "usd_per_million_at_floor": {decoding: one.usd_per_million(decoding) for decoding in one.floors},
            "points": [asdict(point) for point in self.points.get(one.device.name, ())],
        }


def predict(
    rows: Sequence[CellRow],
    runs: Mapping[str, Run],
    published: Published,
    judged: Sequence[Judged],
    usd_per_hour: Mapping[str, float] | None = None,
) -> Predictions:
    """For the shape of the page's first run on a GPU, or the released one where no GPU ran.

    A shape without a canvas cannot denoise, so it is not predicted either. usd_per_hour: device -> the price of its
    hour in place of its file's.
    """
    own = next(
        (run for run in runs.values() if run.device.kind != "cpu" and run.shape and run.shape.canvas_length), None
    )
    shape = released_shape() if own is None or own.shape is None else own.shape
    is_released = shape == released_shape()
    efficiencies, above_floor = of_rows(rows, runs, shape)
    if is_released:
        efficiencies = {**of_figures(judged), **efficiencies}
    predicted = predict_devices(shape, tuple(published.formats.items()))
    block_length = shape.canvas_length or 0
    curves = {
        one.device.name: Curve(one.form, shape, ASSUMED_STEPS, block_length, PROMPT_TOKENS, block_length)
        for one in predicted
    }
    return Predictions(
        is_released=is_released,
        shape=shape,
        model=RELEASED if own is None or is_released else str(own.plan["model"].get("name", "")),
        num_steps=ASSUMED_STEPS,
        block_length=block_length,
        devices=tuple(_priced(one, usd_per_hour or {}) for one in predicted),
        efficiencies=efficiencies,
        above_floor=above_floor,
        points=points_of(curves, rows, runs, judged if is_released else ()),
    )


def _priced(one: DevicePrediction, usd_per_hour: Mapping[str, float]) -> DevicePrediction:
    if one.device.name not in usd_per_hour:
        return one
    price = Figure(value=usd_per_hour[one.device.name], source=GIVEN_PRICE)
    return replace(one, device=replace(one.device, price_usd_per_hour=price))


@lru_cache(maxsize=4)
def predict_devices(shape: Shape, formats: tuple[tuple[str, WeightFormat], ...]) -> tuple[DevicePrediction, ...]:
    """Every device file with roofs."""
    named = dict(formats)
    known = [device for device in devices().values() if _format_for(device, shape, named)[0].roofs_of(device).are_known]
    return tuple(_of_device(device, shape, named) for device in known)


def phases(
    shape: Shape,
    form: WeightFormat,
    device: DeviceConfig,
    decoding: str,
    batch_size: int = 1,
    zipf_exponent: float = 0.0,
) -> dict[str, Phase]:
    """Of the request that all predictions are about; zipf_exponent: of the experts' popularity, 0 for all alike."""
    block_length = shape.canvas_length
    return phases_of(
        shape,
        form,
        device,
        batch_size=batch_size,
        prompt_tokens=PROMPT_TOKENS,
        output_tokens=block_length or 256,
        block_length=block_length if decoding == BLOCK_DIFFUSION else None,
        inclusion=draws.zipf_inclusion(shape, zipf_exponent),
    )


def tok_s_at_floor(
    shape: Shape,
    form: WeightFormat,
    device: DeviceConfig,
    decoding: str,
    batch_size: int = 1,
    num_steps: float = ASSUMED_STEPS,
    zipf_exponent: float = 0.0,
) -> float:
    """Tokens of the whole batch per second of floor, prefill included."""
    seconds = seconds_of(phases(shape, form, device, decoding, batch_size, zipf_exponent), num_steps)
    return batch_size * (shape.canvas_length or 256) / seconds


def _times(points: Points, factor: float) -> Points:
    return tuple((batch, value * factor) for batch, value in points)


def _of_device(device: DeviceConfig, shape: Shape, formats: Mapping[str, WeightFormat]) -> DevicePrediction:
    form, fits = _format_for(device, shape, formats)
    positions = PROMPT_TOKENS + (shape.canvas_length or 256)
    memory = device.memory_bytes.value or math.inf
    batches = [b for b in BATCHES if not fits or form.bytes_of(shape, b, positions) <= memory]

    def floors(decoding: str, **assumed: float) -> Points:
        return tuple((batch, tok_s_at_floor(shape, form, device, decoding, batch, **assumed)) for batch in batches)

    uniform = {decoding: floors(decoding) for decoding in (BLOCK_DIFFUSION, AUTOREGRESSIVE)}
    others = {
        name: _speedups(floors(BLOCK_DIFFUSION, zipf_exponent=exponent), floors(AUTOREGRESSIVE, zipf_exponent=exponent))
        for name, exponent in EXPONENTS.items()
        if exponent
    }
    replayed = tuple(
        (batch, tok_s_at_floor(shape, form, device, BLOCK_DIFFUSION, batch, num_steps=_longest(shape, batch)))
        for batch in batches
    )
    others[STATIC_REPLAY] = _speedups(replayed, uniform[AUTOREGRESSIVE])
    return DevicePrediction(device=device, form=form, fits=fits, floors=uniform, others=others)


def _speedups(ours: Points, theirs: Points) -> Points:
    return tuple((batch, one / other) for (batch, one), (_, other) in zip(ours, theirs, strict=True))


def _longest(shape: Shape, batch_size: int) -> float:
    """Expected steps of a canvas of a static batch, by the published histogram up to the shape's own cap."""
    return draws.steps_named(draws.PUBLISHED_STEPS).longest(batch_size, shape.generation.max_denoising_steps)


def _format_for(device: DeviceConfig, shape: Shape, formats: Mapping[str, WeightFormat]) -> tuple[WeightFormat, bool]:
    """The format of the fastest arithmetic that the device has, else the smallest; and whether one request fits."""
    native = next((formats[n] for n in _NATIVE_FORMATS if formats[n].is_native_to(device)), formats["bf16"])
    memory = device.memory_bytes.value or math.inf
    positions = PROMPT_TOKENS + (shape.canvas_length or 256)
    for form in (native, formats[SMALLEST_FORMAT]):
        if form.bytes_of(shape, 1, positions) <= memory:
            return form, True
    return formats[SMALLEST_FORMAT], False
