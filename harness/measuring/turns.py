"""Two processes that measure in turn: while one does a request, the other waits.

For `gate --base REV` on a CPU, where base and head are loaded at once: each request of one is followed by the same
request of the other, so that whatever a shared machine does, it does to both. A turn is a byte in the FIFO of whose
turn it is. The environment variable CANVASBENCH_TURNS holds the paths of our FIFO and of the other's.
"""

from __future__ import annotations

import contextlib
import os
import select
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "CANVASBENCH_TURNS"
_LIMIT_S = 120.0  # then the other has died, or is at something else, and we go on alone
_ENDLESS = b"." * 4096  # turns for whoever stays; a FIFO holds so many


class Turns:
    """Ours and the other's FIFO."""

    def __init__(self, own: str, other: str) -> None:
        # for reading and writing, so that neither opening one nor an end of the other blocks or fails
        self._own, self._other = (os.open(path, os.O_RDWR | os.O_NONBLOCK) for path in (own, other))
        self._alone = False

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Wait for our turn, and give it to the other after the block."""
        if not self._alone and select.select([self._own], [], [], _LIMIT_S)[0]:
            os.read(self._own, 1)
        else:
            self._alone = True
        try:
            yield
        finally:
            _give(self._other, b".")


class Referee:
    """Who makes two processes take turns. It has to say which of them begins, and when one has ended."""

    def __init__(self, folder: Path, names: tuple[str, str]) -> None:
        """The first name begins."""
        self._paths = {name: folder / name for name in names}
        for path in self._paths.values():
            os.mkfifo(path)
        self._fifos = {name: os.open(path, os.O_RDWR | os.O_NONBLOCK) for name, path in self._paths.items()}
        self._other = dict(zip(names, reversed(names), strict=True))
        _give(self._fifos[names[0]], b".")

    def variables(self, name: str) -> dict[str, str]:
        """What the process of this name needs in its environment."""
        return {VARIABLE: os.pathsep.join(str(self._paths[one]) for one in (name, self._other[name]))}

    def ended(self, name: str) -> None:
        """The other need not wait any more."""
        _give(self._fifos[self._other[name]], _ENDLESS)

    def close(self) -> None:
        for fifo in self._fifos.values():
            os.close(fifo)


@contextmanager
def between(first: str, second: str) -> Iterator[Referee]:
    """A referee for two processes of these names."""
    with tempfile.TemporaryDirectory(prefix="canvasbench-turns-") as folder:
        referee = Referee(Path(folder), (first, second))
        try:
            yield referee
        finally:
            referee.close()


def from_environment(environ: Mapping[str, str] = os.environ) -> Turns | None:
    """None: nobody takes turns with this process."""
    own, _, other = environ.get(VARIABLE, "").partition(os.pathsep)
    return Turns(own, other) if other else None


def _give(fifo: int, turns: bytes) -> None:
    with contextlib.suppress(BlockingIOError):  # it holds more of them than anybody will take
        os.write(fifo, turns)
