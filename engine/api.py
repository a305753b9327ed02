"""What other code calls: load a model, run its passes, generate, save. Everything else in engine/ may change.

Suffixes: B batch, T tokens, L block length, C canvases, V vocabulary, n output tokens. Tensors live on the model's
device. All errors are ValueError with one line: what, its value, what was expected.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from engine import autoregressive, block_diffusion, checks, choices, float8, ranges, tokenizer
from engine import weights as storage
from engine.config import PRESETS, SHIPPED, WINDOW_FORMS
from engine.kv_cache import KVCache
from engine.model import Model
from engine.request import Generation, Request

__all__ = ["Generation", "KVCache", "Model", "causal_logits", "denoise_logits", "encode", "generate", "load", "save"]

_request_numbers = itertools.count()
_T = TypeVar("_T")


def load(
    source: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    weights: str | None = None,
    seed: int = 0,
    window: str = "sdpa",
    options: Mapping[str, str] | None = None,
) -> Model:
    """A model ready to run: a directory in Hugging Face layout, a shipped model's name, or a preset's.

    Args:
        source: a directory with config.json and safetensors (DiffusionGemma, or a Gemma 4 mixture of experts), or a
            name in engine.config.SHIPPED (trained models that come with the engine) or engine.config.PRESETS (shapes,
            which get seeded random weights made in place on the device).
        dtype: "float32" or "bfloat16", of weights, activations and cache.
        weights: "float8_e4m3" for projections and experts in it, with a scale per output channel; None: in `dtype`. The
            logits of trained weights are compared with those of float32, where that is at most 2 GiB, and
            model.float8 says how far they are off.
        seed: for a preset's weights; a directory needs none.
        window: the decoder's sliding window: "sdpa" (every canvas query sees the last W - 1 cached keys and the whole
            canvas, as transformers does with sdpa) or "symmetric" (|i - j| < W per query, as it does with flash
            attention).
        options: implementations by name, see engine/choices.py; what is not named is chosen for the device and dtype.
            `generate` reads them from model.choices, which can be set between calls.

    Raises:
        ValueError: unknown source, device, dtype, weights, window or option; files that are missing, broken or of
            another architecture; float8 weights that change the logits too much.
    """
    torch_dtype, target = checks.dtype(dtype), checks.device(device)
    checks.known("window", window, WINDOW_FORMS)
    is_float8 = weights is not None
    if is_float8:
        checks.known("weights", weights, ("float8_e4m3",))
    chosen = choices.resolve(target, torch_dtype, options, is_float8=is_float8)
    source = SHIPPED.get(str(source), source)
    is_preset = str(source) in PRESETS
    if not is_preset and not Path(source).is_dir():
        names = ", ".join([*SHIPPED, *PRESETS])
        raise ValueError(f"model source is {str(source)!r}, expected a directory or one of {names}")

    def made(dtype: torch.dtype, is_float8: bool) -> Model:
        if is_preset:
            drawn = storage.random_model(PRESETS[str(source)], target, torch_dtype, seed, is_float8=is_float8)
            return drawn if is_float8 else drawn.to(dtype)
        return storage.read(Path(source), target, dtype, is_float8=is_float8)

    model = made(torch_dtype, is_float8)
    if is_preset:
        model.tokenizer = tokenizer.byte_level() if model.config.vocab_size >= tokenizer.VOCAB_SIZE else None
    else:
        model.tokenizer = tokenizer.read(Path(source))
    model.window, model.choices = window, chosen
    if is_float8:
        model.float8 = "not compared with float32, which takes over 2 GiB"
        if 4 * sum(p.numel() for p in model.parameters()) <= float8.MOST_COMPARED_BYTES:
            model.float8 = float8.compared(model, made(torch.float32, False), is_trained=not is_preset)
    return model


def save(model: Model, directory: str | Path, *, max_shard_bytes: int = 4_000_000_000) -> None:
    """Write the model in Hugging Face layout: config, generation config, safetensors, tokenizer if there is one.

    transformers' DiffusionGemmaForBlockDiffusion (or Gemma4ForCausalLM) loads it. A DiffusionGemma directory names a
    tiny vision tower, because transformers builds one always; its weights are not written, so that transformers
    warns that they are newly initialised.

    Raises:
        ValueError: the directory cannot be written.
    """
    storage.write(model, Path(directory), max_shard_bytes)


@torch.no_grad()
def encode(
    model: Model, ids_BT: torch.Tensor, *, cache: KVCache | None = None, attention_mask_BT: torch.Tensor | None = None
) -> KVCache:
    """Causal pass over new tokens (prefill, or the commit of a canvas); returns the cache, extended in place.

    attention_mask_BT covers the new tokens, 0 or False for padding on the left; the cache remembers it.

    Raises:
        ValueError: ids or mask of a wrong shape, type or range; a cache of another batch size; too many positions.
    """
    checks.ids(model, "ids_BT", ids_BT)
    cache = model.new_cache(len(ids_BT)) if cache is None else cache
    checks.cache(model, ids_BT, cache)
    model.encode(ids_BT, cache, checks.mask(ids_BT, attention_mask_BT))
    return cache


@torch.no_grad()
def denoise_logits(
    model: Model, canvas_BL: torch.Tensor, cache: KVCache, *, self_conditioning_BLV: torch.Tensor | None = None
) -> torch.Tensor:
    """One denoising pass over a canvas that follows the cached tokens: softcapped logits (B, L, V), float32.

    Reads the cache and leaves it as it was. self_conditioning_BLV is what the previous step hands on: its
    temperature-divided, softcapped logits; None on a canvas's first step.

    Raises:
        ValueError: a Gemma 4 checkpoint; ids or logits of a wrong shape, type or range; too many positions.
    """
    checks.can_diffuse(model)
    checks.ids(model, "canvas_BL", canvas_BL)
    checks.cache(model, canvas_BL, cache)
    shape = (*canvas_BL.shape, model.config.vocab_size)
    if self_conditioning_BLV is not None and self_conditioning_BLV.shape != shape:
        raise ValueError(f"self_conditioning_BLV has shape {tuple(self_conditioning_BLV.shape)}, expected {shape}")
    conditioning = None if self_conditioning_BLV is None else self_conditioning_BLV.to(model.dtype)
    return model.denoise(canvas_BL, cache, conditioning)


@torch.no_grad()
def causal_logits(
    model: Model, ids_BT: torch.Tensor, *, cache: KVCache | None = None, attention_mask_BT: torch.Tensor | None = None
) -> torch.Tensor:
    """The autoregressive twin: next-token logits (B, T, V) of a causal pass, which extends the cache if there is one.

    float32, rounded as Gemma 4 does (capped in the model's dtype).

    Raises:
        ValueError: as `encode`.
    """
    checks.ids(model, "ids_BT", ids_BT)
    cache = model.new_cache(len(ids_BT)) if cache is None else cache
    checks.cache(model, ids_BT, cache)
    return model.causal_logits(ids_BT, cache, checks.mask(ids_BT, attention_mask_BT))


@torch.inference_mode()
def generate(
    model: Model,
    prompt_ids_BT: torch.Tensor,
    *,
    decoding: str,
    output_tokens: int,
    attention_mask_BT: torch.Tensor | None = None,
    block_length: int | None = None,
    num_steps: int | None = None,
    stopping: str | None = "adaptive",
    eos: str = "respect",
    eos_ids: int | Sequence[int] | None = None,
    generator: torch.Generator | None = None,
    entropy_bound: float | None = None,
    t_min: float | None = None,
    t_max: float | None = None,
    stability: int | None = None,
    confidence: float | None = None,
    temperature: float = 0.0,
    sampler: str | None = None,
    replay_steps_BC: torch.Tensor | None = None,
    rehearse: bool = False,
) -> Generation:
    """Continue prompts by block diffusion or autoregressively. None means the checkpoint's own value.

    Args:
        decoding: "block_diffusion" or "autoregressive". The latter reads, of what follows, only eos, eos_ids,
            generator and temperature.
        output_tokens: tokens wanted behind the prompt. Block diffusion rounds up to whole canvases.
        attention_mask_BT: 0 or False for padding, which stands on the left; positions count it, as in transformers.
        block_length: tokens per canvas, 1 to 1024; the checkpoint's canvas_length was the one it was trained with.
        num_steps: denoising steps per canvas.
        stopping: "fixed" runs exactly num_steps; "adaptive" stops a row when its likeliest tokens have not changed
            for `stability` steps and its mean entropy is below `confidence` nats, with num_steps as the cap; "replay"
            stops each row of each canvas after the steps that `replay_steps_BC` says, num_steps being the cap.
        eos: "respect" pads a row behind its first end-of-sequence id and ends when every row has one; "ignore" takes
            these ids for plain tokens.
        eos_ids: one id or several.
        generator: used for every random draw, on the model's device; None: torch's global one.
        entropy_bound, t_min, t_max: the sampler's acceptance bound in nats and its temperature ramp.
        temperature: of autoregressive decoding; 0 is greedy.
        sampler: a name of engine.sampling.SAMPLERS or "kernel"; None: that of model.choices. "reference" draws with the
            torch calls of transformers and in their order, so that equal generators give equal tokens; "plain" draws
            the same without multinomial's checks of the probabilities; "fast" and, in Triton, "kernel" draw from the
            same distribution with other random streams.
        replay_steps_BC: for stopping "replay" alone: whole numbers of at least 1, one for each row and canvas.
        rehearse: only make what such a request needs once, and what is kept until one of another kind comes: static
            buffers and CUDA graphs, where graphs are chosen. Nothing is drawn, and the Generation is empty.

    Raises:
        ValueError: any value out of its range, with the range; a Gemma 4 checkpoint asked for block diffusion; prompt
            and output longer than max_position_embeddings.
    """
    diffusion = decoding == "block_diffusion"
    checks.ids(model, "prompt_ids_BT", prompt_ids_BT)
    checks.known("decoding", decoding, ("block_diffusion", "autoregressive"))
    checks.known("eos", eos, ("respect", "ignore"))
    sampler = _or(sampler, model.choices.sampler)
    if diffusion:
        checks.sampler(model, sampler)
    checks.at_least("output_tokens", output_tokens, 1)
    checks.at_least("temperature", temperature, 0.0)
    checks.generator(model, generator)
    if diffusion:
        checks.can_diffuse(model)
        checks.known("stopping", stopping, ("adaptive", "fixed", "replay"))
    own = model.config.generation
    request = Request(
        output_tokens=output_tokens,
        real_BT=checks.mask(prompt_ids_BT, attention_mask_BT),
        eos_ids=checks.eos_ids(model, eos, eos_ids),
        pad_id=own.pad_id,
        generator=generator,
        block_length=_or(block_length, model.config.canvas_length or 1),
        num_steps=_or(num_steps, own.max_denoising_steps),
        adaptive=stopping == "adaptive",
        replay_steps_BC=replay_steps_BC if diffusion else None,
        entropy_bound=_or(entropy_bound, own.entropy_bound),
        t_min=_or(t_min, own.t_min),
        t_max=_or(t_max, own.t_max),
        stability=_or(stability, own.stability_threshold),
        confidence=_or(confidence, own.confidence_threshold),
        sampler=sampler,
        temperature=temperature,
    )
    if diffusion:
        checks.diffusion(request)
        checks.replay(request, len(prompt_ids_BT), stopping)
    prompt_tokens = prompt_ids_BT.shape[1]
    wanted = request.num_canvases * request.block_length if diffusion else output_tokens
    checks.positions(model, prompt_tokens + wanted, f"{prompt_tokens} prompt and {wanted} output")
    decoder = block_diffusion if diffusion else autoregressive
    if rehearse:
        decoder.static_steps(model, prompt_ids_BT, request)
        return Generation.empty(prompt_ids_BT)
    with ranges.REQUEST(next(_request_numbers)):
        return decoder.generate(model, prompt_ids_BT, request)


def _or(value: _T | None, default: _T) -> _T:
    return default if value is None else value
