"""Experts, sampler, tokenizer and counters, each on its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Pair, random_ids

from engine import api, moe, sampling, tokenizer, weights
from engine.choices import PLAIN, resolve
from engine.config import PRESETS
from engine.observe import observe


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_grouped_experts_equal_the_loop_over_experts(dtype: torch.dtype) -> None:
    tiny = api.load("tiny", dtype=dtype)
    layer, x = tiny.layers[0], torch.randn(40, 128, generator=torch.Generator().manual_seed(0)).to(dtype)
    experts_S, _ = (layer.router(x)[1] % 5).flatten().sort()  # experts 5, 6, 7 get no row
    ends_E = torch.searchsorted(experts_S, torch.arange(8), right=True, out_int32=True)
    rows = x.repeat(2, 1)
    loop, grouped = (moe.EXPERT_GEMMS[name](rows, ends_E, layer.experts) for name in ("loop", "grouped"))
    torch.testing.assert_close(loop, grouped, atol=1e-5 if dtype == torch.float32 else 0.02, rtol=0)


def test_experts_equal_the_weighted_sum_written_out(tiny: api.Model) -> None:
    layer, x = tiny.layers[0], torch.randn(5, 128, generator=torch.Generator().manual_seed(0))
    weights_NK, experts_NK = layer.router(x)
    expected = torch.zeros_like(x)
    for n in range(5):
        for weight, e in zip(weights_NK[n], experts_NK[n], strict=True):
            gate, up = (layer.experts.gate_up_proj[e] @ x[n]).chunk(2)
            hidden = torch.nn.functional.gelu(gate, approximate="tanh") * up
            expected[n] += weight * (layer.experts.down_proj[e] @ hidden)
    got = moe.expert_mlp(x, weights_NK, experts_NK, layer.experts, 0, PLAIN)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_passes_and_sampler_never_read_the_device() -> None:
    """On the meta device there is nothing to read, so that a tensor's value on the host would raise."""
    model = weights.skeleton(PRESETS["tiny"], torch.bfloat16)
    model.choices = resolve(torch.device("cuda"), torch.bfloat16)
    prompt, canvas = (torch.zeros(2, n, dtype=torch.long, device="meta") for n in (70, 32))
    cache = api.KVCache(model.config)
    model.encode(prompt, cache)
    temperature = sampling.temperatures(2, 0.4, 0.8, model.device)[0]
    step = sampling.fast(model.denoise(canvas, cache), temperature, 0.1, None)
    model.denoise(step.canvas_BL, cache, probs_BLV=step.probs_BLV)
    model.encode(step.argmax_BL, cache)
    stopped_B = sampling.AdaptiveStop(1, 0.005)(step.argmax_BL, step.entropy_BL)
    token_B1 = sampling.draw(model.causal_logits(canvas[:, :1], cache, last=1)[:, 0].softmax(dim=-1), None)
    assert (stopped_B.shape, token_B1.shape) == ((2,), (2, 1))
    with pytest.raises(RuntimeError, match="meta"):
        stopped_B.tolist()


def test_entropy_is_that_of_the_distribution() -> None:
    z = 5 * torch.randn(2, 7, 50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sampling.entropy(z), torch.distributions.Categorical(logits=z).entropy())


def test_a_certain_row_has_zero_entropy_and_no_nan() -> None:
    z = torch.zeros(1, 1, 4)
    z[..., 0] = 1e5
    assert sampling.entropy(z).item() == 0


def test_acceptance_takes_the_least_uncertain_positions_up_to_the_bound() -> None:
    entropies = torch.tensor([[0.5, 0.02, 0.3, 0.05], [9.0, 8.0, 7.0, 6.0]])
    accepted = sampling.within_bound(entropies, 0.1)
    assert accepted.tolist() == [[False, True, True, True], [False, False, False, True]]


def test_temperatures_run_from_t_max_to_just_above_t_min() -> None:
    ramp = sampling.temperatures(4, 0.4, 0.8, torch.device("cpu"))
    torch.testing.assert_close(ramp, torch.tensor([0.8, 0.7, 0.6, 0.5]))


@pytest.mark.parametrize(("stability", "stops_at"), [(0, 0), (1, 1), (2, 2)])
def test_a_row_stops_when_its_argmax_has_held_for_so_many_steps(stability: int, stops_at: int) -> None:
    stop = sampling.AdaptiveStop(stability, confidence=1.0)
    argmax, certain = torch.zeros(1, 3, dtype=torch.long), torch.zeros(1, 3)
    seen = [bool(stop(argmax, certain)) for _ in range(4)]
    assert seen == [step >= stops_at for step in range(4)]


def test_an_uncertain_row_does_not_stop() -> None:
    stop = sampling.AdaptiveStop(0, confidence=1.0)
    assert stop(torch.zeros(2, 3, dtype=torch.long), torch.tensor([[0.9, 1.0, 1.0], [1.0, 1.0, 1.0]])).tolist() == [
        True,
        False,
    ]


@settings(deadline=None)
@given(st.text())
def test_any_text_survives_the_byte_level_tokenizer(text: str) -> None:
    ids = tokenizer.byte_level().encode(text).ids
    assert ids == [4 + byte for byte in text.encode()]
    assert tokenizer.byte_level().decode(ids) == text


def test_special_tokens_have_their_ids_and_text_never_becomes_one(tmp_path: Path) -> None:
    fresh = tokenizer.byte_level()
    fresh.save(str(tmp_path / "tokenizer.json"))
    for t in (fresh, tokenizer.read(tmp_path)):
        assert [t.token_to_id(token) for token in ("<pad>", "<eos>", "<bos>", "<end_of_turn>")] == [0, 1, 2, 3]
        assert t.encode("<eos>").ids == [4 + byte for byte in b"<eos>"]
        assert t.decode([2, 4 + ord("a"), 3, 1, 0]) == "a"
        assert t.get_vocab_size() == tokenizer.VOCAB_SIZE


def test_a_directorys_own_tokenizer_is_read_as_it_is(tmp_path: Path) -> None:
    other = tokenizer.byte_level().to_str().replace("<end_of_turn>", "<unk>")  # Gemma's first ids are not all ours
    (tmp_path / "tokenizer.json").write_text(other)
    assert tokenizer.read(tmp_path).encode("<eos>").ids == [1]


def test_an_observer_counts_distinct_experts_per_layer_and_denoising_step(pair: Pair) -> None:
    with observe(pair.ours) as seen:
        got = api.generate(
            pair.ours, random_ids(2, 9), decoding="block_diffusion", output_tokens=12, num_steps=3, stopping="fixed"
        )
    assert seen.kinds == ["denoise"] * got.passes["denoise"]
    assert [len(hits) for hits in seen.expert_hits] == [4] * 6
    assert all(2 <= h <= 6 for hits in seen.expert_hits for h in hits)
    assert [len(rows) for rows in seen.entropies] == [2] * 6
    assert all(0 <= e <= 4.6 for rows in seen.entropies for e in rows)


def test_an_observer_counts_decode_passes_but_no_prefill(pair: Pair) -> None:
    with observe(pair.ours) as seen:
        api.generate(pair.ours, random_ids(1, 9), decoding="autoregressive", output_tokens=4, eos="ignore")
    assert seen.kinds == ["decode"] * 3
    assert seen.expert_hits == [[2] * 4] * 3  # one token reads exactly its top two
    assert seen.entropies == []


def test_observing_changes_no_token_and_ends_with_its_block(pair: Pair) -> None:
    def tokens() -> torch.Tensor:
        return api.generate(
            pair.ours,
            random_ids(1, 9),
            decoding="block_diffusion",
            output_tokens=6,
            generator=torch.Generator().manual_seed(0),
        ).output_ids

    with observe(pair.ours), pytest.raises(ValueError, match="observed already"), observe(pair.ours):
        pass
    with observe(pair.ours):
        watched = tokens()
    assert pair.ours.seen is None
    assert torch.equal(watched, tokens())
