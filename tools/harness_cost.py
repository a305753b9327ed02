"""What measuring itself costs: processor time a round part by part, of the GPU's watcher, and of an idle supervisor.

And what the engine's ranges take of a step while no profiler listens.

    make bench                      or: python tools/harness_cost.py

A round is what a session does for it in earnest, with its own journal and records on the disk: only `generate` is
replaced, by an answer that the backend gave before. So everything but that call is here, `prepare` included.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import timeit
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import numpy as np
import torch

from engine import api, ranges
from harness.measuring import cell as cells
from harness.measuring import host_memory, self_check
from harness.measuring.backends import registry
from harness.measuring.jobs import due_jobs
from harness.measuring.session import Session
from harness.measuring.telemetry import conditions, sampler
from harness.records.journal import RoundJournal
from harness.records.store import RecordWriter
from harness.spec import plan as planning
from harness.spec.suite import compose

ROOT = Path(__file__).parents[1]
ROUNDS, REPEATS = 3, 60  # of every cell of the smoke suite
MOST_ROUND_S, MOST_WATCHER_SHARE, MOST_IDLE_SHARE, MOST_RANGES_SHARE = 200e-6, 0.005, 0.0001, 0.002
WATCHED_S, IDLE_S = 10.0, 10.0
CACHE_BYTES = 64 * 2**20  # more than the caches of most machines
PARTS: tuple[tuple[str, Any, str], ...] = (
    ("collecting garbage", gc, "collect"),
    ("which prompts", cells.LiveCell, "_asked"),
    ("peak memory: reset", host_memory, "reset_peak"),
    ("peak memory: read", host_memory, "peak_bytes"),
    ("grading", cells, "graded"),
    ("self-check", self_check, "broken"),
    ("journal", RoundJournal, "append"),
)


class Spent:
    """Processor seconds of named parts; of `generate` alone until all are wanted, because asking takes time itself."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.wants_all = False

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            if not self.wants_all and name != "generate":
                return function(*args, **named)
            begun = process_time()
            try:
                return function(*args, **named)
            finally:
                self.seconds[name] += process_time() - begun

        return call

    @contextmanager
    def watching(self) -> Iterator[None]:
        """PARTS can be timed while the block runs."""
        before = [getattr(owner, name) for _, owner, name in PARTS]
        try:
            for (part, owner, name), function in zip(PARTS, before, strict=True):
                setattr(owner, name, self.timed(part, function))
            yield
        finally:
            for (_, owner, name), function in zip(PARTS, before, strict=True):
                setattr(owner, name, function)


class Replayed:
    """A backend whose `generate` gives what it gave before to the same cell."""

    def __init__(self, backend: Any, spent: Spent, flushes_caches: bool) -> None:
        self.load, self.tokenizer, self.mark = backend.load, backend.tokenizer, backend.mark
        self.prepare = spent.timed("prepare (the backend's)", backend.prepare)
        self._backend = backend
        self._rubbish = np.zeros(CACHE_BYTES if flushes_caches else 0, dtype=np.int8)
        self.generate = spent.timed("generate", self._generate)

    def _generate(self, cell: Any, prepared: Any) -> Any:
        self._rubbish += 1  # as a request does with the caches
        ids = getattr(getattr(prepared, "prompts", None), "ids_BT", np.zeros(0))
        key = (cell.cell_id, tuple(ids.flatten().tolist()))
        if key not in _ANSWERS:
            _ANSWERS[key] = self._backend.generate(cell, prepared)
        return _ANSWERS[key]


_ANSWERS: dict[tuple[str, tuple[int, ...]], Any] = {}


def cost_of_rounds(*words: str, flushes_caches: bool = False) -> dict[str, float]:
    """Part -> processor seconds a round, the median over groups that are measured again and again."""
    fixed = (f"protocol.rounds={ROUNDS}", "protocol.warmup_rounds=0", "protocol.counters=false")
    plan = planning.build(compose(["suite=smoke", *fixed, *words], backends=list(registry.BACKENDS)))
    spent = Spent()
    backend = Replayed(registry.create(plan.config.backend), spent, flushes_caches)
    unseen = conditions.unseen("a CPU")
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("wb") as nobody, spent.watching():
        session = Session(
            plan=plan,
            run_id="cost",
            worker="cost",
            environment_id="cost",
            backends={plan.config.backend: backend},
            writer=RecordWriter(Path(folder), "cost"),
            journal=RoundJournal(Path(folder), "cost"),
            tell=spent.timed("events", lambda event: os.write(nobody.fileno(), (json.dumps(event) + "\n").encode())),
            observe=lambda begin_s, end_s: unseen,
        )
        session.writer.append = spent.timed("records", session.writer.append)  # type: ignore[method-assign]
        (job,) = due_jobs(plan, {})
        session.measure(job)  # once for the answers
        groups: list[Counter[str]] = []
        for spent.wants_all in (False, True):
            for _ in range(REPEATS):
                spent.seconds.clear()
                begun = process_time()
                session.measure(job)
                spent.seconds["whole"] = process_time() - begun - spent.seconds.pop("generate")
                groups.append(spent.seconds.copy())
        session.writer.close()
        session.journal.close()
    num_rounds = ROUNDS * len(job.members)
    found = {part: median(g[part] for g in groups[REPEATS:]) / num_rounds for part in groups[-1] if part != "whole"}
    found["all else"] = median(g["whole"] for g in groups[:REPEATS]) / num_rounds - sum(found.values())
    return found


def print_rounds(title: str, *words: str, flushes_caches: bool = False) -> float:
    """A table of the parts for three batches; the sum of the middle one."""
    batches = (1, 4, 16)
    columns = [cost_of_rounds(f"axes.batch_size=[{b}]", *words, flushes_caches=flushes_caches) for b in batches]
    print(f"\n{title}, us of processor time a round   " + "".join(f"{f'batch {b}':>10}" for b in batches))
    for part in sorted(columns[1], key=lambda part: -columns[1][part]):
        print(f"  {part:{len(title) + 34}}" + "".join(f"{1e6 * column.get(part, 0):10.1f}" for column in columns))
    sums = [sum(column.values()) for column in columns]
    print(f"  {'sum':{len(title) + 34}}" + "".join(f"{1e6 * one:10.1f}" for one in sums))
    return sums[1]


class Counted:
    """How often ranges of each name begin."""

    def __init__(self) -> None:
        self.names: Counter[str] = Counter()

    def enter(self, name: str) -> None:
        self.names[name] += 1

    def leave(self, token: None) -> None:
        pass


def print_ranges(decoding: str, kind: str) -> float:
    """What the ranges take of a pass of the preset `small` at batch 1, no tool attached; the share of those at level 1.

    A pass's ranges are what a request of one more pass begins. Those that the level hides are asked for all the same.
    """
    model, prompt_BT = api.load("small"), torch.randint(0, 256, (1, 64))
    how: dict[str, dict[str, Any]] = {
        "block_diffusion": {"output_tokens": 64, "confidence": 0.0},  # asks each step whether it may stop; it may not
        "autoregressive": {"eos": "ignore"},
    }

    def request(passes: int) -> api.Generation:
        length = {"num_steps": passes} if decoding == "block_diffusion" else {"output_tokens": passes + 1}
        return api.generate(model, prompt_BT, decoding=decoding, **how[decoding], **length)

    heard = []
    for passes in (8, 9):
        counted = Counted()
        with ranges.heard_by(counted):
            request(passes)
        heard.append(counted.names)
    levels = {one.name: one.level for one in vars(ranges).values() if isinstance(one, ranges.Range)}
    num_ranges = Counter(levels[name] == 1 for name in (heard[1] - heard[0]).elements())
    cost_s = min(timeit.repeat("with begin(1): pass", globals={"begin": ranges.DENOISE_STEP}, number=10_000)) / 10_000
    pass_s = median(second for _ in range(5) for second in request(48).step_s)
    shown, hidden = (num * cost_s / pass_s for num in (num_ranges[True], num_ranges[False]))
    print(
        f"ranges of a {kind} (small, no tool): {num_ranges[True]} at level 1, {shown:.3%} of {1e3 * pass_s:.1f} ms, at "
        f"most {MOST_RANGES_SHARE:.1%}; {num_ranges[False]} hidden ones, {hidden:.3%}; {1e9 * cost_s:.0f} ns each"
    )
    return shown


def cpu_s(pid: int | str) -> float:
    """Processor seconds of a process so far, all its threads (Linux: schedstat)."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def idle_share() -> float:
    """Of one core, what the supervisor takes while its worker is in a long request."""
    with tempfile.TemporaryDirectory() as folder:
        words = ("suite=smoke", "backend=fake", "axes.batch_size=[1]", "axes.num_steps=[1]", "options.request_s=60")
        folders = (f"results_dir={folder}", f"reports_dir={folder}")
        command = [sys.executable, "-m", "harness", "run", *words, *folders, "-q"]
        run = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)  # it is interrupted, and would say so
        try:
            while not list(Path(folder).rglob("heartbeat-*")):  # the worker has begun its first request, or is about to
                time.sleep(0.1)
            time.sleep(2)
            before = cpu_s(run.pid)
            time.sleep(IDLE_S)
            return (cpu_s(run.pid) - before) / IDLE_S
        finally:
            run.terminate()
            run.wait()


def watcher_share() -> float:
    """Of one core, what the thread takes that watches a GPU; in a process that loads the fake NVML."""
    with tempfile.TemporaryDirectory() as folder:
        source = ROOT / "tests" / "harness" / "fake_nvml.c"
        library = Path(folder) / "libnvidia-ml.so.1"
        subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", library, source], check=True)
        env = {**os.environ, "LD_LIBRARY_PATH": folder, "CANVASBENCH_FAKE_NVML": "h100"}
        words = [sys.executable, __file__, "watch"]
        done = subprocess.run(words, env=env, check=True, capture_output=True, text=True)
    return float(done.stdout)


def watch() -> float:
    with sampler.watching("cuda") as telemetry:
        if telemetry.why_not is not None:
            raise SystemExit(telemetry.why_not)
        thread = Path(f"/proc/self/task/{telemetry._thread.native_id}/schedstat")
        before = int(thread.read_text().split()[0])
        time.sleep(WATCHED_S)
        return (int(thread.read_text().split()[0]) - before) / 1e9 / WATCHED_S


def main() -> int:
    if sys.argv[1:] == ["watch"]:
        print(watch())
        return 0
    kinds = {"block_diffusion": "denoising step", "autoregressive": "decode pass"}
    in_ranges = max(print_ranges(decoding, kind) for decoding, kind in kinds.items())  # with torch's own threads
    torch.set_num_threads(1)
    round_s = print_rounds("mini")
    print_rounds("mini, with cold caches", flushes_caches=True)
    print_rounds("fake backend", "backend=fake")
    share = watcher_share() if shutil.which("gcc") else None
    idle = idle_share()
    watched = "not measured: no gcc for the fake NVML" if share is None else f"{share:.2%} of a core, at most 0.5 %"
    print(f"\na round (mini, batch 4): {1e3 * round_s:.3f} ms, at most {1e3 * MOST_ROUND_S:g} ms")
    print(f"watching a GPU: {watched}")
    print(f"idle supervisor: {idle:.4%} of a core, at most {MOST_IDLE_SHARE:.2%}")
    too_much = round_s > MOST_ROUND_S or (share or 0) > MOST_WATCHER_SHARE or idle > MOST_IDLE_SHARE
    return int(too_much or in_ranges > MOST_RANGES_SHARE)


if __name__ == "__main__":
    sys.exit(main())
