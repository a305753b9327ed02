"""How long a user waits: for the first block, and from one block to the next. A block of autoregressive decoding is a
token. All rows of a static batch wait alike, so a request gives one sample and not one a row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from harness.analysis.run_data import Run

PERCENTILES = (0.5, 0.9, 0.99)


def first_block_s(run: Run, cell_id: str) -> list[float]:
    """Of every finished round, the time until its first block is on the host, which holds the prefill."""
    return sorted(round.ttfb_s for record in run.ok_records(cell_id) for round in record.rounds)


def between_blocks_s(run: Run, cell_id: str) -> list[float]:
    """Of every finished round, the times from one block to the next; of a request of one block none."""
    rounds = (round for record in run.ok_records(cell_id) for round in record.rounds)
    return sorted(after - before for round in rounds for before, after in pairwise(round.block_s))


def supported(count: int) -> list[float]:
    """The percentiles that so many samples can support: at least one must lie beyond. One sample is its own median."""
    return [share for share in PERCENTILES if count and (share == 0.5 or count * (1 - share) >= 1 - 1e-9)]


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest sample that at least this share of them does not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]
