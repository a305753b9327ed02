"""How far a cell is from what the hardware allows: by the executed passes, the experts read, and the roofs known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.analysis.metrics.registry import Missing, metric
from harness.records.types import Round

if TYPE_CHECKING:
    from harness.analysis.floors import Floors


@metric(unit="share", better="higher", kind="time", scope="floor")
def floor_share(round: Round, floors: Floors) -> float:
    """Floor of the passes that were executed (mean floor of a planned pass of the kind x executed count) / wall time.

    Roofs are the device file's, or where it has none those that were measured; distinct experts are those that the
    counting round saw, else the expectation.
    """
    return floors.floor_s(_of_whole_batch(round)) / round.wall_s


@metric(unit="share", better="higher", kind="time", scope="measured_floor")
def measured_floor_share(round: Round, floors: Floors) -> float:
    """floor_share by the roofs that a probe measured on this machine, whatever the device file says."""
    return floors.floor_s(_of_whole_batch(round)) / round.wall_s


@metric(unit="share", better="higher", kind="time", scope="floor")
def bound_share(round: Round, floors: Floors) -> float:
    """Bound of the executed passes / wall time: the larger of mbu and mfu."""
    return max(floors.moving_and_computing_s(_of_whole_batch(round))) / round.wall_s


@metric(unit="share", better="higher", kind="time", scope="floor")
def mbu(round: Round, floors: Floors) -> float:
    """Memory bandwidth utilisation: compulsory bytes of the executed passes / wall time / the roof's bandwidth."""
    return floors.moving_and_computing_s(_of_whole_batch(round))[0] / round.wall_s


@metric(unit="share", better="higher", kind="time", scope="floor")
def mfu(round: Round, floors: Floors) -> float:
    """Arithmetic utilisation: FLOPs of the executed passes, each at the rate of its dtype, / wall time."""
    return floors.moving_and_computing_s(_of_whole_batch(round))[1] / round.wall_s


@metric(unit="x", better="higher", kind="counter", scope="floor")
def computing_over_moving(round: Round, floors: Floors) -> float:
    """Of a denoise pass, or where decoding is autoregressive of a decode pass: the time that its FLOPs need at the
    roofs' rates / the time that its bytes need at the roof's bandwidth. Above 1 the pass is bound by arithmetic, below
    by memory; it is no better to be high or low.
    """
    one = floors.passes.get("denoise") or floors.passes.get("decode")
    if one is None:
        raise Missing("neither a denoise nor a decode pass")
    if one.moving_s is None or one.computing_s is None:
        raise Missing("the run's plan is of an earlier version, which does not hold the model's shape")
    return one.computing_s / one.moving_s


@metric(unit="x", better="higher", kind="time", scope="floor_pair")
def limit_speedup_vs_ar(round: Round, floors: Floors, twin: Round, twin_floors: Floors) -> float:
    """Limit to limit: useful tokens per second of floor / those of the twin, as if both ran at their floors.

    speedup_vs_ar = limit_speedup_vs_ar x floor_share / the twin's: what is above this one is a weak baseline.
    """
    if floors.roof != twin_floors.roof:
        raise Missing("the floors of the two are by different roofs")
    own = sum(round.useful_tokens) / floors.floor_s(_of_whole_batch(round))
    return own / (sum(twin.useful_tokens) / twin_floors.floor_s(_of_whole_batch(twin)))


def _of_whole_batch(round: Round) -> dict[str, int]:
    """The executed passes.

    Raises:
        Missing: some ran for a part of the rows, and floors are of passes for the whole batch.
    """
    rows = len(round.useful_tokens)
    if any(round.row_passes.get(kind, 0) != count * rows for kind, count in round.passes.items()):
        raise Missing("rows left the batch, and floors are of passes for all of its rows")
    return round.passes
