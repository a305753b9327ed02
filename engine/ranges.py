"""Named NVTX ranges: what a profiler's timeline shows of a request, at four levels of detail.

One domain, `canvasbench`; names from [a-z0-9._] with indices in the integer payload, so that profiler filters stay
simple. Everything that NVTX needs is built once, here; a range costs about 0.1 us while no profiler listens.
Payloads are numbers that the host knows anyway: reading one from the device would synchronise.

Levels, set once per process by `set_level`: 0 nothing; 1 requests, canvases, steps; 2 adds the operations outside the
layer stack; 3 adds layers and what is in them. While torch.compile traces, ranges do nothing, because a range inside a
compiled function would break its graph: put ranges around compiled callables instead.

A listener of our own (`heard_by`) hears every range at every level in the profiler's place: engine/split.py times them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch

try:
    import nvtx
except ImportError:  # profiling is optional; the engine runs without it
    nvtx = None

DOMAIN_NAME = "canvasbench"
# Category and its colour (ARGB). Tools number categories in order of registration: keep this one.
_COLORS = {"harness": 0xFF888888, "phase": 0xFF3B78C2, "layer": 0xFF4F9D69, "op": 0xFFE08E45, "sync": 0xFFC0392B}
CATEGORIES = tuple(_COLORS)


class Listener(Protocol):
    def enter(self, name: str) -> Any:
        """A range begins; gives what `leave` gets at its end."""

    def leave(self, token: Any) -> None: ...


_level = 1
_listener: Listener | None = None
_domain: Any = nvtx.get_domain(DOMAIN_NAME) if nvtx is not None else None
_category_ids = {name: _domain.get_category_id(name) for name in CATEGORIES} if _domain is not None else {}


def set_level(level: int) -> None:
    """Choose how much detail this process emits, 0 to 3. Call it between requests, never inside a range.

    Raises:
        ValueError: a level other than 0, 1, 2, 3.
    """
    global _level
    if level not in (0, 1, 2, 3):
        raise ValueError(f"range level is {level!r}, expected 0, 1, 2 or 3")
    _level = level


def is_live() -> bool:
    """Whether a tool is listening to our domain. Under a profiler, check this: a tool that is too old gets nothing."""
    return nvtx is not None and type(_domain).__name__ == "Domain"


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Inside, ranges of every level tell the listener, and no profiler.

    Raises:
        ValueError: somebody listens already.
    """
    global _listener
    if _listener is not None:
        raise ValueError("ranges are being listened to already, expected one listener at a time")
    _listener = listener
    try:
        yield
    finally:
        _listener = None


class _Heard:
    """What a range is while a listener hears it."""

    __slots__ = ("_listener", "_name", "_token")

    def __init__(self, listener: Listener, name: str) -> None:
        self._listener, self._name = listener, name

    def __enter__(self) -> None:
        self._token = self._listener.enter(self._name)

    def __exit__(self, *exception: object) -> None:
        self._listener.leave(self._token)


class _Silence:
    """What a range is while nobody listens, or the level hides it."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exception: object) -> None:
        pass


_SILENCE = _Silence()


class Range:
    """One named range, reused for every occurrence: `with LAYER(index): ...`, or `with EMBED(): ...`."""

    __slots__ = ("_attributes", "level", "name")

    def __init__(self, name: str, category: str, level: int) -> None:
        self.name = name
        self.level = level
        self._attributes: Any = None  # stays None while no tool listens
        if _domain is not None:
            self._attributes = _domain.get_event_attributes(
                message=name, color=_COLORS[category], category=_category_ids[category]
            )

    def __call__(self, payload: int | None = None) -> AbstractContextManager[None]:
        if torch.compiler.is_compiling():
            return nullcontext()  # made while tracing, which is what torch.compile can follow
        if _listener is not None:
            return _Heard(_listener, self.name)
        if self._attributes is None or self.level > _level:
            return _SILENCE
        self._attributes.payload = payload
        return self

    def __enter__(self) -> None:
        _domain.push_range(self._attributes)

    def __exit__(self, *exception: object) -> None:
        _domain.pop_range()


# Level 1: the request and its phases. Payloads: request number, prompt tokens, canvas number, tokens, step from 0,
# token number from 1 (the prefill gave token 0).
REQUEST = Range("request", "harness", 1)
PREFILL = Range("prefill", "phase", 1)
CANVAS = Range("canvas", "phase", 1)
COMMIT = Range("commit", "phase", 1)
CANVAS_INIT = Range("canvas.init", "phase", 1)
DENOISE_STEP = Range("denoise.step", "phase", 1)
STOP_CHECK = Range("stop.check", "sync", 1)  # holds the host's read of the stop flags: on a GPU it absorbs the wait
CANVAS_FINISH = Range("canvas.finish", "phase", 1)
DECODE_STEP = Range("decode.step", "phase", 1)

# Level 2: operations outside the layer stack.
EMBED = Range("embed", "op", 2)
SELFCOND = Range("selfcond", "op", 2)
FINAL_NORM = Range("final_norm", "op", 2)
LM_HEAD = Range("lm_head", "op", 2)
SOFTCAP = Range("softcap", "op", 2)
SAMPLE = Range("sample", "op", 2)
ENTROPY = Range("entropy", "op", 2)
ACCEPT = Range("accept", "op", 2)
RENOISE = Range("renoise", "op", 2)

# Level 3: inside the layer stack; the payload is the layer's index.
LAYER = Range("layer", "layer", 3)
ATTN_SLIDING = Range("attn.sliding", "op", 3)
ATTN_FULL = Range("attn.full", "op", 3)
MLP = Range("mlp", "op", 3)
ROUTER = Range("router", "op", 3)
EXPERTS = Range("experts", "op", 3)
EXPERTS_DISPATCH = Range("experts.dispatch", "op", 3)
EXPERTS_GEMM = Range("experts.gemm", "op", 3)
EXPERTS_COMBINE = Range("experts.combine", "op", 3)
