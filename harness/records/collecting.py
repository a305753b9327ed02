"""Python's search for cycles, kept away from what has none: millions of rows, records and summaries."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """While they are made."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def left_out() -> Iterator[None]:
    """While other things are made that do leave cycles behind, such as figures."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
