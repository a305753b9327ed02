"""Every pass agrees with transformers, which shares no code with the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import WINDOW, Pair, left_padding, random_ids

from engine import api

CONTEXTS = [5, WINDOW - 1, WINDOW, WINDOW + 1, 20]
FLOAT32_BOUND = 1e-5
# bfloat16: nine positions in ten must agree within this, where the logits' standard deviation is 1. Here all agree bit
# for bit. One wrong cast (say, rotary frequencies in bfloat16) moves that quantile to 0.09 and more. The tenth position
# is left free because a rounding elsewhere on another processor may send a token to other experts.
BFLOAT16_BOUND = 0.02


def peer_cache(hf: Any, ids: torch.Tensor, mask: torch.Tensor | None = None) -> Any:
    from transformers import DynamicCache

    cache = DynamicCache(config=hf.config.get_text_config())
    with torch.no_grad():
        hf.model.encoder(input_ids=ids, past_key_values=cache, attention_mask=mask)
    return cache


def peer_logits(
    hf: Any,
    canvas: torch.Tensor,
    cache: Any,
    conditioning: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    with torch.no_grad():
        out = hf(
            decoder_input_ids=canvas,
            past_key_values=cache,
            self_conditioning_logits=conditioning,
            decoder_attention_mask=mask,
        )
    return out.logits


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.dtype == b.dtype == torch.float32
    return (a - b).abs().max().item()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("context", CONTEXTS)
def test_denoising_logits_equal_those_of_transformers(pair: Pair, context: int, batch: int) -> None:
    ids, canvas = random_ids(batch, context), random_ids(batch, 6, seed=1)
    theirs = peer_logits(pair.hf, canvas, peer_cache(pair.hf, ids))
    assert distance(theirs, api.denoise_logits(pair.ours, canvas, api.encode(pair.ours, ids))) <= FLOAT32_BOUND


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("context", CONTEXTS)
def test_self_conditioned_logits_equal_those_of_transformers(pair: Pair, context: int, batch: int) -> None:
    ids, canvas = random_ids(batch, context), random_ids(batch, 6, seed=1)
    previous = 3 * torch.randn(batch, 6, 96, generator=torch.Generator().manual_seed(2))
    theirs = peer_logits(pair.hf, canvas, peer_cache(pair.hf, ids), previous)
    ours = api.denoise_logits(pair.ours, canvas, api.encode(pair.ours, ids), self_conditioning_BLV=previous)
    assert distance(theirs, ours) <= FLOAT32_BOUND


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("context", CONTEXTS)
def test_logits_after_two_commits_equal_those_of_transformers(pair: Pair, context: int, batch: int) -> None:
    ids, canvas = random_ids(batch, context), random_ids(batch, 6, seed=1)
    their_cache, cache = peer_cache(pair.hf, ids), api.encode(pair.ours, ids)
    for seed in (2, 3):
        committed = random_ids(batch, 6, seed)
        with torch.no_grad():
            pair.hf.model.encoder(input_ids=committed, past_key_values=their_cache)
        assert api.encode(pair.ours, committed, cache=cache) is cache
    theirs = peer_logits(pair.hf, canvas, their_cache)
    assert distance(theirs, api.denoise_logits(pair.ours, canvas, cache)) <= FLOAT32_BOUND


@pytest.mark.parametrize("context", CONTEXTS)
def test_left_padded_rows_have_the_logits_of_transformers(pair: Pair, context: int) -> None:
    ids, canvas = random_ids(3, context), random_ids(3, 6, seed=1)
    mask = left_padding(context, [0, 1, context - 1])
    canvas_mask = torch.nn.functional.pad(mask, (0, 6), value=True)
    theirs = peer_logits(pair.hf, canvas, peer_cache(pair.hf, ids, mask), mask=canvas_mask)
    cache = api.encode(pair.ours, ids, attention_mask_BT=mask)
    assert distance(theirs, api.denoise_logits(pair.ours, canvas, cache)) <= FLOAT32_BOUND


def test_padding_remembered_by_the_cache_still_holds_after_a_commit(pair: Pair) -> None:
    ids, canvas, mask = random_ids(2, 9), random_ids(2, 6, seed=1), left_padding(9, [0, 7])
    their_cache = peer_cache(pair.hf, ids, mask)
    longer = torch.nn.functional.pad(mask, (0, 6), value=True)
    with torch.no_grad():
        pair.hf.model.encoder(input_ids=canvas, past_key_values=their_cache, attention_mask=longer)
    theirs = peer_logits(pair.hf, canvas, their_cache, mask=torch.nn.functional.pad(longer, (0, 6), value=True))
    cache = api.encode(pair.ours, canvas, cache=api.encode(pair.ours, ids, attention_mask_BT=mask))
    assert distance(theirs, api.denoise_logits(pair.ours, canvas, cache)) <= FLOAT32_BOUND


@pytest.mark.parametrize("length", [1, 4, 17])
def test_a_canvas_of_another_length_has_the_logits_of_transformers(pair: Pair, length: int) -> None:
    ids, canvas = random_ids(2, 9), random_ids(2, length, seed=1)
    theirs = peer_logits(pair.hf, canvas, peer_cache(pair.hf, ids))
    assert distance(theirs, api.denoise_logits(pair.ours, canvas, api.encode(pair.ours, ids))) <= FLOAT32_BOUND


@pytest.mark.parametrize("context", CONTEXTS)
def test_causal_logits_equal_those_of_gemma4_with_the_encoders_weights(pair: Pair, twin: Any, context: int) -> None:
    ids = random_ids(3, context)
    with torch.no_grad():
        theirs = twin(ids).logits
    assert distance(theirs, api.causal_logits(pair.ours, ids)) <= FLOAT32_BOUND


def test_left_padded_causal_logits_equal_those_of_gemma4_at_real_tokens(pair: Pair, twin: Any) -> None:
    ids, mask = random_ids(3, 11), left_padding(11, [0, 3, 10])
    with torch.no_grad():
        theirs = twin(ids, attention_mask=mask.long(), position_ids=torch.arange(11)[None]).logits
    ours = api.causal_logits(pair.ours, ids, attention_mask_BT=mask)
    assert distance(theirs[mask], ours[mask]) <= FLOAT32_BOUND


def test_the_encoder_and_the_decoder_keep_layer_scalars_of_their_own(pair: Pair, tmp_path: Path) -> None:
    api.save(pair.ours, tmp_path)
    merged = api.load(tmp_path)
    for layer in merged.layers:
        layer.encoder_scalar = layer.decoder_scalar
    ids, canvas = random_ids(1, 9), random_ids(1, 6, seed=1)
    own = api.denoise_logits(pair.ours, canvas, api.encode(pair.ours, ids))
    assert distance(own, api.denoise_logits(merged, canvas, api.encode(merged, ids))) > 0.01


def test_the_symmetric_window_equals_an_explicit_mask_in_transformers(pair: Pair) -> None:
    context, length = 20, 12
    ids, canvas = random_ids(2, context), random_ids(2, length, seed=1)
    query, key = torch.arange(context, context + length)[:, None], torch.arange(context + length)
    near = ((query - key).abs() < WINDOW)[None, None, :, context - (WINDOW - 1) :]
    mask = {"sliding_attention": near, "full_attention": torch.ones(1, 1, length, context + length, dtype=torch.bool)}
    theirs = peer_logits(pair.hf, canvas, peer_cache(pair.hf, ids), mask=mask)
    symmetric = api.load(pair.directory, window="symmetric")
    ours = api.denoise_logits(symmetric, canvas, api.encode(symmetric, ids))
    assert distance(theirs, ours) <= FLOAT32_BOUND
    assert distance(ours, api.denoise_logits(pair.ours, canvas, api.encode(pair.ours, ids))) > 0.01


def test_both_window_forms_are_one_while_everything_fits_the_window(pair: Pair) -> None:
    ids, canvas = random_ids(1, 2), random_ids(1, 6, seed=1)
    symmetric = api.load(pair.directory, window="symmetric")
    ours = api.denoise_logits(pair.ours, canvas, api.encode(pair.ours, ids))
    assert torch.equal(ours, api.denoise_logits(symmetric, canvas, api.encode(symmetric, ids)))


def bfloat16_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.dtype == b.dtype == torch.float32
    return (a - b).abs().amax(dim=-1).flatten().quantile(0.9).item()


@pytest.mark.parametrize("context", [5, 20])
def test_bfloat16_denoising_logits_stay_within_a_bound_of_transformers(pair: Pair, context: int) -> None:
    from transformers import DiffusionGemmaForBlockDiffusion

    hf = DiffusionGemmaForBlockDiffusion.from_pretrained(
        pair.directory, dtype=torch.bfloat16, attn_implementation="sdpa"
    )
    ours = api.load(pair.directory, dtype="bfloat16")
    ids, canvas = random_ids(3, context), random_ids(3, 6, seed=1)
    previous = 3 * torch.randn(3, 6, 96, generator=torch.Generator().manual_seed(2)).bfloat16()
    theirs = peer_logits(hf, canvas, peer_cache(hf, ids), previous)
    got = api.denoise_logits(ours, canvas, api.encode(ours, ids), self_conditioning_BLV=previous)
    assert bfloat16_distance(theirs, got) <= BFLOAT16_BOUND


def test_bfloat16_causal_logits_stay_within_a_bound_of_gemma4_and_are_rounded_as_its_are(
    pair: Pair, twin: Any, tmp_path: Path
) -> None:
    from transformers import Gemma4ForCausalLM

    twin.save_pretrained(tmp_path)
    hf = Gemma4ForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16, attn_implementation="sdpa")
    with torch.no_grad():
        theirs = hf(random_ids(3, 20)).logits
    ours = api.causal_logits(api.load(pair.directory, dtype="bfloat16"), random_ids(3, 20))
    assert theirs.dtype == torch.bfloat16
    assert torch.equal(ours, ours.bfloat16().float())
    assert bfloat16_distance(theirs.float(), ours) <= BFLOAT16_BOUND
