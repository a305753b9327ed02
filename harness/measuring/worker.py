"""The process that measures: python -m harness.measuring.worker. A supervisor (runner.py) starts and watches it.

It reads one line of JSON, its order, from stdin, and writes events as lines of JSON to stdout. "stop" on stdin ends it
after the group that it is measuring, a line of JSON answers its question how the GPU was during a round or an energy
window, and the end of stdin means that the supervisor is gone, and ends it at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import queue
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from harness.measuring import roof, turns
from harness.measuring.backends import registry
from harness.measuring.backends.base import DeviceBroken
from harness.measuring.jobs import Job
from harness.measuring.session import Session, smallest_ooms
from harness.measuring.telemetry import conditions, energy
from harness.records import store
from harness.records.journal import RoundJournal
from harness.spec import plan as planning
from harness.spec import suite
from harness.spec.config import ConfigError
from harness.spec.floor import compute_dtypes

Answers = queue.SimpleQueue[dict[str, Any]]

_HEARTBEAT_S = 1.0
_PR_SET_PDEATHSIG = 1  # prctl(2)


class Events:
    """Lines of JSON on the stdout that this process was started with; libraries that print get stderr instead."""

    def __init__(self, heartbeat: Path) -> None:
        self._descriptor = os.dup(1)
        os.dup2(2, 1)
        self._heartbeat, self._beaten = heartbeat, 0.0

    def tell(self, event: dict[str, Any]) -> None:
        os.write(self._descriptor, (json.dumps(event) + "\n").encode())
        now = time.monotonic()
        if now - self._beaten > _HEARTBEAT_S:
            self._beaten = now
            self._heartbeat.touch()

    def end(self) -> None:
        self._heartbeat.unlink(missing_ok=True)


def main() -> int:
    """Do what the order says; 0 also after a failure that was told as an event."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's
    with contextlib.suppress(OSError, AttributeError):  # Linux alone has it; elsewhere the end of stdin has to do
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    order = json.loads(sys.stdin.readline())
    run_dir = Path(order["run_dir"])
    events = Events(run_dir / f"heartbeat-{order['worker']}")
    stop = threading.Event()
    answers: Answers = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(stop, answers), daemon=True).start()
    try:
        _work(order, run_dir, events, stop, answers)
    except (ConfigError, store.StoreError) as error:
        events.tell({"event": "fatal", "kind": type(error).__name__, "message": str(error)})
    finally:
        events.end()
    return 0


def _listen(stop: threading.Event, answers: Answers) -> None:
    for line in sys.stdin:
        if line.strip() == "stop":
            stop.set()
        else:
            answers.put(json.loads(line))
    os._exit(1)  # the supervisor is gone


def _observe(order: dict[str, Any], events: Events, answers: Answers) -> conditions.Observe:
    """Ask the supervisor, unless it said at once that it cannot look."""
    if order["unseen"] is not None:
        nothing = conditions.unseen(order["unseen"])
        return lambda begin_s, end_s: nothing

    def ask(begin_s: float, end_s: float) -> conditions.Conditions:
        events.tell({"event": "conditions", "begin_s": begin_s, "end_s": end_s})
        return conditions.from_json(answers.get())

    return ask


def _observe_energy(events: Events, answers: Answers) -> energy.ObserveEnergy:
    def ask(begin_s: float, end_s: float) -> dict[str, Any]:
        events.tell({"event": "energy", "begin_s": begin_s, "end_s": end_s})
        return answers.get()

    return ask


def _work(order: dict[str, Any], run_dir: Path, events: Events, stop: threading.Event, answers: Answers) -> None:
    config = suite.compose(order["words"], config_dir=order["config_dir"], backends=list(registry.BACKENDS))
    plan = planning.build(config)
    by_id = {planned.cell_id: planned for planned in plan.cells}
    journal = RoundJournal(run_dir, order["worker"])
    writer = store.RecordWriter(run_dir, order["worker"])
    backends = registry.create_all(config)
    dtypes = {dtype for planned in plan.cells for dtype in compute_dtypes(planned.cell)}
    if config.protocol.roofs:
        roof.keep(run_dir, order["environment_id"], config.device.kind, dtypes)
    session = Session(
        plan=plan,
        run_id=run_dir.name,
        worker=order["worker"],
        environment_id=order["environment_id"],
        backends=backends,
        writer=writer,
        journal=journal,
        tell=events.tell,
        observe=_observe(order, events, answers),
        observe_energy=_observe_energy(events, answers),
        no_energy=order["no_energy"],
        turns=turns.from_environment(),
        smallest_oom=smallest_ooms(store.read_records(run_dir, rounds=False).final.values()),
    )
    for job in order["jobs"]:
        if stop.is_set():
            break
        members = tuple((by_id[cell_id], attempt) for cell_id, attempt in job["members"])
        try:
            session.measure(Job(launch=job["launch"], members=members))
        except DeviceBroken:
            return  # the journal stays: the supervisor keeps its rounds and goes on in a fresh process
        if session.is_spent:
            break
    writer.close()
    journal.close()


if __name__ == "__main__":
    sys.exit(main())
