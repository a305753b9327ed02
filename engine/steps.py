"""One denoising or decode step over static tensors, which a CUDA graph can hold: options graphs=on and graphs=static.

A step reads and writes tensors that stay where they are, takes its lengths from the device, reads nothing on the host
and draws nothing itself: draws are renewed before each step, outside of it. So a graph captured once serves every
request of the same shape and settings. A model keeps one set, until a request of another kind comes, so that no
request's memory holds the buffers of another; `generate(rehearse=True)` captures before a request. `graphs=static` runs
the very function without a graph, on any device: that is what tests compare with the usual path. The capture itself
(`_captured`) has never run: no GPU was at hand.

Stop flags are read after every step: a graph launched before its predecessor's flags are known would be a whole step
too many at the end of each canvas, which is longer than the wait between two launches. Fixed and replayed numbers of
steps are known on the host, and nothing is read.

Legend: B batch, L block length, V vocabulary, S remembered steps, N steps.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

import torch

from engine import ranges
from engine.kernel_step import KERNEL, Draws, sampled
from engine.model import Model
from engine.request import Clock, Request
from engine.sampling import AdaptiveStop, random_canvas, temperatures
from engine.static_cache import StaticCache


def _captured(function: Callable[[], None]) -> Callable[[], None]:
    """The function as a graph. It runs twice before, which compiles its kernels; `begin` resets what that changes."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


class _Static:
    """What both decoders' steps share: the cache, and experts drawn from the same weights as the request's."""

    def __init__(self, model: Model, batch: int, capacity: int) -> None:
        cache = model.new_cache(batch, capacity)
        assert isinstance(cache, StaticCache)
        self.model, self.cache = model, cache
        self.routing = None if model.routing is None else model.routing.copy()

    def _step(self, function: Callable[[], None]) -> Callable[[], None]:
        return _captured(function) if self.model.choices.graphs == "on" else function

    def begin(self) -> StaticCache:
        """A request starts: an empty cache at the old place."""
        self.cache.reset()
        return self.cache

    def _with_own_routing(self, step: Callable[[], None]) -> None:
        """Experts are drawn in tensors that stay, which a graph knows."""
        wanted = self.model.routing
        self.model.routing = self.routing
        try:
            step()
        finally:
            self.model.routing = wanted

    def _in_place(self, step: Callable[[], None]) -> None:
        """One step, for which the request's routing goes on where it was, and goes on from there afterwards."""
        wanted = self.model.routing
        if wanted is not None and self.routing is not None:
            self.routing.take(wanted)
        self._with_own_routing(step)
        if wanted is not None and self.routing is not None:
            wanted.take(self.routing)


class DenoiseSteps(_Static):
    """The steps of one canvas after another."""

    def __init__(self, model: Model, batch: int, capacity: int, request: Request) -> None:
        super().__init__(model, batch, capacity)
        device, shape = model.device, (batch, request.block_length)
        self.entropy_bound = request.entropy_bound
        self.is_replayed = request.replay_steps_BC is not None
        self.canvas_BL, self.argmax_BL = (torch.zeros(shape, dtype=torch.long, device=device) for _ in range(2))
        self.probs_BLV = torch.zeros(*shape, model.config.vocab_size, dtype=model.dtype, device=device)
        self.draws = Draws.of(self.canvas_BL)
        self.schedule_N = torch.ones(request.num_steps, device=device)
        self.taken_1 = torch.zeros(1, dtype=torch.long, device=device)
        self.steps_B = torch.ones(batch, dtype=torch.long, device=device)  # of each row, where they are replayed
        self.frozen_B = torch.zeros(batch, dtype=torch.bool, device=device)
        self.stop: AdaptiveStop | None = None
        if request.adaptive or self.is_replayed:
            self.stop = AdaptiveStop(request.stability, request.confidence)
            self.stop.history_SBL = torch.full((request.stability, *shape), -1, device=device)
        self._with_own_routing(self._capture)

    def _capture(self) -> None:
        self.first = self._step(lambda: self.step(is_conditioned=False))
        self.conditioned = self._step(lambda: self.step(is_conditioned=True))

    def step(self, *, is_conditioned: bool) -> None:
        """canvas_BL, argmax_BL, probs_BLV, frozen_B and what decides about stopping go one step on."""
        x_BLH = self.model.denoised(self.canvas_BL, self.cache, probs_BLV=self.probs_BLV if is_conditioned else None)
        at_1 = self.taken_1.clamp(max=len(self.schedule_N) - 1)
        new = sampled(
            self.model, x_BLH, self.schedule_N.index_select(0, at_1), self.entropy_bound, self.draws, self.probs_BLV
        )
        self.taken_1 += 1
        frozen_B1 = self.frozen_B[:, None]  # rows that have stopped ride along, but keep their tokens
        self.canvas_BL.copy_(torch.where(frozen_B1, self.canvas_BL, new.canvas_BL))
        self.argmax_BL.copy_(torch.where(frozen_B1, self.argmax_BL, new.argmax_BL))
        if self.stop is not None:
            stops_B = self.stop(self.argmax_BL, new.entropy_BL)
            self.frozen_B |= self.steps_B <= self.taken_1 if self.is_replayed else stops_B

    def canvas(self, request: Request, clock: Clock, index: int) -> tuple[torch.Tensor, list[int], int]:
        """One canvas from noise to tokens: (B, L) argmax of each row's last step, steps per row, passes executed."""
        vocab, batch = self.model.config.vocab_size, len(self.canvas_BL)
        with ranges.CANVAS_INIT(request.block_length):
            planned = None if request.replay_steps_BC is None else request.replay_steps_BC[:, index]
            self._begin_canvas(request, planned)
            frozen, row_steps = [False] * batch, [0] * batch
            planned_steps = None if planned is None else planned.tolist()
        for step in range(request.num_steps):
            with ranges.DENOISE_STEP(step):
                begin = clock.now()
                row_steps = [n + (not stopped) for n, stopped in zip(row_steps, frozen, strict=True)]
                self.draws.renew(vocab, request.generator)
                self._in_place(self.first if step == 0 else self.conditioned)
                with ranges.STOP_CHECK():
                    if planned_steps is not None:
                        frozen = [steps <= step + 1 for steps in planned_steps]
                    elif self.stop is not None:
                        frozen = self.frozen_B.tolist()  # the one read of the device in a step
                clock.step_since(begin)
            if all(frozen):
                break
        return self.argmax_BL.clone(), row_steps, step + 1

    def _begin_canvas(self, request: Request, planned_B: torch.Tensor | None) -> None:
        batch, length = self.canvas_BL.shape
        device, vocab = self.canvas_BL.device, self.model.config.vocab_size
        self.canvas_BL.copy_(random_canvas(batch, length, vocab, device, request.generator))
        self.schedule_N.copy_(temperatures(request.num_steps, request.t_min, request.t_max, device))
        self.taken_1.zero_()
        self.frozen_B.zero_()
        if planned_B is not None:
            self.steps_B.copy_(planned_B)
        if self.stop is not None and self.stop.history_SBL is not None:
            self.stop.history_SBL.fill_(-1)


class DecodeSteps(_Static):
    """The passes that follow a prefill, one token each."""

    def __init__(self, model: Model, batch: int, capacity: int, request: Request) -> None:
        super().__init__(model, batch, capacity)
        self.temperature = request.temperature
        self.token_B1 = torch.zeros(batch, 1, dtype=torch.long, device=model.device)
        self.race_BV = torch.ones(batch, model.config.vocab_size, device=model.device)  # exponential draws
        self._with_own_routing(self._capture)

    def _capture(self) -> None:
        self.next = self._step(self.step)

    def step(self) -> None:
        """token_B1 goes into the cache and becomes the one behind it."""
        logits_BV = self.model.causal_logits(self.token_B1, self.cache, last=1)[:, 0]
        if self.temperature > 0:
            logits_BV = (logits_BV / self.temperature).softmax(dim=-1) / self.race_BV
        self.token_B1.copy_(logits_BV.argmax(dim=-1, keepdim=True))

    def after(self, ids_B1: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """The likeliest or drawn token behind these, (B, 1)."""
        self.token_B1.copy_(ids_B1)
        if self.temperature > 0:
            self.race_BV.exponential_(generator=generator)
        length = self.cache.length
        self._in_place(self.next)
        self.cache.length = length + 1  # a graph doesn't count on the host
        return self.token_B1.clone()


def denoise_steps(model: Model, batch: int, capacity: int, request: Request) -> DenoiseSteps | None:
    """Those of the request before, if that was like this one, or new; None where steps run operation by operation."""
    if model.choices.graphs == "off" or model.seen is not None or request.sampler != KERNEL:
        return None
    settings = replace(request, output_tokens=0, real_BT=None, eos_ids=(), generator=None, t_min=0.0, t_max=0.0)
    settings = replace(settings, replay_steps_BC=None)
    key = (DenoiseSteps, batch, capacity, request.replay_steps_BC is not None, settings)
    return _kept(model, key, lambda: DenoiseSteps(model, batch, capacity, request))


def decode_steps(model: Model, batch: int, capacity: int, request: Request) -> DecodeSteps | None:
    """The same for autoregressive decoding."""
    if model.choices.graphs == "off" or model.seen is not None or request.output_tokens == 1:
        return None
    key = (DecodeSteps, batch, capacity, request.temperature)
    return _kept(model, key, lambda: DecodeSteps(model, batch, capacity, request))


def _kept(model: Model, key: Hashable, make: Callable[[], Any]) -> Any:
    key = (key, model.choices, model.window, model.routing is not None)
    if key not in model.steps:
        model.steps.clear()
        gc.collect()  # a cache and its layers know each other: frees the old buffers before there are new ones
        model.steps[key] = make()
    return model.steps[key]
