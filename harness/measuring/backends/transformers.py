"""Hugging Face transformers as a backend: DiffusionGemma, and Gemma 4 over the same weights as its twin.

Times and counts come from hooks on the modules that its `generate` calls, and from a streamer: nothing is taken on
trust, and no private function of it is touched. Known of transformers 5.23 and refused here, because results are wrong:
a static cache at a context of the sliding window or more, where a canvas overwrites earlier keys (related:
huggingface/transformers#46839), and its compiled loop, whose sampler keeps the entropy bound and block length of the
first call. So a static cache runs uncompiled here.

Legend: B batch, T prompt tokens, n output tokens.
"""

from __future__ import annotations

import gc
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before the import, which reads it

import transformers
from transformers import DiffusionGemmaForBlockDiffusion as DiffusionGemma
from transformers import Gemma4ForCausalLM, Gemma4TextConfig
from transformers.generation.streamers import BaseStreamer
from transformers.models.diffusion_gemma.generation_diffusion_gemma import EntropyBoundSamplerConfig

from engine.config import ModelConfig
from harness.measuring.backends.base import Answer, Unsupported
from harness.measuring.backends.on_torch import (
    Prompts,
    Tokenizer,
    check_asked,
    device_errors,
    device_of,
    prompts_of,
    timed_on,
    useful_ids,
)
from harness.measuring.backends.reference import written
from harness.measuring.backends.watch import DENOISE, Watch, hooked
from harness.records.types import AUTOREGRESSIVE, Cell
from harness.spec.config import DeviceConfig, ModelSource

_OPTIONS = ("window", "cache", "compile", "experts", "entropy_bound")
_CACHES, _EXPERTS = ("dynamic", "static"), ("grouped_mm", "eager", "batched_mm")
_MOST_ROWS = 8  # whose output ids are kept as counters
_ENCODE, _DECODE = "encode", "decode"


@dataclass(frozen=True, slots=True)
class _Prepared:
    prompts: Prompts
    seed: int


class _Canvases(BaseStreamer):
    """Hears of each canvas when it is on the host; the first thing that it is handed is the prompt."""

    def __init__(self, watch: Watch) -> None:
        self._watch, self._heard_prompt = watch, False

    def put(self, value: torch.Tensor) -> None:
        if self._heard_prompt:
            self._watch.canvas()
        self._heard_prompt = True

    def end(self) -> None:
        pass


class TransformersBackend:
    def __init__(self) -> None:
        quiet: Any = transformers.utils.logging
        quiet.set_verbosity_error()  # of a DiffusionGemma directory it says that vision weights are new
        quiet.disable_progress_bar()
        self._diffusion: Any = None
        self._causal: Any = None

    def load(self, source: ModelSource, shape: ModelConfig, device: DeviceConfig, cell: Cell, seed: int) -> None:
        check_asked(cell, _OPTIONS, "the transformers backend")
        _check_options(cell)
        self._diffusion = self._causal = None
        gc.collect()
        self._shape, self._device = shape, device_of(device)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        how: dict[str, Any] = {
            "attn_implementation": "sdpa",  # its eager attention crashes on padding
            "experts_implementation": cell.options.get("experts", "grouped_mm"),
            "dtype": getattr(torch, cell.weight_dtype),
            "local_files_only": True,
        }
        with device_errors(), written(source, self._device, cell.weight_dtype, seed) as (directory, tokenizer):
            self._tokenizer = tokenizer
            if shape.canvas_length is None:
                self._causal = _read(Gemma4ForCausalLM, directory, how).to(self._device)
            else:
                self._diffusion = _read(DiffusionGemma, directory, how).to(self._device)
                self._causal = _twin_of(self._diffusion)
        for model in filter(None, (self._diffusion, self._causal)):
            model.generation_config.eos_token_id = None  # each request says what ends it
            model.generation_config.pad_token_id = shape.generation.pad_id

    def prepare(self, cell: Cell, texts: tuple[str, ...], seed: int) -> _Prepared:
        return _Prepared(prompts_of(cell, texts, seed, self._tokenizer, self._shape, self._device), seed)

    def generate(self, cell: Cell, prepared: _Prepared) -> Answer:
        self._refuse_wrong_results(cell)
        (ids_Bn, watch), of_device = timed_on(self._device, lambda: self._request(cell, prepared))
        output_ids = ids_Bn[:, cell.prompt_tokens :].cpu()
        ends = self._ends(cell, output_ids)
        useful_tokens = tuple(min(end, cell.output_tokens) for end in ends)
        missing = of_device.pop("missing", {})
        passes = dict.fromkeys(("prefill", DENOISE, "commit", _DECODE), 0) | {"prefill": 1}
        if cell.decoding == AUTOREGRESSIVE:
            passes[_DECODE] = watch.counts(_DECODE) - 1
            block_s = tuple(watch.since_begin_s()[2:])
            steps: tuple[tuple[int, ...], ...] = ((),) * cell.batch_size
            step_s = watch.step_s(_DECODE)[1:]
        else:
            passes |= {DENOISE: watch.counts(DENOISE), "commit": watch.counts(_ENCODE) - 1}
            block_s, step_s = tuple(watch.canvas_s), watch.step_s(DENOISE)
            steps = _steps(cell, watch.steps_of_canvases(), ends)
            if not steps:
                missing["steps_per_canvas"] = "transformers does not say at which step each row of a batch stopped"
        return Answer(
            ttfb_s=block_s[0],
            block_s=block_s,
            step_s=step_s,
            passes=passes,
            steps_per_canvas=steps,
            useful_tokens=useful_tokens,
            raw_tokens=output_ids.numel(),
            stop_reason="eos" if all(end <= cell.output_tokens for end in ends) else "length",
            resolved=self._resolved(cell),
            output_ids=useful_ids(output_ids, useful_tokens),
            missing=missing,
            **of_device,
        )

    def count(self, cell: Cell, prepared: _Prepared) -> dict[str, Any]:
        """Output ids alone: experts, entropies and positions are not observed here."""
        answer = self.generate(cell, prepared)
        return {"output_ids": [[int(one) for one in row] for row in (answer.output_ids or ())][:_MOST_ROWS]}

    def tokenizer(self) -> Tokenizer | None:
        return None if self._tokenizer is None else Tokenizer(self._tokenizer, self._shape.generation.eos_ids)

    def mark(self, stage: str, index: int) -> AbstractContextManager[None]:
        return nullcontext()

    def _request(self, cell: Cell, prepared: _Prepared) -> tuple[torch.Tensor, Watch]:
        """(B, T + n) ids with the prompt, and what was seen of the request."""
        watch = Watch(self._device)
        choices: dict[str, Any] = {
            "attention_mask": prepared.prompts.mask_BT,  # without one, pad ids in a prompt would count as padding
            "max_new_tokens": cell.output_tokens,
            "eos_token_id": list(self._shape.generation.eos_ids) if cell.eos == "respect" else None,
        }
        is_static = _cache(cell) == "static"
        if cell.decoding == AUTOREGRESSIVE:
            choices |= {"do_sample": False, "cache_implementation": "static" if is_static else None}
            choices |= {"disable_compile": True}
            with hooked((self._causal, lambda: watch.mark(_DECODE))):
                watch.begin()
                ids_Bn = self._causal.generate(prepared.prompts.ids_BT, **choices)
                watch.mark("end")
            return ids_Bn, watch
        choices |= {
            "max_denoising_steps": cell.num_steps,
            "cache_implementation": _cache(cell),
            "disable_compile": True,
            "sampler_config": EntropyBoundSamplerConfig(entropy_bound=self._entropy_bound(cell)),
            "streamer": _Canvases(watch),
        }
        if cell.stopping == "fixed":
            choices |= {"confidence_threshold": None}  # no test for an early stop, and so not its time either
        self._diffusion.config.canvas_length = cell.block_length
        parts = self._diffusion.model
        with hooked((parts.encoder, lambda: watch.mark(_ENCODE)), (parts.decoder, lambda: watch.mark(DENOISE))):
            watch.begin()
            torch.manual_seed(prepared.seed)  # it draws from torch's global generators alone
            out = self._diffusion.generate(prepared.prompts.ids_BT, **choices)
        return out.sequences, watch

    def _entropy_bound(self, cell: Cell) -> float:
        return float(cell.options.get("entropy_bound", self._shape.generation.entropy_bound))

    def _refuse_wrong_results(self, cell: Cell) -> None:
        """Raises Unsupported where transformers answers, but not what was asked."""
        if _cache(cell) == "dynamic" or cell.block_length is None:
            return
        window = self._shape.sliding_window
        context = cell.prompt_tokens + (-(-cell.output_tokens // cell.block_length) - 1) * cell.block_length
        if context >= window:
            raise Unsupported(
                f"cache=static: the last canvas follows {context} tokens, and from the sliding window of {window} on "
                "transformers' static cache lets a canvas overwrite earlier keys; use cache=dynamic"
            )

    def _ends(self, cell: Cell, output_ids: torch.Tensor) -> list[int]:
        """Each row's tokens up to and including its first end of sequence; beyond what was asked if it has none."""
        never = cell.output_tokens + 1
        if cell.eos == "ignore":
            return [never] * len(output_ids)
        is_eos_Bn = torch.isin(output_ids, torch.tensor(self._shape.generation.eos_ids))
        return [int(row.int().argmax()) + 1 if bool(row.any()) else never for row in is_eos_Bn]

    def _resolved(self, cell: Cell) -> dict[str, str]:
        """What runs, read from the model and not from the request."""
        model = self._causal if cell.decoding == AUTOREGRESSIVE else self._diffusion
        config = model.config.get_text_config()
        return {
            "dtype": str(model.dtype).removeprefix("torch."),
            "expert_gemm": str(config._experts_implementation),
            "attention": f"transformers {config._attn_implementation}",
            "cache": _cache(cell),
            "threads": str(torch.get_num_threads()),
            "transformers": transformers.__version__,
        }


def _read(kind: Any, directory: Path, how: dict[str, Any]) -> Any:
    return kind.from_pretrained(directory, **how).eval()


def _check_options(cell: Cell) -> None:
    if cell.options.get("window", "sdpa") != "sdpa":
        raise Unsupported("the transformers backend runs sdpa attention, whose window is 'sdpa'")
    for name, known in (("cache", _CACHES), ("experts", _EXPERTS)):
        value = cell.options.get(name, known[0])
        if value not in known:
            raise Unsupported(f"the transformers backend has no {name}={value!r}; it has {', '.join(known)}")
    if cell.options.get("compile"):
        raise Unsupported(
            "compile: transformers' compiled sampler keeps the entropy bound and block length of the first call in a "
            "process, so later cells would be measured with those of the first"
        )
    bound = cell.options.get("entropy_bound", 1.0)
    if isinstance(bound, bool) or not isinstance(bound, int | float) or not bound > 0:
        raise Unsupported(f"entropy_bound is {bound!r}, expected a number above 0")


def _cache(cell: Cell) -> str:
    return str(cell.options.get("cache", _CACHES[0]))


def _steps(cell: Cell, canvases: list[int], ends: list[int]) -> tuple[tuple[int, ...], ...]:
    """Steps of each row and canvas, 0 where the row had ended before; () where a batch hides which row stopped when."""
    if cell.stopping != "fixed" and cell.batch_size > 1:
        return ()
    length = cell.block_length or 1
    return tuple(tuple(steps if c * length < end else 0 for c, steps in enumerate(canvases)) for end in ends)


def _twin_of(diffusion: Any) -> Any:
    """Gemma 4 with the very tensors of DiffusionGemma's encoder and head, so that it takes no memory of its own."""
    encoder, text = diffusion.model.encoder.language_model, diffusion.config.get_text_config()
    known: dict[str, Any] = {k: v for k, v in text.to_dict().items() if k not in ("model_type", "architectures")}
    known |= {"enable_moe_block": True, "attention_k_eq_v": True}
    known |= {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0}  # parts of other Gemma 4 models
    config = Gemma4TextConfig(**known)
    config._attn_implementation = text._attn_implementation
    config._experts_implementation = text._experts_implementation
    with torch.device("meta"):
        twin = Gemma4ForCausalLM(config).to(diffusion.dtype).eval()
    tensors = dict(encoder.named_parameters(remove_duplicate=False)) | dict(
        encoder.named_buffers(remove_duplicate=False)
    )
    for name, tensor in tensors.items():
        owner, _, last = name.rpartition(".")
        setattr(twin.model.get_submodule(owner), last, tensor)
    twin.lm_head.weight = diffusion.lm_head.weight
    left = [name for name, one in (*twin.named_parameters(), *twin.named_buffers()) if one.is_meta]
    if left:
        raise Unsupported(f"this transformers' Gemma 4 has a tensor that DiffusionGemma lacks: {left[0]}")
    return twin
