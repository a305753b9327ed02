"""How steady a run was: the speed of every round against its cell's median, noise and drift over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from harness.records.types import Cell, Record, Round

# Reasons that say that a GPU was held back; the others (idle, a power cap at full load, set clocks) are no fault.
THROTTLES = ("hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown")
FEWEST_FOR_DRIFT = 5  # rounds in each third that is compared
_DRIFT_P = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """The rounds of one cell in one launch, in the order in which they ran.

    speeds: of the rounds, in the unit that `speed_unit` names; warm_up: of the warm-up requests, the cold one first.
    clocks_mhz, temperatures_c: of the rounds; empty where they were not recorded. throttled: the rounds' places.
    """

    launch: int
    speeds: tuple[float, ...]
    warm_up: tuple[float, ...]
    clocks_mhz: tuple[float, ...]
    temperatures_c: tuple[float, ...]
    throttled: tuple[int, ...]
    num_discarded: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Stability:
    """Over all rounds of some cells, as shares of their cell's median.

    noise: half of the rounds lie within this of their cell's median. nine_tenths: nine of ten do; None with fewer than
    ten rounds. drift: median of the last thirds of launches - that of the first thirds; None with too few rounds.
    is_drifting: the two thirds differ by more than noise, and chance alone would do so in less than one of 100 runs
    (Mann and Whitney's test).
    """

    num_rounds: int
    noise: float
    nine_tenths: float | None
    drift: float | None
    is_drifting: bool


def speed_unit(cell: Cell) -> str:
    """Where the content decides how many passes a round takes, its passes a second say more of the machine."""
    decides = cell.eos == "respect" or cell.stopping not in ("fixed", None)
    return "passes/s" if decides else "useful tok/s"


def paces_of(records: Sequence[Record]) -> tuple[Pace, ...]:
    """Of a cell's records that ended well, launch after launch."""
    return tuple(_pace(record) for record in records if record.rounds)


def _pace(record: Record) -> Pace:
    rounds = list(record.rounds)
    work = [_work(record.cell, round) for round in rounds]
    warm_up_s = record.course.get("warmup_s", ())
    clocks = [round.clocks_mhz["sm"] for round in rounds if round.clocks_mhz and "sm" in round.clocks_mhz]
    heat = [round.gpu["temperature_c_max"] for round in rounds if round.gpu and "temperature_c_max" in round.gpu]
    return Pace(
        launch=record.launch,
        speeds=tuple(done / round.wall_s for done, round in zip(work, rounds, strict=True)),
        warm_up=tuple(work[0] / seconds for seconds in warm_up_s if seconds > 0),
        clocks_mhz=tuple(clocks) if len(clocks) == len(rounds) else (),
        temperatures_c=tuple(heat) if len(heat) == len(rounds) else (),
        throttled=tuple(i for i, round in enumerate(rounds) if set(round.throttle_reasons or ()) & set(THROTTLES)),
        num_discarded=len(record.discarded),
    )


def _work(cell: Cell, round: Round) -> float:
    passes = sum(round.passes.values())
    return float(passes if passes and speed_unit(cell) == "passes/s" else sum(round.useful_tokens))


def relative(paces: Sequence[Pace]) -> list[list[float]]:
    """Of a cell's launches: every round's speed / the median of them all."""
    middle = median(speed for pace in paces for speed in pace.speeds)
    return [[speed / middle for speed in pace.speeds] for pace in paces] if middle else []


def stability_of(cells: Sequence[Sequence[Pace]]) -> Stability | None:
    """Over the launches of each cell; a cell with one round in all says nothing. None if every cell is such a one."""
    launches = [launch for paces in cells if sum(len(pace.speeds) for pace in paces) > 1 for launch in relative(paces)]
    off = sorted(abs(speed - 1) for launch in launches for speed in launch)
    if not off:
        return None
    early = [speed for launch in launches for speed in launch[: len(launch) // 3]]
    late = [speed for launch in launches for speed in launch[len(launch) - len(launch) // 3 :]]
    drift = median(late) - median(early) if len(early) >= FEWEST_FOR_DRIFT else None
    noise = median(off)
    return Stability(
        num_rounds=len(off),
        noise=noise,
        nine_tenths=off[-(-9 * len(off) // 10) - 1] if len(off) >= 10 else None,
        drift=drift,
        is_drifting=drift is not None and abs(drift) > noise and _differ(early, late),
    )


def _differ(early: Sequence[float], late: Sequence[float]) -> bool:
    from scipy.stats import mannwhitneyu  # a second that few runs need

    return float(mannwhitneyu(early, late).pvalue) < _DRIFT_P
