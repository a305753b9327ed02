"""The headline numbers of several runs as one table: what stands near the top of a page of several devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness.analysis.analyse import Analysis
from harness.analysis.headline import Headline
from harness.analysis.rows import BELOW_FLOOR, CellRow
from harness.records.texts import short
from harness.records.types import Cell
from harness.report.figures.base import Table
from harness.report.wording import amount, batch, device_in_short, is_clear, listed, percent, ratio, tok_s, whose_prices

_USD = "usd_per_million_useful_tokens"
# Quantities that a run may lack: metric -> heading, how it reads. A column that no run can fill is left out.
_PAIRS: dict[str, tuple[str, Callable[[float], str]]] = {
    "floor_share": ("floor share", percent),
    "energy_per_useful_token_j": ("J per useful token", amount),
    _USD: ("USD per million tokens", amount),
}


def table(analysis: Analysis) -> Table | None:
    """A row a run in the order they were named; None where there is one run, whose tiles say it all."""
    headlines = analysis.headlines
    if len(headlines) < 2:
        return None
    runs = any(headline.apart for headline in headlines)
    pairs = [
        metric
        for metric in _PAIRS
        if any(row.value(metric) is not None for one in headlines for row in (one.diffusion, one.autoregressive) if row)
    ]
    too_fast = any(BELOW_FLOOR in row.marks for one in headlines for row in (one.diffusion, one.autoregressive) if row)
    priced = {run_id for run_id, run in analysis.runs.items() if run.plan["device"]["name"] in analysis.usd_per_hour}
    given = list(dict.fromkeys(device_in_short(short(one.device, 60)) for one in headlines if one.run_id in priced))
    head = (
        "device",
        *(["run"] if runs else []),
        "block x steps",
        "batch",
        "useful tok/s",
        "speed-up",
        "crossover batch",
    )
    return Table(
        caption=(
            "Run by run, never averaged: the fastest setting at the smallest batch. Pairs are block diffusion | "
            f"autoregressive decoding{f'; {whose_prices(given)}' if _USD in pairs else ''}."
            + (f" {BELOW_FLOOR.capitalize()}." if too_fast else "")
        ),
        head=(*head, *(_PAIRS[metric][0] for metric in pairs)),
        rows=tuple(_row(headline, pairs, has_run=runs) for headline in headlines),
        numbers=tuple(range(len(head) - 4, len(head) + len(pairs))),
        wide=(1,) if runs else (),
    )


def _row(headline: Headline, pairs: Sequence[str], *, has_run: bool) -> tuple[str, ...]:
    apart = [short(headline.apart or headline.run_id, 120)] if has_run else []
    diffusion = headline.diffusion
    return (
        device_in_short(short(headline.device, 60)),
        *apart,
        _setting(diffusion.cell) if diffusion else "none finished",
        "none" if headline.batch_size is None else str(headline.batch_size),
        _pair(headline, "useful_tok_s", tok_s),
        _speedup(headline),
        _crossover(headline),
        *(_pair(headline, metric, _PAIRS[metric][1]) for metric in pairs),
    )


def _setting(cell: Cell) -> str:
    return f"{cell.block_length} x {'' if cell.stopping == 'fixed' else 'at most '}{cell.num_steps}"


def _speedup(headline: Headline) -> str:
    """With its interval, and whether that holds 1."""
    summary = headline.speedup
    if summary is None:
        return "none"
    doubt = "" if is_clear(summary) else ", within the noise"
    span = "" if summary.n_rounds == 1 else f" ({ratio(summary.low)} to {ratio(summary.high)}{doubt})"
    return ratio(summary.value) + span


def _pair(headline: Headline, metric: str, read: Callable[[float], str]) -> str:
    """Of both decoders, a dash for one that has none; or that it is unknown of both."""
    values = [_value(row, metric, read) for row in (headline.diffusion, headline.autoregressive)]
    if not any(values):
        return "unknown"
    return " | ".join(value or "-" for value in values)


def _value(row: CellRow | None, metric: str, read: Callable[[float], str]) -> str | None:
    """As it reads, with the first words of the remark that the cell's row has on it."""
    value = None if row is None else row.value(metric)
    if row is None or value is None:
        return None
    is_too_fast = metric == "floor_share" and BELOW_FLOOR in row.marks
    return read(value) + (f", {BELOW_FLOOR.partition(':')[0]}" if is_too_fast else "")


def _crossover(headline: Headline) -> str:
    line = headline.line
    if line is None or not line.speedups:
        return "nothing compared"
    if line.crossings:
        return listed([batch(crossing.batch_size) for crossing in line.crossings])
    return f"none to {line.speedups[-1][0]}"
