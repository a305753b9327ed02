"""Block-diffusion decoding: canvas after canvas, each denoised as a whole, then committed by a causal pass.

The loop is that of huggingface/transformers, src/transformers/models/diffusion_gemma/generation_diffusion_gemma.py.

Legend: B batch, b rows of it that are here (all, unless compaction is on), T prompt tokens, L block length,
C canvases, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import torch

from engine import ranges
from engine.kernel_step import KERNEL, Draws, sampled
from engine.kv_cache import KVCache
from engine.model import Model
from engine.request import Clock, Ends, Generation, Passes, Request
from engine.sampling import SAMPLERS, AdaptiveStop, Denoised, ReplayedStop, random_canvas, temperatures
from engine.steps import DenoiseSteps, denoise_steps


def generate(model: Model, prompt_BT: torch.Tensor, request: Request) -> Generation:
    """Denoise `request.num_canvases` canvases, or until every row's sequence has ended."""
    clock = Clock(model.device)
    batch, prompt_tokens = prompt_BT.shape
    length = request.block_length
    steps_ahead = static_steps(model, prompt_BT, request)  # None: operation by operation
    capacity = prompt_tokens + request.num_canvases * length
    cache = model.new_cache(batch, capacity) if steps_ahead is None else steps_ahead.begin()
    ends = Ends(request, batch, model.device)
    finished = [False] * batch
    passes = Passes()
    canvases: list[torch.Tensor] = []
    steps: list[list[int]] = []  # per canvas, per row

    with ranges.PREFILL(prompt_tokens):
        model.encode(prompt_BT, cache, request.real_BT)
        passes.count("prefill", batch)
    for index in range(request.num_canvases):
        with ranges.CANVAS(index):
            if index > 0:  # only a canvas that another one follows needs its keys in the cache
                with ranges.COMMIT(length):
                    model.encode(cache.held(canvases[-1]), cache)
                    passes.count("commit", cache.batch_size or batch)
            if steps_ahead is None:
                argmax_BL, row_steps = _denoise_canvas(model, cache, batch, request, clock, index, passes)
            else:
                argmax_BL, row_steps, executed = steps_ahead.canvas(request, clock, index)
                passes.count("denoise", batch, executed)
            with ranges.CANVAS_FINISH(length):
                canvases.append(ends.pad(argmax_BL))
                steps.append([0 if ended else n for ended, n in zip(finished, row_steps, strict=True)])
                clock.canvas(canvases[-1])
                finished = ends.finished_rows()
        if all(finished):
            break
        if model.choices.compaction == "on":
            cache, _ = cache.without(finished)
    block_s = clock.block_s()
    return Generation(
        output_ids=torch.cat(canvases, dim=1),
        useful_tokens=ends.useful_tokens(),
        steps_per_canvas=torch.tensor(steps).t().contiguous(),
        passes=passes.calls,
        row_passes=passes.rows,
        step_s=clock.step_s(),
        block_s=block_s,
        ttfb_s=block_s[0],
        stop_reason=ends.stop_reason(),
    )


def static_steps(model: Model, prompt_BT: torch.Tensor, request: Request) -> DenoiseSteps | None:
    """What such a request needs on the device before it begins, where graphs are chosen."""
    batch, prompt_tokens = prompt_BT.shape
    return denoise_steps(model, batch, prompt_tokens + request.num_canvases * request.block_length, request)


def _denoise_canvas(
    model: Model, cache: KVCache, batch: int, request: Request, clock: Clock, index: int, passes: Passes
) -> tuple[torch.Tensor, list[int]]:
    """One canvas from noise to tokens: (B, L) argmax of each row's last step, and steps per row."""
    with ranges.CANVAS_INIT(request.block_length):
        device = model.device
        canvas_BL = random_canvas(batch, request.block_length, model.config.vocab_size, device, request.generator)
        schedule_N = temperatures(request.num_steps, request.t_min, request.t_max, device)
        stop = _stop_rule(request, index, device)
        frozen = [cache.rows is not None and row not in cache.rows.here for row in range(batch)]
        frozen_B = torch.tensor(frozen, device=device)  # the same on the device
        row_steps = [0] * batch
        argmax_BL, entropy_BL = torch.zeros_like(canvas_BL), torch.zeros(canvas_BL.shape, device=device)
        canvas_bL = cache.held(canvas_BL)  # noise of the whole batch, so that a row's is the same whoever is here
    last: Denoised | None = None
    compacts = model.choices.compaction == "on"
    for step in range(request.num_steps):
        with ranges.DENOISE_STEP(step):
            begin = clock.now()
            row_steps = [n + (not stopped) for n, stopped in zip(row_steps, frozen, strict=True)]
            new = _denoise(model, cache, request, canvas_bL, last, schedule_N[step])
            passes.count("denoise", len(canvas_bL))
            last = _freeze(frozen_B, last, new) if last is not None and any(frozen) and not compacts else new
            argmax_BL, entropy_BL = cache.put(argmax_BL, last.argmax_BL), cache.put(entropy_BL, last.entropy_BL)
            if model.seen is not None:
                model.seen.argmax(step, argmax_BL)
            if stop is not None:
                with ranges.STOP_CHECK():
                    frozen_B = frozen_B | stop(argmax_BL, entropy_BL)
                    frozen = frozen_B.tolist()  # the one read of the device in a step
            if compacts and not all(frozen):
                cache, place_b = cache.without(frozen)
                last = last if place_b is None else _selected(last, place_b)
            canvas_bL = last.canvas_BL
            clock.step_since(begin)
        if all(frozen):
            break
    return argmax_BL, row_steps


def _stop_rule(request: Request, index: int, device: torch.device) -> AdaptiveStop | None:
    """When rows of a canvas stop before num_steps; None: never."""
    if request.replay_steps_BC is not None:
        return ReplayedStop(request.stability, request.confidence, request.replay_steps_BC[:, index].to(device))
    return AdaptiveStop(request.stability, request.confidence) if request.adaptive else None


def _denoise(
    model: Model,
    cache: KVCache,
    request: Request,
    canvas_bL: torch.Tensor,
    last: Denoised | None,
    temperature: torch.Tensor,
) -> Denoised:
    if request.sampler == KERNEL:
        x_bLH = model.denoised(canvas_bL, cache, probs_BLV=None if last is None else last.probs_BLV)
        draws = Draws.of(canvas_bL)
        draws.renew(model.config.vocab_size, request.generator)
        new = sampled(model, x_bLH, temperature, request.entropy_bound, draws)
        if model.seen is not None:
            model.seen.entropy(new.entropy_BL)
        return new
    believed = (None, None) if last is None else (last.conditioning_BLV, last.probs_BLV)
    logits_bLV = _network(model, last is not None)(canvas_bL, cache, *believed)
    rows = {} if cache.rows is None else {"rows": cache.rows}
    new = SAMPLERS[request.sampler](logits_bLV, temperature, request.entropy_bound, request.generator, **rows)
    if model.seen is not None:
        model.seen.entropy(new.entropy_BL)
    if new.conditioning_BLV is None:
        return new
    return replace(new, conditioning_BLV=new.conditioning_BLV.to(model.dtype))


def _network(model: Model, is_conditioned: bool) -> Callable[..., torch.Tensor]:
    """The denoising pass, compiled where that is chosen. fullgraph: a graph break raises.

    A canvas's first step, which has no self-conditioning, runs as it is: it makes room in the cache. So does the first
    conditioned one, which lays out the weights. Neither may happen while torch.compile traces.
    """
    if model.choices.compile == "off" or not is_conditioned or model.seen is not None:
        return model.denoise
    if model.choices not in model.compiled:
        model.compiled[model.choices] = torch.compile(model.denoise, fullgraph=True)
        return model.denoise
    return model.compiled[model.choices]


def _freeze(frozen_B: torch.Tensor, last: Denoised, new: Denoised) -> Denoised:
    """Rows that have stopped ride along, but keep their tokens and their self-conditioning."""

    def kept(name: str) -> torch.Tensor | None:
        before, now = getattr(last, name), getattr(new, name)
        return None if now is None else torch.where(frozen_B.view(-1, *[1] * (now.dim() - 1)), before, now)

    return Denoised(**{field.name: kept(field.name) for field in fields(Denoised)})  # type: ignore[arg-type]


def _selected(last: Denoised, place_b: torch.Tensor) -> Denoised:
    """What a step decided for those of its rows that stay."""
    parts = {field.name: getattr(last, field.name) for field in fields(Denoised)}
    return Denoised(**{name: None if part is None else part[place_b] for name, part in parts.items()})  # type: ignore[arg-type]
