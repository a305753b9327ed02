"""What a claim can be measured by, and what the floors or a formula allow of the launch's own model."""

from __future__ import annotations

from collections.abc import Callable

from harness.analysis import prediction
from harness.analysis.rows import CellRow
from harness.analysis.run_data import Run
from harness.records.types import AUTOREGRESSIVE, BLOCK_DIFFUSION
from harness.spec import floor, formats
from harness.spec.data import devices
from harness.spec.published import Claim, Published

_STEPS = (16, 27, 48)  # the chart's, the mean of real prompts (github.com/tenstorrent/tt-metal/issues/50431), the cap


# What a claim can be measured by: of a row, its run and its twin.
_Measure = Callable[[CellRow, Run, CellRow | None], float | None]


def _metric(name: str) -> _Measure:
    return lambda row, run, twin: row.value(name)


def _canvas_gain(row: CellRow, run: Run, twin: CellRow | None) -> float | None:
    """Positions of a canvas x the time of a decoded token / the time of a step."""
    ours, theirs = row.value("step_s"), None if twin is None else twin.value("step_s")
    return None if ours is None or theirs is None else (row.cell.block_length or 1) * theirs / ours


def _parameters_read(row: CellRow, run: Run, twin: CellRow | None) -> float | None:
    return None if row.experts is None or run.shape is None else formats.parameters_read(run.shape, row.experts.mean)


def _over_token(row: CellRow, run: Run, twin: CellRow | None) -> float | None:
    read = _parameters_read(row, run, twin)
    return None if read is None or run.shape is None else read / formats.parameters_read(run.shape)


MEASURES: dict[str, _Measure] = {
    "useful_tok_s": _metric("useful_tok_s"),
    "speedup_vs_ar": _metric("speedup_vs_ar"),
    "peak_device_bytes": _metric("peak_device_bytes"),
    "computing_over_moving": _metric("computing_over_moving"),
    "canvas_gain": _canvas_gain,
    "parameters_read": _parameters_read,
    "parameters_over_token": _over_token,
}
BY_FORMULA = ("computing_over_moving",)  # of the rows' passes, shape and roofs: no clock has a say
COUNTED = ("parameters_read", "parameters_over_token")  # by the distinct experts of the counting round
SPEEDS = ("useful_tok_s", "speedup_vs_ar")  # of an answer, whose worth is how right it is
BY_FLOORS = (*SPEEDS, "canvas_gain")  # whose limit is a time; of the others it is a count


def why_not_measured(measure: str, row: CellRow) -> str:
    """Why a row that could test a claim has nothing to measure it by."""
    if measure in COUNTED:
        return "the experts that its passes read were not counted"
    return row.missing.get({"canvas_gain": "step_s"}.get(measure, measure), "it has no time beside its twin's")


# What the floors allow, or a formula says, of the released shape: on the claim's device, in its format.
def _speeds(claim: Claim, given: Published, decoding: str = BLOCK_DIFFUSION) -> dict[int, float]:
    device = devices()[claim.allowed_on]
    form, shape = given.formats[claim.format], formats.released_shape()
    return {n: prediction.tok_s_at_floor(shape, form, device, decoding, num_steps=n) for n in _STEPS}


def _speeds_allowed(claim: Claim, given: Published) -> dict[str, float]:
    return {f"{steps} steps": speed for steps, speed in _speeds(claim, given).items()}


def _speedups_allowed(claim: Claim, given: Published) -> dict[str, float]:
    twins = _speeds(claim, given, AUTOREGRESSIVE)
    return {f"{steps} steps": speed / twins[steps] for steps, speed in _speeds(claim, given).items()}


def _passes(claim: Claim, given: Published) -> tuple[floor.Phase, floor.Phase, floor.Roofs]:
    """A denoise step, a decode pass, and the roofs that they have."""
    device, form = devices()[claim.allowed_on], given.formats[claim.format]
    shape = formats.released_shape()
    step = prediction.phases(shape, form, device, BLOCK_DIFFUSION)["denoise"]
    decode = prediction.phases(shape, form, device, AUTOREGRESSIVE)["decode"]
    return step, decode, form.roofs_of(device)


def _gain_allowed(claim: Claim, given: Published) -> dict[str, float]:
    step, decode, _ = _passes(claim, given)
    canvas = formats.released_shape().canvas_length or 1
    return {
        f"a step against {canvas} decoded tokens": canvas
        * (decode.floor_s or 0.0)
        / decode.count
        / (step.floor_s or 1.0)
    }


def _bound_allowed(claim: Claim, given: Published) -> dict[str, float]:
    step, decode, roofs = _passes(claim, given)
    name, one = ("a decode pass", decode) if claim.decoding == AUTOREGRESSIVE else ("a denoise pass", step)
    moving, computing = floor.moving_and_computing_s([one], roofs)
    return {name: computing / moving}


def _memory_allowed(claim: Claim, given: Published) -> dict[str, float]:
    shape = formats.released_shape()
    return {f"weights in {name}": given.formats[name].bytes_of(shape, 1, 0) for name in ("nvfp4", "fp8", "bf16")}


def _parameters_allowed(claim: Claim, given: Published) -> dict[str, float]:
    return {"one token": formats.parameters_read(formats.released_shape())}


def _share_allowed(claim: Claim, given: Published) -> dict[str, float]:
    shape = formats.released_shape()
    canvas = formats.expected_experts(shape, shape.canvas_length or 1)
    return {"a decoded token": 1.0, "a step": formats.parameters_read(shape, canvas) / formats.parameters_read(shape)}


ALLOWED: dict[str, Callable[[Claim, Published], dict[str, float]]] = {
    "useful_tok_s": _speeds_allowed,
    "speedup_vs_ar": _speedups_allowed,
    "peak_device_bytes": _memory_allowed,
    "computing_over_moving": _bound_allowed,
    "canvas_gain": _gain_allowed,
    "parameters_read": _parameters_allowed,
    "parameters_over_token": _share_allowed,
}
