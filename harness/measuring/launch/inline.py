"""Workers as children of this process, one at a time."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[3]  # where harness/ lies, in a checkout and in site-packages alike
_WORKER = ("-m", "harness.measuring.worker")


class Silence(Exception):
    """The worker said nothing until the deadline."""


class InlineWorker:
    """One worker process; what it prints goes to the log."""

    def __init__(self, order: dict[str, Any], log: Path) -> None:
        paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, *_WORKER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(paths),
                    "PYTHONUNBUFFERED": "1",
                    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # NVML's order, so that the GPU watched is the GPU used
                },
                start_new_session=True,  # Ctrl-C reaches the supervisor alone
            )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._stdout, selectors.EVENT_READ)
        self._pending = b""
        self._send(json.dumps(order))

    @property
    def pid(self) -> int:
        return self._process.pid

    def next_event(self, timeout_s: float) -> dict[str, Any] | None:
        """The next event, or None when the worker has ended.

        Raises:
            Silence: nothing came for so long.
        """
        while b"\n" not in self._pending:
            if not self._selector.select(timeout_s):
                raise Silence
            chunk = os.read(self._stdout.fileno(), 65_536)
            if not chunk:
                return None  # half a line at the end is an event that did not happen
            self._pending += chunk
        line, self._pending = self._pending.split(b"\n", 1)
        event: dict[str, Any] = json.loads(line)
        return event

    def ask_to_stop(self) -> None:
        """End after the group that is being measured."""
        self._send("stop")

    def answer(self, document: dict[str, Any]) -> None:
        """What it asked for with its last event."""
        self._send(json.dumps(document))

    def end(self, grace_s: float = 0.0) -> int:
        """Wait so long for it to end by itself, then kill it; the exit status is negative for a signal."""
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
        status = self._process.wait()
        self._selector.close()
        self._stdout.close()
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        return status

    def _send(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has died; next_event says so
            self._stdin.write(line.encode() + b"\n")
            self._stdin.flush()
