"""The parts of the CUDA path inside the engine, in Triton's interpreter, against the plain ones: small shapes."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch
from oracle import random_ids
from scipy.stats import chisquare

pytest.importorskip("triton", reason="Triton has no build for this platform")
from engine import api, kernel_step, weights
from engine.choices import PLAIN, Choices, resolve
from engine.config import FULL, PRESETS, SLIDING, WINDOW_FORMS

KERNELS = replace(PLAIN, experts="kernel", attention="kernel", sampler="kernel")
BOUND = 2e-5  # of float32 logits, whose standard deviation is about 1
SHAPE = replace(
    PRESETS["tiny"],
    num_layers=3,
    layer_types=(SLIDING, SLIDING, FULL),
    hidden_size=32,
    intermediate_size=48,
    head_dim=16,
    global_head_dim=32,
    moe_intermediate_size=16,
    sliding_window=6,
    vocab_size=96,
    canvas_length=8,
)


@pytest.fixture(scope="module")
def model() -> api.Model:
    return weights.random_model(SHAPE, torch.device("cpu"), torch.float32, seed=0)


def logits(
    model: api.Model, choices: Choices, batch: int, prompt: int, length: int, padding: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of a prompt with padding in its last row, of a canvas behind it and another one, and of tokens behind that."""
    model.choices = choices
    ids, canvas = random_ids(batch, prompt, 0, 96), random_ids(batch, length, 1, 96)
    mask = torch.ones_like(ids)
    mask[-1, :padding] = 0
    cache = model.new_cache(batch)
    prefill = api.causal_logits(model, ids, cache=cache, attention_mask_BT=mask)[:, padding:]
    api.encode(model, canvas, cache=cache)
    previous = 3 * torch.randn(batch, length, 96, generator=torch.Generator().manual_seed(2))
    denoised = api.denoise_logits(model, canvas, cache, self_conditioning_BLV=previous)
    return prefill, denoised, api.causal_logits(model, canvas[:, :1], cache=cache)


@pytest.mark.parametrize("window", WINDOW_FORMS)
@pytest.mark.parametrize(("batch", "prompt", "length", "padding"), [(1, 9, 8, 0), (2, 5, 3, 2), (3, 4, 9, 0)])
@pytest.mark.parametrize(
    "choices",
    [KERNELS, replace(PLAIN, experts="gathered"), replace(PLAIN, attention="kernel")],
    ids=["all kernels", "gathered", "attention"],
)
def test_logits_equal_those_of_the_plain_implementations(
    model: api.Model, choices: Choices, window: str, batch: int, prompt: int, length: int, padding: int
) -> None:
    model.window = window
    shape = (batch, prompt, length, padding)
    pairs = zip(logits(model, PLAIN, *shape), logits(model, choices, *shape), strict=True)
    assert max((plain - kernel).abs().max().item() for plain, kernel in pairs) <= BOUND
    model.window = "sdpa"


def test_greedy_decoding_gives_the_tokens_of_the_plain_path(model: api.Model) -> None:
    def tokens(choices: Choices) -> torch.Tensor:
        model.choices = choices
        prompt = random_ids(2, 7, 0, 96)
        mask = torch.ones_like(prompt)
        mask[1, :3] = 0
        return api.generate(
            model, prompt, decoding="autoregressive", output_tokens=12, attention_mask_BT=mask, eos="ignore"
        ).output_ids

    assert torch.equal(tokens(KERNELS), tokens(PLAIN))


@pytest.mark.parametrize("most_logits", [2**28, 3 * 96])
def test_a_step_has_the_likeliest_tokens_entropies_and_probabilities_of_a_plain_one_in_any_chunks(
    model: api.Model, monkeypatch: pytest.MonkeyPatch, most_logits: int
) -> None:
    from engine.sampling import plain

    monkeypatch.setattr(kernel_step, "_MOST_LOGITS", most_logits)
    model.choices = replace(KERNELS, head="chunked")
    x_BLH = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(3))
    draws = kernel_step.Draws.of(random_ids(2, 5, 0, 96))
    draws.renew(96, torch.Generator().manual_seed(0))
    with torch.no_grad():
        got = kernel_step.sampled(model, x_BLH, torch.tensor(0.7), 0.5, draws)
        wanted = plain(model.head(x_BLH), torch.tensor(0.7), 0.5, None)
    assert torch.equal(got.argmax_BL, wanted.argmax_BL)
    torch.testing.assert_close(got.entropy_BL, wanted.entropy_BL, atol=1e-5, rtol=0)
    assert wanted.conditioning_BLV is not None
    torch.testing.assert_close(got.probs_BLV, wanted.conditioning_BLV.softmax(dim=-1), atol=1e-6, rtol=0)


def test_rows_of_different_chunks_draw_independently(model: api.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal rows, one a chunk: were each chunk's noise the same, they would all draw the same token."""
    monkeypatch.setattr(kernel_step, "_MOST_LOGITS", 96)
    model.choices = replace(KERNELS, head="chunked")
    x_BLH = torch.randn(1, 1, 32, generator=torch.Generator().manual_seed(3)).expand(1, 24, 32)
    draws = kernel_step.Draws.of(random_ids(1, 24, 0, 96))
    draws.renew(96, torch.Generator().manual_seed(0))
    with torch.no_grad():
        canvas = kernel_step.sampled(model, x_BLH, torch.tensor(1.0), 1e9, draws).canvas_BL
    assert canvas.unique().numel() > 4


def test_a_step_draws_each_token_with_its_probability(model: api.Model) -> None:
    """Chi-square over equal rows of a step that accepts every draw."""
    model.choices = KERNELS
    rows = 500
    x_BLH = torch.randn(1, 1, 32, generator=torch.Generator().manual_seed(5)).expand(1, rows, 32)
    draws = kernel_step.Draws.of(torch.zeros(1, rows, dtype=torch.long))
    draws.renew(96, torch.Generator().manual_seed(1))
    with torch.no_grad():
        drawn = kernel_step.sampled(model, x_BLH, torch.tensor(0.8), 1e9, draws)
        expected = (model.head(x_BLH[0, :1])[0] / 0.8).softmax(dim=-1).double() * rows
    counts = torch.bincount(drawn.canvas_BL[0], minlength=96).double()
    rare = expected < 5
    seen, wanted = ([*x[~rare].tolist(), x[rare].sum().item()] for x in (counts, expected * rows / expected.sum()))
    assert chisquare(seen, wanted).pvalue > 0.001


def test_equal_generators_give_the_kernel_sampler_equal_tokens_and_others_do_not(model: api.Model) -> None:
    model.choices = KERNELS

    def tokens(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return api.generate(
            model, random_ids(1, 5), decoding="block_diffusion", output_tokens=8, num_steps=2, generator=generator
        ).output_ids

    assert torch.equal(tokens(5), tokens(5))
    assert not torch.equal(tokens(5), tokens(6))


def test_a_cache_of_the_other_attention_and_padding_behind_cached_tokens_are_refused(model: api.Model) -> None:
    model.choices = KERNELS
    ids = random_ids(1, 4, 0, 96)
    with pytest.raises(ValueError, match="does not go with attention='kernel'"):
        api.encode(model, ids, cache=api.KVCache(model.config))
    cache = api.encode(model, ids)
    with pytest.raises(ValueError, match="before the first ones only"):
        api.encode(model, ids, cache=cache, attention_mask_BT=torch.tensor([[0, 1, 1, 1]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"experts": "kernel"}, "experts is 'kernel', which needs a CUDA GPU and Triton"),
        ({"experts": "gathered"}, "experts is 'gathered', which needs a CUDA GPU"),
        ({"attention": "kernel"}, "attention is 'kernel', which needs a CUDA GPU"),
        ({"sampler": "kernel"}, "sampler is 'kernel', which needs a CUDA GPU"),
    ],
)
def test_a_kernel_is_refused_on_a_cpu_without_the_interpreter(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, str], message: str
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(ValueError, match=message):
        api.load("tiny", options=options)


def test_a_gpu_gets_torchs_own_operations_and_kernels_and_graphs_for_who_names_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    gpu = torch.device("cuda")
    chosen = resolve(gpu, torch.bfloat16)
    assert (chosen.attention, chosen.sampler, chosen.experts) == ("sdpa", "fast", "grouped")
    assert (chosen.head, chosen.graphs) == ("whole", "off")
    named = {"attention": "kernel", "sampler": "kernel", "experts": "gathered", "head": "chunked", "graphs": "on"}
    assert asdict(resolve(gpu, torch.bfloat16, named)).items() >= named.items()
    with pytest.raises(ValueError, match="graphs is 'on', but attention='sdpa' has the keys' number in its shapes"):
        resolve(gpu, torch.bfloat16, {"attention": "sdpa", "graphs": "on"})
