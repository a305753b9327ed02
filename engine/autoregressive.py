"""Autoregressive decoding on the same weights: the encoder with the final norm and the head, one token per pass.

Its tokens are those of huggingface/transformers' Gemma4ForCausalLM over the same weights.

Legend: B batch, b rows of it that are here (all, unless compaction is on), T prompt tokens, V vocabulary.
"""

from __future__ import annotations

import torch

from engine import ranges
from engine.kv_cache import KVCache
from engine.model import Model
from engine.request import Clock, Ends, Generation, Passes, Request
from engine.sampling import draw
from engine.steps import DecodeSteps, decode_steps


def generate(model: Model, prompt_BT: torch.Tensor, request: Request) -> Generation:
    """Decode `request.output_tokens` tokens, or until every row has met an end-of-sequence id.

    The prefill's logits give the first token, so n tokens take n - 1 decode passes.
    """
    clock = Clock(model.device)
    batch, prompt_tokens = prompt_BT.shape
    steps = static_steps(model, prompt_BT, request)  # None: operation by operation
    cache = model.new_cache(batch, prompt_tokens + request.output_tokens) if steps is None else steps.begin()
    ends = Ends(request, batch, model.device)
    passes = Passes()
    tokens: list[torch.Tensor] = []

    with ranges.PREFILL(prompt_tokens):
        if model.seen is not None:
            model.seen.begin("")  # not counted
        tokens.append(_next_token(model, prompt_BT, cache, request, ends, request.real_BT))
        passes.count("prefill", batch)
    clock.token()
    for index in range(1, request.output_tokens):
        if request.eos_ids:
            with ranges.STOP_CHECK():
                finished = ends.finished_rows()
                if all(finished):
                    break
                if model.choices.compaction == "on":
                    cache, _ = cache.without(finished)
        with ranges.DECODE_STEP(index):
            begin = clock.now()
            if model.seen is not None:
                model.seen.begin("decode")
            if steps is None:
                tokens.append(_next_token(model, tokens[-1], cache, request, ends))
            else:
                tokens.append(ends.pad(steps.after(tokens[-1], request.generator)))
            passes.count("decode", cache.batch_size or batch)
            clock.step_since(begin)
        clock.token()
    block_s = clock.block_s()
    return Generation(
        output_ids=torch.cat(tokens, dim=1),
        useful_tokens=ends.useful_tokens(),
        steps_per_canvas=torch.zeros(batch, 0, dtype=torch.long),
        passes=passes.calls,
        row_passes=passes.rows,
        step_s=clock.step_s(),
        block_s=block_s,
        ttfb_s=block_s[0],
        stop_reason=ends.stop_reason(),
    )


def static_steps(model: Model, prompt_BT: torch.Tensor, request: Request) -> DecodeSteps | None:
    """What such a request needs on the device before it begins, where graphs are chosen."""
    batch, prompt_tokens = prompt_BT.shape
    return decode_steps(model, batch, prompt_tokens + request.output_tokens, request)


def _next_token(
    model: Model,
    ids_BT: torch.Tensor,
    cache: KVCache,
    request: Request,
    ends: Ends,
    real_BT: torch.Tensor | None = None,
) -> torch.Tensor:
    """Run the new tokens of the rows that are here through the model and choose the next one of each row, (B, 1).

    Tokens are drawn for rows that have left, too, so that the others draw the same without them; they become padding.
    """
    logits_bV = model.causal_logits(cache.held(ids_BT), cache, real_BT, last=1)[:, 0]
    with ranges.SAMPLE():
        if request.temperature == 0:
            token_B1 = cache.put(ids_BT[:, -1:], logits_bV.argmax(dim=-1, keepdim=True))
        else:
            logits_BV = cache.put(logits_bV.new_zeros(len(ids_BT), logits_bV.shape[-1]), logits_bV)
            probs_BV = (logits_BV / request.temperature).softmax(dim=-1)
            token_B1 = draw(probs_BV, request.generator)
        return ends.pad(token_B1)
