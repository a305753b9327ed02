"""Another process that disturbs a measurement: bursts of work that empties caches, of random length, until stdin ends.

python tools/noisy_neighbour.py SEED
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time

import numpy

LARGE_BYTES = 32_000_000  # more than a core's share of any cache
LONGEST_BURST_S, LONGEST_REST_S = 0.3, 0.1  # short against a run, long against a request


def disturb(seed: int) -> None:
    """Forever: a burst, a rest, each of a length drawn evenly."""
    draw = random.Random(seed)
    large = numpy.zeros(LARGE_BYTES // 8)
    while True:
        end = time.monotonic() + draw.uniform(0, LONGEST_BURST_S)
        while time.monotonic() < end:
            large += 1
        time.sleep(draw.uniform(0, LONGEST_REST_S))


def end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=end_with_stdin, daemon=True).start()
    disturb(int(sys.argv[1]))
