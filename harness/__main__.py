"""python -m harness VERB ..."""

import sys

from harness.cli import main


def entry() -> int:
    """The console script."""
    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(entry())
