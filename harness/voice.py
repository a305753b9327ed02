"""The one way to the terminal. What a file or a command line says is neither an escape code there, nor a direction in
which to read, nor a command of a runner of CI.

JSON needs none of this: it escapes what it holds.
"""

from __future__ import annotations

import contextlib
import sys

from harness.records.texts import harmless, inert

_MOST_LINES = 5  # of an error


class Exit(Exception):
    """Ends a verb early with an exit code and a message of one to five lines."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def show(text: str) -> None:
    """What was asked for, on stdout."""
    print(inert(text.removesuffix("\n")))


def say(text: str) -> None:
    """What happens meanwhile, on stderr."""
    with contextlib.suppress(OSError):  # nobody reads stderr any more: that must not end a job
        print(inert(text), file=sys.stderr, flush=True)


def fail(code: int, message: str) -> int:
    """The exit code, with its reason on stderr."""
    print("error: " + "\n".join(harmless(message).split("\n")[:_MOST_LINES] or ["unknown"]), file=sys.stderr)
    return code
