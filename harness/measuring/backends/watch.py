"""What can be seen of a request from outside another library's model: when its modules run, and how often."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

DENOISE, _CANVAS = "denoise", "canvas"


@dataclass(slots=True)
class Watch:
    """When each model call began and each canvas was on the host. On CUDA calls are marked by events: no waiting."""

    device: torch.device
    marks: list[tuple[str, Any]] = field(default_factory=list)
    canvas_s: list[float] = field(default_factory=list)
    began_s: float = 0.0

    def begin(self) -> None:
        self.began_s = time.perf_counter()
        self.mark("begin")

    def mark(self, kind: str) -> None:
        self.marks.append((kind, self._now()))

    def canvas(self) -> None:
        self.canvas_s.append(time.perf_counter() - self.began_s)
        self.mark(_CANVAS)

    def counts(self, kind: str) -> int:
        return sum(1 for one, _ in self.marks if one == kind)

    def step_s(self, kind: str) -> tuple[float, ...]:
        """From each such call to what comes next: its sampling and bookkeeping are part of a step."""
        pairs = zip(self.marks, self.marks[1:], strict=False)
        return tuple(_between(begin, end) for (one, begin), (_, end) in pairs if one == kind)

    def since_begin_s(self) -> list[float]:
        """Of every mark."""
        return [_between(self.marks[0][1], now) for _, now in self.marks]

    def steps_of_canvases(self) -> list[int]:
        """Denoise calls of each canvas."""
        steps, count = [], 0
        for kind, _ in self.marks:
            count += kind == DENOISE
            if kind == _CANVAS:
                steps.append(count)
                count = 0
        return steps

    def _now(self) -> Any:
        if self.device.type == "cpu":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def _between(begin: Any, end: Any) -> float:
    if isinstance(begin, float):
        return float(end - begin)
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


@contextmanager
def hooked(*calls: tuple[torch.nn.Module, Callable[[], None]]) -> Iterator[None]:
    """Each function is called whenever its module is about to run."""
    handles = [module.register_forward_pre_hook(lambda *_, mark=mark: mark()) for module, mark in calls]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
