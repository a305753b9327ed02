"""How numbers and lists read, the same on the page, in figures and in the terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from harness.analysis.crossover_range import CrossoverRange
from harness.analysis.run_data import GIVEN_PRICE
from harness.analysis.summary import OVER_LAUNCHES, OVER_PROMPTS, Summary
from harness.records.types import Cell

BLOCK_DIFFUSION_NAME, AUTOREGRESSIVE_NAME = "block diffusion", "autoregressive decoding"
BASELINE = "over plain autoregressive decoding (no speculation)"  # what every speed-up is a speed-up over
# Below this a lead reads better in per cent: "4 % faster", not "1.04x faster".
_PERCENT_BELOW = 1.1
_LEAST_SHARE = 1e-9  # below it, arithmetic cannot tell a share from none


def tok_s(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def amount(value: float) -> str:
    """Joules or dollars."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def ratio(value: float) -> str:
    """A speed-up: 0.41x, 2.31x, 14.2x."""
    if value < 0.1:
        return f"{value:.2g}x"
    return f"{value:.2f}x" if value < 10 else f"{value:.1f}x" if value < 100 else f"{value:,.0f}x"


def percent(share: float) -> str:
    if abs(share) < _LEAST_SHARE:
        return "0 %"
    return f"{100 * share:.0f} %" if share >= 0.0995 else f"{100 * share:.2g} %"


def batch(value: float) -> str:
    """A batch size, which an interpolated one need not be a whole number of."""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def up_to(place: float, batches: tuple[int, int]) -> str:
    """A batch up to which diffusion leads, by CrossoverRange: one of the batches that were looked at, or outside."""
    smallest, largest = batches
    return f"under {smallest}" if place == 0 else f"over {largest}" if place == math.inf else batch(place)


def crossover_range(found: CrossoverRange) -> str:
    """12 to over 128."""
    ends = dict.fromkeys(up_to(place, found.batches) for place in (found.low, found.high))
    return " to ".join(ends)


def listed(items: Sequence[object]) -> str:
    """1, 2 and 3."""
    texts = [str(item) for item in items]
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def either(items: Sequence[object]) -> str:
    """1, 2 or 3."""
    texts = [str(item) for item in items]
    return " or ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "es" if noun.endswith(("ch", "s")) else "s")


def lead(speedup: float) -> str:
    """Who is faster and by how much, the same in both directions."""
    faster = BLOCK_DIFFUSION_NAME if speedup >= 1 else AUTOREGRESSIVE_NAME
    factor = max(speedup, 1 / speedup)
    if f"{100 * (factor - 1):.1f}" == "0.0":
        return "both are equally fast"
    return f"{faster} is {_factor(factor)} faster"


def is_clear(speedup: Summary) -> bool:
    """Whether the interval leaves no doubt who is faster. That of one round is its value, taken at its word."""
    return not speedup.low <= 1 <= speedup.high


def lead_of(speedup: Summary) -> str:
    """Who is faster, and whether noise alone could have made it so."""
    return lead(speedup.value) + ("" if is_clear(speedup) else " (within the noise)")


def _factor(factor: float) -> str:
    if factor < _PERCENT_BELOW:
        return f"{100 * (factor - 1):.1f} %"
    return f"{factor:.2f}x" if factor < 2 else f"{factor:.1f}x" if factor < 10 else f"{factor:,.0f}x"


def interval(summary: Summary, read: Callable[[float], str]) -> str:
    """low to high with the confidence that the sample achieves and what it is taken over."""
    if summary.basis == OVER_PROMPTS:
        over = counted(summary.n_prompts or 0, "prompt")
    elif summary.n_rounds == 1:
        return "one round, so no interval"
    elif summary.basis == OVER_LAUNCHES:
        over = counted(summary.n_launches, "launch")
    else:
        over = f"{counted(summary.n_rounds, 'round')} {summary.basis}"
    return f"{read(summary.low)} to {read(summary.high)} ({100 * summary.confidence:.0f} % confidence, {over})"


def setting(cell: Cell) -> str:
    """A diffusion cell's block length and steps in words."""
    steps = counted(cell.num_steps or 0, "step")
    return f"{cell.block_length}-token blocks and {'' if cell.stopping == 'fixed' else 'at most '}{steps}"


def steps_in_short(cell: Cell) -> str:
    """A diffusion cell's steps for a picture: 8 steps, or <=8 steps where the content decides."""
    return f"{'' if cell.stopping == 'fixed' else '<='}{counted(cell.num_steps or 0, 'step')}"


def device_in_short(display_name: str) -> str:
    """Without the maker, which most devices share, and without the memory."""
    return re.sub(r"^(NVIDIA |AMD )?(GeForce )?|( \d+ GB| \(.*\))$", "", display_name)


def whose_prices(given: Sequence[str]) -> str:
    """Where a table's prices come from. given: names of devices whose price is not their file's."""
    told = "prices are the device files', used without a pause"
    return told + (f", but for {listed(given)} what was {GIVEN_PRICE}" if given else "")


def price(figure: Any) -> str:
    """An hour's price as a device's file has it, and what it is worth: its source, date and note."""
    if not isinstance(figure, dict) or figure.get("value") is None:
        return "none in the device's file"
    notes = [figure.get("source"), "recalled" if figure.get("recalled") else "", figure.get("note")]
    source = "; ".join(filter(None, notes)) or "no source given"
    return f"{figure['value']} USD per hour ({source}), taken as used without a pause"
