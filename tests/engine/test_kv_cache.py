"""The cache holds what was committed and nothing else."""

from __future__ import annotations

import pytest
import torch
from oracle import Pair, random_ids

from engine import api, kv_cache


def contents(cache: api.KVCache) -> list[torch.Tensor]:
    return [x[:, :, layer.start : layer.end].clone() for layer in cache.layers for x in (layer.k_BKSD, layer.v_BKSD)]


def test_denoising_never_changes_the_cache(pair: Pair) -> None:
    cache = api.encode(pair.ours, random_ids(2, 20))
    before, length = contents(cache), cache.length
    for seed in (1, 2):
        api.denoise_logits(pair.ours, random_ids(2, 300, seed), cache)
    assert cache.length == length
    assert all(torch.equal(a, b) for a, b in zip(before, contents(cache), strict=True))


def test_denoising_twice_gives_the_same_logits(pair: Pair) -> None:
    cache, canvas = api.encode(pair.ours, random_ids(2, 20)), random_ids(2, 6, seed=1)
    first = api.denoise_logits(pair.ours, canvas, cache)
    api.denoise_logits(pair.ours, random_ids(2, 6, seed=2), cache)
    assert torch.equal(first, api.denoise_logits(pair.ours, canvas, cache))


def test_encoding_in_parts_equals_encoding_at_once(pair: Pair) -> None:
    ids = random_ids(2, 40)
    whole = api.encode(pair.ours, ids)
    parts = None
    for part in ids.split([1, 7, 8, 24], dim=1):
        parts = api.encode(pair.ours, part, cache=parts)
    for a, b in zip(contents(whole), contents(parts), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_sliding_layers_keep_the_window_and_full_layers_keep_all(pair: Pair) -> None:
    cache = api.encode(pair.ours, random_ids(1, 50))
    assert [layer.end - layer.start for layer in cache.layers] == [7, 50, 7, 50]


def test_a_sliding_layer_frees_the_memory_of_a_long_prompt(pair: Pair) -> None:
    cache = kv_cache.LayerCache(kept=7)
    k = torch.randn(1, 2, 5000, 8)
    assert torch.equal(cache.extend(k, k)[0], k)
    cache.advance(5000)
    assert cache.k_BKSD.shape[2] <= 7 + kv_cache._SLACK
    more = torch.randn(1, 2, 1, 8)
    assert torch.equal(cache.extend(more, more)[0], torch.cat([k[:, :, -7:], more], dim=2))


def test_a_window_survives_many_single_tokens() -> None:
    cache = kv_cache.LayerCache(kept=3)
    k = torch.randn(1, 1, 3 * kv_cache._SLACK, 2)
    for i in range(k.shape[2]):
        seen, _ = cache.extend(k[:, :, i : i + 1], k[:, :, i : i + 1])
        cache.advance(1)
        assert torch.equal(seen, k[:, :, max(0, i - 3) : i + 1])


def test_a_full_layer_with_a_reservation_never_moves() -> None:
    cache = kv_cache.LayerCache(kept=None, reserved=4000)
    k = torch.randn(1, 1, 1000, 2)
    for _ in range(4):
        cache.extend(k, k)
        cache.advance(1000)
        assert cache.k_BKSD.shape[2] == 4000


@pytest.mark.parametrize("kept", [None, 1023])
def test_a_short_request_reserves_no_more_than_it_needs(kept: int | None) -> None:
    cache = kv_cache.LayerCache(kept, reserved=96)
    k = torch.randn(1, 1, 32, 2)
    cache.extend(k, k)
    assert cache.k_BKSD.shape[2] == 96


def test_a_pass_that_raises_leaves_the_cache_as_it_was(pair: Pair) -> None:
    cache = api.encode(pair.ours, random_ids(1, 9))
    before, weight = contents(cache), pair.ours.layers[2].self_attn.o_proj.weight
    pair.ours.layers[2].self_attn.o_proj.weight = torch.nn.Parameter(torch.zeros(1, 1), requires_grad=False)
    try:
        api.encode(pair.ours, random_ids(1, 4), cache=cache)
    except RuntimeError:
        pass
    finally:
        pair.ours.layers[2].self_attn.o_proj.weight = weight
    assert cache.length == 9
    assert all(torch.equal(a, b) for a, b in zip(before, contents(cache), strict=True))
