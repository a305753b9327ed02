"""Work on many things alike in as many processes as there are cores: what a large report is made of."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
MOST_PROCESSES = 8
WORTH_IT = 2_000  # cells: below, a second or two is no matter
_MESSAGES = 200  # in which items are handed out: many small ones cost, and few large ones leave cores idle at the end


class Killed(Exception):
    """A process that shared the work did not live to its end."""


def of_each(function: Callable[[Item], Result], items: Sequence[Item], *, is_worth_it: bool) -> Iterator[Result]:
    """function(item) of each item, in their order, each as soon as it and those before it are there.

    Where it is worth it, forked processes share the work: they find all that is in memory as it is, and only their
    results are copied. What function changes elsewhere is lost then.

    Raises:
        Killed: a process was, as the system does when memory ends.
    """
    processes = min(_cores(), MOST_PROCESSES, len(items))
    if not is_worth_it or processes < 2 or not _can_fork():
        yield from map(function, items)
        return
    pool = ProcessPoolExecutor(processes, get_context("fork"), initializer=_begin, initargs=(function, items))
    try:
        yield from pool.map(_nth, range(len(items)), chunksize=1 + len(items) // _MESSAGES)
    except BrokenProcessPool:
        raise Killed(
            "a process that shared the work was killed, perhaps for want of memory; nothing was written"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1


def _can_fork() -> bool:
    """A fork has none of its parent's threads, which torch's pools do not expect."""
    return sys.platform == "linux" and "torch" not in sys.modules


_work: tuple[Callable[[Any], Any], Sequence[Any]]


def _begin(function: Callable[[Any], Any], items: Sequence[Any]) -> None:
    global _work
    _work = function, items
    gc.disable()  # what a process leaves behind goes with it in some seconds
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends its processes


def _nth(number: int) -> Any:
    function, items = _work
    return function(items[number])
