"""Run by test_telemetry.py in a process that loads the fake NVML: measures a tiny plan, or prints what NVML tells.

watched_run.py run FOLDER WORDS...     into FOLDER; the file in CANVASBENCH_FAKE_WHILE goes away in the middle of it
watched_run.py worker                  is the worker of such a run: as in earnest, but energy windows may be short
watched_run.py look WORDS...           prints what there is, and which GPUs each CUDA_VISIBLE_DEVICES leaves, as JSON
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from harness.measuring import cell, environment, worker
from harness.measuring.launch import inline
from harness.measuring.telemetry import nvml
from harness.spec import check

TINY = ("backend=fake", "device=h100", "axes.batch_size=[1]", "axes.block_length=[16]", "axes.num_steps=[2]")
TIMES = ("protocol.warmup_rounds=1", "protocol.rounds=3", "protocol.counters=false")
_CHANGE_AFTER = 3  # rounds, thrown away or not


def allow_short_windows() -> None:
    check.LEAST_ENERGY_WINDOW_S = 0.1
    cell.REPEATS_S = 0.1


def work() -> None:
    allow_short_windows()
    worker.main()


def run(folder: str, *words: str) -> None:
    from test_supervisor import Silent

    from harness.measuring.runner import Supervisor
    from harness.measuring.telemetry import sampler
    from harness.measuring.telemetry.conditions import Conditions
    from harness.spec.plan import build, identified
    from harness.spec.suite import compose

    answered, during = 0, sampler.Telemetry.during

    def counted(telemetry: sampler.Telemetry, begin_s: float, end_s: float) -> Conditions:
        nonlocal answered
        answered += 1
        seen = during(telemetry, begin_s, end_s)
        if answered == _CHANGE_AFTER and "CANVASBENCH_FAKE_WHILE" in os.environ:
            Path(os.environ["CANVASBENCH_FAKE_WHILE"]).unlink()
        return seen

    sampler.Telemetry.during = counted  # type: ignore[method-assign]
    allow_short_windows()
    inline._WORKER = (__file__, "worker")
    sampler.IDLE_S = 0.2
    sampler.PERIOD_S = 0.02  # on a busy machine some samples come late; one in each round must not
    request_s = () if any(word.startswith("options.request_s=") for word in words) else ("options.request_s=0.5",)
    words = (*TINY, *TIMES, *request_s, *words)
    plan = identified(build(compose(list(words), backends=["fake"])), {})
    here = environment.collect()
    Supervisor(plan=plan, words=words, run_dir=Path(folder), environment=here, progress=Silent()).run()


def look(*words: str) -> None:
    found: dict[str, Any] = {"environment": environment.collect().identity["gpu"]}
    try:
        with nvml.opened() as library:
            found["gpus"] = [
                {
                    "uuid": gpu.uuid,
                    "is_mig": gpu.is_mig,
                    "memory": gpu.memory(),
                    "power_instant_w": gpu.read("power_instant_w")[0],
                    "capabilities": {name: [one.status, one.reason] for name, one in gpu.capabilities.items()},
                }
                for gpu in nvml.visible(library)
            ]
            found["left_by"] = {
                word: [gpu.uuid for gpu in nvml.visible(library, {"CUDA_VISIBLE_DEVICES": word})] for word in words
            }
    except nvml.NoNvml as why:
        found["no_nvml"] = str(why)
    print(json.dumps(found))


if __name__ == "__main__":
    {"run": run, "look": look, "worker": work}[sys.argv[1]](*sys.argv[2:])
