"""One side of a comparison: a tree, its interpreter, and launches of it through its own command line."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from harness.records.job import BASE

_GRACE_S = 15.0  # a run that was told to end writes down what it has


class SideError(Exception):
    """A side that cannot be measured at all; `side` says which, and `code` is what a gate ends with.

    Without base there is no baseline: 4. Head says by its own exit code what is wrong: 2 is the command, 4 the machine;
    anything else is a head that is broken: 3.
    """

    def __init__(self, side: str, message: str, exit_status: int | None = None) -> None:
        super().__init__(message)
        self.side = side
        self.code = 4 if side == BASE else exit_status if exit_status in (2, 4) else 3


@dataclass(kw_only=True, slots=True)
class Side:
    """A tree that can be measured. `words` and `config_dir`: of the command, the same for both sides."""

    name: str  # base | head
    revision: str  # as it was asked for
    commit: str
    dirty: bool
    tree: Path
    python: str
    words: Sequence[str]
    config_dir: str | None
    cells: list[str] = field(default_factory=list)  # ids of the suite's, in plan order
    suite: str = ""
    seed: int = 0
    device_kind: str = ""
    is_current: bool = False  # whether it knows `cells=`, `reports_dir=null` and turns, which came together

    def prepare(self) -> None:
        """Find out what its suite is.

        Raises:
            SideError: it does not start, or has no such suite.
        """
        file = self._ask("-c", "import harness; print(harness.__file__)").strip()
        if not Path(file).resolve().is_relative_to(self.tree.resolve()):
            raise SideError(self.name, f"{self}: Python takes harness from {file}, expected one under {self.tree}")
        planned = self._json(*self._harness("plan"), "--json")
        config = yaml.safe_load(self._ask(*self._harness("plan"), "--cfg", "job"))
        self.cells = [str(one["cell_id"]) for one in planned["cells"]]
        self.suite, self.seed = str(planned["suite"]), int(planned["seed"])
        self.device_kind = str(planned["device"]["kind"])
        self.is_current = isinstance(config, dict) and "cells" in config
        if not self.cells:
            raise SideError(self.name, f"{self}: its suite {self.suite} has no cell to measure")

    def __str__(self) -> str:
        return f"{self.name} {self.revision} ({self.commit[:12]}{' with changes' if self.dirty else ''})"

    def start(
        self, cells: Sequence[str], folder: Path, words: Sequence[str], variables: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """Begin to measure these cells in this order, once, in fresh processes. Their output: folder/log.

        words: overrides for this launch. A side that is not current measures all cells, in its own order.
        """
        words = [*words, "fresh=true", "protocol.launches=1", f"results_dir={_quoted(str(folder))}"]
        if self.is_current:
            words += ["reports_dir=null", f"cells=[{','.join(map(_quoted, cells))}]"]
        else:
            words += [f"reports_dir={_quoted(str(folder / 'pages'))}"]
        folder.mkdir(parents=True)
        with (folder / "log").open("wb") as log:
            return subprocess.Popen(
                [self.python, *self._harness("run"), *words, "-q"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**self._environment(), **variables},
                start_new_session=True,  # Ctrl-C is for us; we end it in order
            )

    def _harness(self, verb: str) -> list[str]:
        config_dir = ["--config-dir", self.config_dir] if self.config_dir else []
        return ["-m", "harness", verb, *self.words, *config_dir]

    def _environment(self) -> Mapping[str, str]:
        """Ours, but that Python takes harness and engine from the tree, and not from the folder that we stand in.

        On a CPU a launch has one thread, so that its CPU time is that of its work and not of threads that wait.
        """
        paths = os.pathsep.join([str(self.tree), *filter(None, [os.environ.get("PYTHONPATH")])])
        one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} if self.device_kind == "cpu" else {}
        return {**one_thread, **os.environ, "PYTHONPATH": paths, "PYTHONSAFEPATH": "1"}

    def _ask(self, *args: str) -> str:
        done = subprocess.run(
            [self.python, *args], capture_output=True, text=True, env=self._environment(), stdin=subprocess.DEVNULL
        )
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
            said = next((line for line in lines if line.startswith("error: ")), lines[-1]).removeprefix("error: ")
            raise SideError(self.name, f"{self} cannot be measured: {said}", done.returncode)
        return done.stdout

    def _json(self, *args: str) -> dict[str, Any]:
        try:
            document = json.loads(self._ask(*args))
            if isinstance(document, dict):
                return document
        except ValueError:
            pass
        raise SideError(self.name, f"{self} cannot be measured: its plan is no JSON object")


def _quoted(word: str) -> str:
    """As Hydra's grammar takes any text."""
    escaped = word.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def end(process: subprocess.Popen[bytes]) -> None:
    """Where we are interrupted while it runs: it keeps its rounds and goes; else it has gone already."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_S)
    if process.poll() is None:
        process.kill()
        process.wait()
