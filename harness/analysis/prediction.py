"""What both decoders would do on devices that nobody here owns: floors, and floors at an efficiency that was seen.

The floor of a request by the device file's roofs is what a perfect engine needs. Real engines reach a share of it,
which differs by decoder. The median share and its range come from rows of this page that ran the same shape, or where
there are none from published figures whose conditions are known. predicted tok/s = tok/s at the floor x share.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from statistics import median
from typing import Any

from harness.analysis.published import ASSUMED_STEPS, judge, seconds_of
from harness.analysis.rows import CellRow
from harness.analysis.run_data import GIVEN_PRICE, Run
from harness.records.types import AUTOREGRESSIVE, BLOCK_DIFFUSION
from harness.spec.config import DeviceConfig, Figure
from harness.spec.data import devices
from harness.spec.floor import Phase, Shape
from harness.spec.formats import RELEASED, WeightFormat, phases_of, released_shape
from harness.spec.published import Published

BATCHES = tuple(2**i for i in range(10))
PROMPT_TOKENS = 1024
SMALLEST_FORMAT = "nvfp4"  # where the weights in a device's own format do not fit
_NATIVE_FORMATS = ("nvfp4", "fp8", "bf16")  # the fastest arithmetic first
MEASURED, PUBLISHED = "measured", "published"

Points = tuple[tuple[int, float], ...]  # (batch, tok/s at the floor)


@dataclass(frozen=True, kw_only=True, slots=True)
class DevicePrediction:
    """Both decoders on one device: one request of PROMPT_TOKENS in and a canvas out, prefill in the clock.

    Batches whose weights, keys and values do not fit are left out; where none fits, all are kept and not `fits`.
    """

    device: DeviceConfig
    form: WeightFormat
    fits: bool
    floors: Mapping[str, Points]  # decoding -> tok/s at the floor

    @property
    def speedups(self) -> Points:
        pairs = zip(self.floors[BLOCK_DIFFUSION], self.floors[AUTOREGRESSIVE], strict=True)
        return tuple((batch, ours / theirs) for (batch, ours), (_, theirs) in pairs)

    def crossings(self, diffusion_share: float = 1.0, autoregressive_share: float = 1.0) -> list[float]:
        """Batches at which the lead changes when each decoder reaches such a share of its floor."""
        points = [(batch, ratio * diffusion_share / autoregressive_share) for batch, ratio in self.speedups]
        return [
            b0 * (b1 / b0) ** (math.log(y0) / (math.log(y0) - math.log(y1)))
            for (b0, y0), (b1, y1) in pairwise(points)
            if (y0 > 1) != (y1 > 1)
        ]

    def usd_per_million(self, decoding: str) -> float | None:
        """At batch 1 and the floor, by the device's price of an hour, used without a pause."""
        price = self.device.price_usd_per_hour.value
        return None if price is None else price / 3600 / self.floors[decoding][0][1] * 1e6


@dataclass(frozen=True, kw_only=True, slots=True)
class Efficiency:
    """Shares of the floor that engines reached with one decoder. errors: predicted from all other devices / own - 1."""

    decoding: str
    source: str  # measured | published
    median: float
    low: float
    high: float
    count: int
    by_device: Mapping[str, float]  # device -> median share
    errors: Mapping[str, float]


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

    def to_json(self) -> dict[str, Any]:
        return {
            "source": "predicted",
            "model": self.model,
            "num_steps": self.num_steps,
            "block_length": self.block_length,
            "prompt_tokens": PROMPT_TOKENS,
            "output_tokens": self.block_length,
            "efficiencies": [
                {name: _plain(getattr(one, name)) for name in Efficiency.__slots__}
                for one in self.efficiencies.values()
            ],
            "devices": [
                {
                    "device": one.device.name,
                    "format": one.form.name,
                    "fits": one.fits,
                    "floor_tok_s": {
                        decoding: [list(point) for point in points] for decoding, points in one.floors.items()
                    },
                    "crossings_at_floors": one.crossings(),
                    "crossings_at_efficiencies": crossings_expected(one, self.efficiencies),
                    "usd_per_million_at_floor": {decoding: one.usd_per_million(decoding) for decoding in one.floors},
                }
                for one in self.devices
            ],
        }


def predict(
    rows: Sequence[CellRow],
    runs: Mapping[str, Run],
    published: Published,
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
    efficiencies = _of_rows(rows, runs, shape)
    if is_released:
        efficiencies = {**_of_figures(published), **efficiencies}
    return Predictions(
        is_released=is_released,
        shape=shape,
        model=RELEASED if own is None or is_released else str(own.plan["model"].get("name", "")),
        num_steps=ASSUMED_STEPS,
        block_length=shape.canvas_length or 0,
        devices=tuple(
            _priced(one, usd_per_hour or {}) for one in predict_devices(shape, tuple(published.formats.items()))
        ),
        efficiencies=efficiencies,
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
    shape: Shape, form: WeightFormat, device: DeviceConfig, decoding: str, batch_size: int = 1
) -> dict[str, Phase]:
    """Of the request that all predictions are about."""
    block_length = shape.canvas_length
    return phases_of(
        shape,
        form,
        device,
        batch_size=batch_size,
        prompt_tokens=PROMPT_TOKENS,
        output_tokens=block_length or 256,
        block_length=block_length if decoding == BLOCK_DIFFUSION else None,
    )


def tok_s_at_floor(
    shape: Shape,
    form: WeightFormat,
    device: DeviceConfig,
    decoding: str,
    batch_size: int = 1,
    num_steps: int = ASSUMED_STEPS,
) -> float:
    """Tokens of the whole batch per second of floor, prefill included."""
    seconds = seconds_of(phases(shape, form, device, decoding, batch_size), num_steps)
    return batch_size * (shape.canvas_length or 256) / seconds


def crossings_expected(one: DevicePrediction, efficiencies: Mapping[str, Efficiency]) -> list[float] | None:
    """Where the lead changes at the median efficiencies; None where one of them is not known."""
    if len(efficiencies) < 2:
        return None
    return one.crossings(efficiencies[BLOCK_DIFFUSION].median, efficiencies[AUTOREGRESSIVE].median)


def _of_device(device: DeviceConfig, shape: Shape, formats: Mapping[str, WeightFormat]) -> DevicePrediction:
    form, fits = _format_for(device, shape, formats)
    positions = PROMPT_TOKENS + (shape.canvas_length or 256)
    memory = device.memory_bytes.value or math.inf
    batches = [b for b in BATCHES if not fits or form.bytes_of(shape, b, positions) <= memory]
    floors = {
        decoding: tuple((batch, tok_s_at_floor(shape, form, device, decoding, batch)) for batch in batches)
        for decoding in (BLOCK_DIFFUSION, AUTOREGRESSIVE)
    }
    return DevicePrediction(device=device, form=form, fits=fits, floors=floors)


def _format_for(device: DeviceConfig, shape: Shape, formats: Mapping[str, WeightFormat]) -> tuple[WeightFormat, bool]:
    """The format of the fastest arithmetic that the device has, else the smallest; and whether one request fits."""
    native = next((formats[n] for n in _NATIVE_FORMATS if formats[n].is_native_to(device)), formats["bf16"])
    memory = device.memory_bytes.value or math.inf
    positions = PROMPT_TOKENS + (shape.canvas_length or 256)
    for form in (native, formats[SMALLEST_FORMAT]):
        if form.bytes_of(shape, 1, positions) <= memory:
            return form, True
    return formats[SMALLEST_FORMAT], False


def _of_rows(rows: Sequence[CellRow], runs: Mapping[str, Run], shape: Shape) -> dict[str, Efficiency]:
    """From measured rows of the shape; a made-up time has no efficiency."""
    shares: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        share = row.value("floor_share")
        run = runs[row.run_id]
        if share is not None and run.shape == shape and row.cell.backend != "fake":
            shares.setdefault(row.cell.decoding, {}).setdefault(run.device_name, []).append(share)
    return {decoding: _efficiency(decoding, MEASURED, found) for decoding, found in shares.items()}


def _of_figures(published: Published) -> dict[str, Efficiency]:
    shares: dict[str, dict[str, list[float]]] = {}
    for one in judge(published):
        if one.says_how and one.share is not None:
            shares.setdefault(one.figure.decoding, {}).setdefault(one.figure.device, []).append(one.share)
    return {decoding: _efficiency(decoding, PUBLISHED, found) for decoding, found in shares.items()}


def _efficiency(decoding: str, source: str, shares: Mapping[str, Sequence[float]]) -> Efficiency:
    by_device = {device: median(found) for device, found in shares.items()}
    flat = [share for found in shares.values() for share in found]
    return Efficiency(
        decoding=decoding,
        source=source,
        median=median(flat),
        low=min(flat),
        high=max(flat),
        count=len(flat),
        by_device=by_device,
        errors={
            device: median(others) / own - 1
            for device, own in by_device.items()
            if (others := [share for other, share in by_device.items() if other != device])
        },
    )


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value
