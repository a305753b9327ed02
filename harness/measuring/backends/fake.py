"""A backend without a model: it answers at once with times that follow from the cell alone.

For tests and for trying the harness. Its records say `backend: fake` and reports mark them as simulated.
Its block and step times are nanoseconds, which fit into any request.
`options.request_s` makes every request really take so long. `options.fail` makes every cell whose batch is at least
`options.fail_batch` (1) end badly: oom, host_memory, unsupported, error, hang, exit, kill or
device; or answer badly: few_tokens or backwards (its events run so); or leak 4 MiB a request. With
`options.fail_stage` (warmup, measure, energy) it does so in that stage alone.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from engine.config import ModelConfig
from harness.measuring.backends.base import Answer, DeviceBroken, OutOfMemory, Unsupported
from harness.records.types import Cell
from harness.spec.config import DeviceConfig, ModelSource

_STEP_S = 1e-9


class FakeBackend:
    _stage = ""

    def load(self, source: ModelSource, shape: ModelConfig, device: DeviceConfig, cell: Cell, seed: int) -> None:
        self._layers = shape.num_layers
        self._kept: list[bytes] = []

    def prepare(self, cell: Cell, texts: tuple[str, ...], seed: int) -> int:
        return seed

    def generate(self, cell: Cell, prepared: int) -> Answer:
        if seconds := float(cell.options.get("request_s", 0)):
            time.sleep(seconds)
        is_hit = cell.batch_size >= int(cell.options.get("fail_batch", 1))
        is_hit &= cell.options.get("fail_stage", self._stage) == self._stage
        fail = cell.options.get("fail") if is_hit else None
        _fail(fail)
        if fail == "leak":
            self._kept.append(bytes([1]) * 2**22)  # zeros would take no memory
        if cell.block_length is None or cell.num_steps is None:
            block_steps = [1] * cell.output_tokens
            passes = {"prefill": 1, "denoise": 0, "commit": 0, "decode": cell.output_tokens - 1}
            steps: tuple[tuple[int, ...], ...] = ((),) * cell.batch_size
            raw = cell.output_tokens
        else:
            num_canvases = -(-cell.output_tokens // cell.block_length)
            block_steps = [cell.num_steps] * num_canvases
            passes = {"prefill": 1, "denoise": sum(block_steps), "commit": num_canvases - 1, "decode": 0}
            steps = (tuple(block_steps),) * cell.batch_size
            raw = num_canvases * cell.block_length
        step_s = _STEP_S * (1 + 0.1 * cell.batch_size)
        block_s = [step_s * sum(block_steps[: i + 1]) for i in range(len(block_steps))]
        answer = Answer(
            device_s=None,
            ttfb_s=block_s[0],
            block_s=tuple(block_s),
            step_s=(step_s,) * (passes["denoise"] + passes["decode"]),
            passes=passes,
            steps_per_canvas=steps,
            useful_tokens=(cell.output_tokens,) * cell.batch_size,
            raw_tokens=raw * cell.batch_size,
            stop_reason="length",
            resolved={"backend": "fake"},
            missing={
                "device_s": "the fake backend has no device",
                "peak_allocated_bytes": "the fake backend allocates nothing",
            },
        )
        return _spoilt(answer, fail)

    def count(self, cell: Cell, prepared: int) -> dict[str, Any]:
        kind = "decode" if cell.block_length is None else "denoise"
        return {"kinds": [kind], "expert_hits": [[1] * self._layers], "entropies_nats": [[0.0] * cell.batch_size]}

    def tokenizer(self) -> None:
        return None

    def mark(self, stage: str, index: int) -> AbstractContextManager[None]:
        self._stage = stage
        return nullcontext()


def _spoilt(answer: Answer, how: object) -> Answer:
    """The answer, wrong in the way that the cell asks for."""
    if how == "few_tokens":
        return replace(answer, useful_tokens=tuple(useful - 1 for useful in answer.useful_tokens))
    if how == "backwards":
        return replace(answer, block_s=answer.block_s[::-1], step_s=tuple(-step for step in answer.step_s))
    return answer


def _fail(how: object) -> None:
    told = "the fake backend was told to"
    if how == "oom":
        raise OutOfMemory(f"{told} run out of memory")
    if how == "host_memory":
        raise MemoryError
    if how == "unsupported":
        raise Unsupported(f"{told} not support this")
    if how == "device":
        raise DeviceBroken(f"{told} break its device")
    if how == "error":
        raise RuntimeError(f"{told} fail")
    if how == "hang":
        time.sleep(1e6)
    if how == "exit":
        os._exit(3)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
