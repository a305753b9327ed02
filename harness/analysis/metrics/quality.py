"""How good the answers are, and in which order they came to be.

Right or wrong is known where prompts have checkers. Elsewhere there are two proxies, whose names say so.
"""

from __future__ import annotations

from statistics import fmean
from typing import Any

from harness.analysis import settling
from harness.analysis.metrics.registry import Missing, Part, metric, present
from harness.analysis.run_data import CellPlan
from harness.records.types import AUTOREGRESSIVE, Record, Round


@metric(unit="share", better="higher", kind="counter", scope="share")
def exact_match(round: Round, planned: CellPlan) -> list[Part | None]:
    """Right answers / graded answers, over all rows of all rounds."""
    return [None if exact is None else (exact, 1) for exact in present("exact", round)]


@metric(unit="share", better="higher", kind="counter", scope="share")
def token_accuracy(round: Round, planned: CellPlan) -> list[Part | None]:
    """Mean over the answers with an expected text, of all rounds, of the share of its tokens at the right place."""
    return [None if share is None else (share, 1) for share in present("token_accuracy", round)]


@metric(unit="nats/token", better="lower", kind="counter", scope="record")
def proxy_nll_nats(record: Record, planned: CellPlan) -> float:
    """A proxy of quality: mean over rows of the mean negative log-likelihood of useful tokens under the same weights in
    causal mode, from the untimed counting round. Dull or repeated text is likely, too.
    """
    return fmean(map(float, _counted("nll_nats", record)))


@metric(unit="share", better="higher", kind="counter", scope="most_steps")
def proxy_agreement(record: Record, most: Record) -> float:
    """A proxy of quality: mean over the first eight rows of useful tokens that equal, place by place, those of the cell
    that differs in num_steps alone and has the most, / the longer answer's length; from the untimed counting round.
    """
    pairs = zip(_counted("output_ids", record), _counted("output_ids", most), strict=True)
    equal = [(sum(a == b for a, b in zip(*pair, strict=False)), max(map(len, pair))) for pair in pairs]
    return float(fmean(same / length for same, length in equal))


@metric(unit="tau", better="higher", kind="counter", scope="record")
def left_to_right(record: Record, planned: CellPlan) -> float:
    """Mean over canvases and the first eight rows of Kendall's tau-b between a useful position and the step at which it
    settled: 1 is strictly left to right, 0 no order, -1 right to left. It is no better to be high or low.
    """
    if planned.cell.decoding == AUTOREGRESSIVE:
        raise Missing("autoregressive decoding has no canvas")
    _counted("settled_steps", record)
    tau = settling.left_to_right(settling.settled_rows(record))
    if tau is None:
        raise Missing("all positions of a canvas settle at once")
    return tau


def _counted(name: str, record: Record) -> list[Any]:
    if not record.counters.get(name):
        raise Missing(f"{name} was not counted")
    found: list[Any] = record.counters[name]
    return found
