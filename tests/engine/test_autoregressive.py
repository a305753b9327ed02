"""Autoregressive decoding gives the tokens of transformers' Gemma 4 over the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from oracle import WINDOW, Pair, exceptions, left_padding, random_ids

from engine import api
from engine.choices import resolve

LOGIT_BOUND = 1e-5  # of float32 logits, whose standard deviation is about 1


def theirs(twin: Any, ids: torch.Tensor, tokens: int, mask: torch.Tensor | None = None, **more: Any) -> torch.Tensor:
    mask = torch.ones_like(ids) if mask is None else mask.long()
    choices: dict[str, Any] = dict(do_sample=False, eos_token_id=None, pad_token_id=0) | more
    return twin.generate(ids, attention_mask=mask, max_new_tokens=tokens, **choices)[:, ids.shape[1] :]


def ours(pair: Pair, ids: torch.Tensor, tokens: int, **more: Any) -> api.Generation:
    choices: dict[str, Any] = dict(decoding="autoregressive", eos="ignore") | more
    return api.generate(pair.ours, ids, output_tokens=tokens, **choices)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("pads", [(0,), (0, 0, 0), (0, 4, 8)], ids=["one row", "three rows", "left padding"])
def test_every_pass_of_the_fast_path_has_the_logits_and_likeliest_tokens_of_gemma4(
    pair: Pair, twin: Any, pads: tuple[int, ...], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gemma 4 reads our tokens at once, so that a near tie leaves later ones comparable; ours go by the cache."""
    assert pair.ours.choices == resolve(torch.device("cpu"), torch.float32)
    logits: list[torch.Tensor] = []
    causal_logits = pair.ours.causal_logits

    def watched(*inputs: Any, **more: Any) -> torch.Tensor:
        logits.append(causal_logits(*inputs, **more))
        return logits[-1]

    monkeypatch.setattr(pair.ours, "causal_logits", watched)
    ids, mask = random_ids(len(pads), 9, seed), left_padding(9, list(pads))
    out = ours(pair, ids, 48, attention_mask_BT=mask).output_ids
    read, seen = torch.cat([ids, out[:, :-1]], dim=1), torch.nn.functional.pad(mask, (0, 47), value=True)
    with torch.no_grad():
        oracle = twin(read, attention_mask=seen.long(), position_ids=torch.arange(56)[None]).logits[:, 8:]
    assert (torch.cat(logits, dim=1) - oracle).abs().max() <= LOGIT_BOUND
    assert exceptions(oracle, out) <= 1


@pytest.mark.parametrize("context", [1, 5, WINDOW, 20])
def test_greedy_tokens_equal_those_of_gemma4(pair: Pair, twin: Any, context: int) -> None:
    ids = random_ids(2, context)
    assert torch.equal(ours(pair, ids, 24).output_ids, theirs(twin, ids, 24))


def test_greedy_tokens_of_a_left_padded_batch_equal_those_of_gemma4(pair: Pair, twin: Any) -> None:
    ids, mask = random_ids(3, 9), left_padding(9, [0, 4, 8])
    assert torch.equal(ours(pair, ids, 24, attention_mask_BT=mask).output_ids, theirs(twin, ids, 24, mask))


def test_rows_end_and_are_padded_as_gemma4_does(pair: Pair, twin: Any) -> None:
    ids = random_ids(3, 9)
    free = ours(pair, ids, 24).output_ids
    eos = [int(free[0, 4]), int(free[1, 9]), int(free[2, 2])]
    got = ours(pair, ids, 24, eos="respect", eos_ids=eos)
    assert torch.equal(got.output_ids, theirs(twin, ids, 24, eos_token_id=eos))
    firsts = [next(i for i, token in enumerate(row) if token in eos) + 1 for row in free.tolist()]
    assert got.useful_tokens.tolist() == firsts
    assert got.output_ids.shape[1] == max(firsts) < 24
    assert got.stop_reason == "eos"


def test_sampled_tokens_equal_those_of_gemma4_from_the_same_seed(pair: Pair, twin: Any) -> None:
    ids = random_ids(2, 9)
    torch.manual_seed(3)
    expected = theirs(twin, ids, 12, do_sample=True, temperature=0.7, top_k=0, top_p=1.0)
    got = ours(pair, ids, 12, temperature=0.7, generator=torch.Generator().manual_seed(3))
    assert torch.equal(got.output_ids, expected)


def test_sampling_draws_only_from_the_callers_generator(pair: Pair) -> None:
    before = torch.random.get_rng_state()
    ours(pair, random_ids(2, 9), 6, temperature=1.0, generator=torch.Generator().manual_seed(3))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_prefill_gives_the_first_token_so_that_n_tokens_take_n_minus_1_passes(pair: Pair) -> None:
    got = ours(pair, random_ids(2, 9), 7)
    assert got.passes == {"prefill": 1, "denoise": 0, "commit": 0, "decode": 6}
    assert len(got.step_s) == 6
    assert len(got.block_s) == 7
    assert got.block_s == sorted(got.block_s)
    assert got.ttfb_s == got.block_s[0]
    assert got.useful_tokens.tolist() == [7, 7]
    assert got.steps_per_canvas.shape == (2, 0)
    assert got.stop_reason == "length"


def test_one_token_takes_no_decode_pass(pair: Pair) -> None:
    got = ours(pair, random_ids(1, 9), 1)
    assert got.passes["decode"] == 0
    assert got.output_ids.shape == (1, 1)


def test_a_generated_pad_id_counts_as_a_token(pair: Pair) -> None:
    ids = random_ids(1, 9)
    produced = int(ours(pair, ids, 1).output_ids)
    config = pair.ours.config
    pair.ours.config = config.with_generation(pad_id=produced)
    try:
        got = ours(pair, ids, 5, eos="respect", eos_ids=[95])
    finally:
        pair.ours.config = config
    assert 95 not in got.output_ids
    assert got.useful_tokens.tolist() == [5]


def test_cached_logits_equal_a_full_forward(pair: Pair) -> None:
    ids = random_ids(2, 30)
    cache = api.encode(pair.ours, ids[:, :5])
    parts = [api.causal_logits(pair.ours, part, cache=cache) for part in ids[:, 5:].split([1, 1, 9, 1, 13], dim=1)]
    full = api.causal_logits(pair.ours, ids)[:, 5:]
    torch.testing.assert_close(torch.cat(parts, dim=1), full, atol=1e-5, rtol=0)
