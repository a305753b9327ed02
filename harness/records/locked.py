"""One process at a time changes the files of a folder."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.records.store import StoreError

WAIT_S = 10.0
_POLL_S = 0.05


@contextmanager
def locked(folder: Path, wait_s: float = WAIT_S) -> Iterator[None]:
    """Holds the folder's own lock, so no file of ours lies there; the system lets go of it when the process ends.

    Raises:
        StoreError: the folder cannot be made or locked, or another process holds it for longer than wait_s.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise StoreError(f"{folder}: cannot be written: {error.strerror}") from None
    try:
        _wait(descriptor, folder, time.monotonic() + wait_s)
        yield
    finally:
        os.close(descriptor)


def _wait(descriptor: int, folder: Path, end_s: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end_s:
                raise StoreError(f"{folder}: another process is changing it; try again when it has ended") from None
            time.sleep(_POLL_S)
        except OSError as error:
            raise StoreError(f"{folder}: cannot be locked: {error.strerror}") from None
