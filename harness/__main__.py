"""python -m harness VERB ..."""

import io
import os
import sys

from harness.cli import main


def entry() -> int:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a locale without UTF-8 costs a character, never the run
    code = main(sys.argv[1:])
    try:
        sys.stderr.flush()
    except OSError:  # its reader has gone: Python's own last flush would turn the exit code into 120
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    return code


if __name__ == "__main__":
    sys.exit(entry())
