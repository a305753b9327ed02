"""Whether a backend keeps memory that it should give back: then later requests are not measured under equal terms."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

# Allocators grow now and then. What grows by this much in the usual round, after warm-up, is kept on purpose.
MOST_GROWTH_BYTES = 2**20
LEAST_ROUNDS = 3


def warnings_of(resident_bytes: Sequence[int], allocated_bytes: Sequence[int | None]) -> list[str]:
    """One for each kind of memory that grows by more than 1 MiB in the median round; [] for under three rounds.

    resident_bytes: by how much this process grew during each round. allocated_bytes: each round's peak on the device;
    rounds of a cell do the same work, so their peaks differ by what was not given back.
    """
    on_device = [after - before for before, after in pairwise(peak for peak in allocated_bytes if peak is not None)]
    found = []
    for where, growth in (("the host's", resident_bytes), ("the device's", on_device)):
        if len(growth) >= LEAST_ROUNDS and (usual := median(growth)) > MOST_GROWTH_BYTES:
            found.append(f"a leak: {where} memory grows by {usual / 2**20:.3g} MiB a request")
    return found
