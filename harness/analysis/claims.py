"""The claims of the launch texts against the rows of a page, judged by one rule.

The rule. A row can test a claim when it is of the device, shape, decoding and batch that the claim names, and has the
claim's measure. With R the rows that can, and H those of them that reach the claim's number:

    reproduced           R is not empty, H is all of R, and one of H was obtained as the claim was (obtained_with)
    reproduced only if   H is not empty, but it is not all of that: the verdict says what H has and R - H has not
    contradicted         H is empty, and one of R was obtained as the claim was
    not tested here      otherwise: no row can test it, or none that can was obtained as the claim was

Times of the fake backend are made up, and test nothing. Where rows are of another model or device than the launch's,
the verdict is about "this model on this device", which `about` names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.analysis import prediction
from harness.analysis.rows import CellRow
from harness.analysis.run_data import Run
from harness.records.types import AUTOREGRESSIVE, BLOCK_DIFFUSION
from harness.spec import floor, formats, published
from harness.spec.config import DTYPE_BYTES, check_choice
from harness.spec.data import devices
from harness.spec.published import Claim, Published

REPRODUCED, ONLY_IF, CONTRADICTED, NOT_TESTED = (
    "reproduced",
    "reproduced only if",
    "contradicted",
    "not tested here",
)
_STEPS = (16, 27, 48)  # the chart's, the mean of real prompts (github.com/tenstorrent/tt-metal/issues/50431), the cap
# What may tell rows that reach a claim from rows that do not, besides how good their answers are.
_FIELDS = (
    *("model", "device", "backend", "decoding", "block_length", "num_steps", "stopping", "weight_dtype", "head_dtype"),
    *("prompt_set", "prompt_tokens", "output_tokens", "eos", "routing"),
)
QUALITY = "exact match"
NO_LESS, LESS, NOT_GRADED = "no less than autoregressive", "less than autoregressive", "not graded"


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A condition whose values differ between the rows that reach a claim and those that do not."""

    name: str
    reached: tuple[Any, ...]
    missed: tuple[Any, ...]

    @property
    def decides(self) -> bool:
        """Whether it alone tells the two apart."""
        return not set(self.reached) & set(self.missed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What the rows say of one claim. values: lowest and highest that was measured, in the claim's unit."""

    claim: Claim
    verdict: str
    why: str  # why it is not tested; else empty
    num_tested: int
    num_reached: int
    values: tuple[float, float] | None
    about: tuple[str, ...]  # model on device, of the rows that test it
    is_as_launched: bool  # they are of the released shape with trained weights
    differences: tuple[Difference, ...]  # those that decide alone first
    allowed: Mapping[str, float]  # condition -> what the floor, or the formula, allows

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "allowed": dict(self.allowed)}


@dataclass(frozen=True, slots=True)
class _Tested:
    row: CellRow
    run: Run
    twin: CellRow | None
    value: float


def judge_claims(rows: Sequence[CellRow], runs: Mapping[str, Run], given: Published) -> list[Judgement]:
    """Every claim, in the file's order.

    Raises:
        ConfigError: a claim names a measure or a condition that there is not.
    """
    by_id = {(row.run_id, row.cell_id): row for row in rows}
    return [_judge(claim, rows, runs, by_id, given) for claim in given.claims]


def _judge(
    claim: Claim,
    rows: Sequence[CellRow],
    runs: Mapping[str, Run],
    by_id: Mapping[tuple[str, str], CellRow],
    given: Published,
) -> Judgement:
    where = f"{Path(published.PATH).name}: {claim.id}"
    check_choice(f"{where}: measure", claim.measure, list(MEASURES))
    for name in claim.obtained_with:
        check_choice(f"{where}: obtained_with", name, _FIELDS)
    in_scope = [row for row in rows if not _out_of_scope(claim, row, runs[row.run_id])]
    tested = []
    for row in in_scope:
        twin = by_id.get((row.run_id, row.twin_id or ""))
        value = MEASURES[claim.measure](row, runs[row.run_id], twin)
        if value is not None:
            tested.append(_Tested(row, runs[row.run_id], twin, value))
    reached, missed = ([one for one in tested if claim.is_reached_by(one.value) == holds] for holds in (True, False))
    verdict, why = _verdict(claim, tested, reached)
    return Judgement(
        claim=claim,
        verdict=verdict,
        why=why or ("" if tested else _why_untested(claim, rows, in_scope, runs)),
        num_tested=len(tested),
        num_reached=len(reached),
        values=(min(one.value for one in tested), max(one.value for one in tested)) if tested else None,
        about=tuple(dict.fromkeys(f"{one.row.cell.model} on {one.run.device_name}" for one in tested)),
        is_as_launched=bool(tested) and all(_is_released(one.run) and one.run.is_trained for one in tested),
        differences=tuple(_differences(reached, missed)),
        allowed=ALLOWED[claim.measure](claim, given),
    )


def _verdict(claim: Claim, tested: Sequence[_Tested], reached: Sequence[_Tested]) -> tuple[str, str]:
    """The rule, and why it says nothing where rows were measured under other conditions only."""
    if not tested:
        return NOT_TESTED, ""
    if reached:
        is_whole = len(reached) == len(tested) and any(_as_obtained(claim, one.row) for one in reached)
        return (REPRODUCED if is_whole else ONLY_IF), ""
    if any(_as_obtained(claim, one.row) for one in tested):
        return CONTRADICTED, ""
    wanted = ", ".join(f"{name} {' or '.join(map(str, values))}" for name, values in claim.obtained_with.items())
    return NOT_TESTED, f"it was obtained with {wanted}, and no row here was; those that are here do not reach it"


def _as_obtained(claim: Claim, row: CellRow) -> bool:
    return all(getattr(row.cell, name) in values for name, values in claim.obtained_with.items())


def _out_of_scope(claim: Claim, row: CellRow, run: Run) -> str:
    """What the row lacks to test the claim; empty where it lacks nothing."""
    if row.cell.backend == "fake":
        return "a backend that computes something"
    if claim.device and row.cell.device != claim.device:
        return f"a run on {devices()[claim.device].display_name if claim.device in devices() else claim.device}"
    if claim.is_released_shape and not _is_released(run):
        return "a model of the released shape"
    if claim.decoding and row.cell.decoding != claim.decoding:
        return f"{claim.decoding.replace('_', ' ')} cells"
    if claim.batch_size is not None and row.cell.batch_size != claim.batch_size:
        return f"batch {claim.batch_size}"
    return ""


def _why_untested(claim: Claim, rows: Sequence[CellRow], in_scope: Sequence[CellRow], runs: Mapping[str, Run]) -> str:
    if in_scope:
        metric = _NEEDS.get(claim.measure, claim.measure)
        return next(
            filter(None, (row.missing.get(metric) for row in in_scope)), "its rows have nothing to measure it by"
        )
    lacking = list(dict.fromkeys(_out_of_scope(claim, row, runs[row.run_id]) for row in rows))
    unknown = [dtype for dtype in claim.obtained_with.get("weight_dtype", ()) if dtype not in DTYPE_BYTES]
    beyond = f", and no backend here computes in {' or '.join(map(str, unknown))} yet" if unknown else ""
    return f"it needs {' and '.join(lacking)}{beyond}" if lacking else "no cell is planned"


def _differences(reached: Sequence[_Tested], missed: Sequence[_Tested]) -> list[Difference]:
    """Conditions that tell the two apart, those that do it alone first; none where one of the two is empty."""
    if not reached or not missed:
        return []
    found = []
    for name in (QUALITY, *_FIELDS):
        ours, theirs = (_values(name, some) for some in (reached, missed))
        if set(ours) != set(theirs):
            found.append(Difference(name=name, reached=ours, missed=theirs))
    return sorted(found, key=lambda one: not one.decides)


def _values(name: str, some: Sequence[_Tested]) -> tuple[Any, ...]:
    values = (_quality(one) if name == QUALITY else getattr(one.row.cell, name) for one in some)
    return tuple(sorted({value for value in values if value is not None}, key=lambda value: (str(type(value)), value)))


def _quality(one: _Tested) -> str | None:
    """How right its answers are beside its twin's; None of the twin itself."""
    if one.row.is_autoregressive:
        return None
    ours, theirs = one.row.value("exact_match"), one.twin.value("exact_match") if one.twin else None
    return NOT_GRADED if ours is None or theirs is None else NO_LESS if ours >= theirs else LESS


def _is_released(run: Run) -> bool:
    return run.shape == formats.released_shape()


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
_NEEDS = {"canvas_gain": "step_s", "parameters_read": "distinct_experts", "parameters_over_token": "distinct_experts"}


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
    return {"at the floors": canvas * (decode.floor_s or 0.0) / decode.count / (step.floor_s or 1.0)}


def _bound_allowed(claim: Claim, given: Published) -> dict[str, float]:
    step, _, roofs = _passes(claim, given)
    moving, computing = floor.moving_and_computing_s([step], roofs)
    return {"by formula": computing / moving}


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
