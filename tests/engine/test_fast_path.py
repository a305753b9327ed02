"""Every faster implementation against its plain one: logits, tokens, and the distribution that samplers draw from."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch
from oracle import exceptions, random_ids
from scipy.stats import chisquare

from engine import api, sampling
from engine.choices import OPTIONS, PLAIN, Choices, resolve

CPU = torch.device("cpu")
FAST = resolve(CPU, torch.float32)
BOUND = 1e-5  # of logits, whose standard deviation is about 1
SWITCHED = {"everything": FAST} | {
    name: replace(PLAIN, **{name: value}) for name, value in asdict(FAST).items() if value != getattr(PLAIN, name)
}


@pytest.fixture(scope="module")
def tiny() -> api.Model:
    return api.load("tiny")


def logits(model: api.Model, choices: Choices, batch: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Self-conditioned logits of a canvas, and causal ones, behind a prompt longer than the window of 64."""
    model.choices = choices
    vocab = model.config.vocab_size
    canvas_BL = random_ids(batch, length, 1, vocab)
    previous = 3 * torch.randn(batch, length, vocab, generator=torch.Generator().manual_seed(2))
    cache = api.encode(model, random_ids(batch, 70, 0, vocab))
    denoised = api.denoise_logits(model, canvas_BL, cache, self_conditioning_BLV=previous)
    return denoised, api.causal_logits(model, canvas_BL, cache=cache)


# Rows per expert decide how the experts run: one token, few, all experts at once, and the loop (256 rows and more).
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (3, 1), (1, 32), (2, 300)])
@pytest.mark.parametrize("choices", SWITCHED.values(), ids=SWITCHED)
def test_logits_equal_those_of_the_plain_implementations(
    tiny: api.Model, choices: Choices, batch: int, length: int
) -> None:
    pairs = zip(logits(tiny, PLAIN, batch, length), logits(tiny, choices, batch, length), strict=True)
    assert max((plain - fast).abs().max().item() for plain, fast in pairs) <= BOUND


def test_the_plain_and_the_fast_path_differ_in_every_part_that_has_a_choice() -> None:
    assert set(SWITCHED) == {"everything", "linear", "projections", "norms", "experts", "sampler"}


def test_every_step_of_a_request_has_the_likeliest_tokens_of_the_plain_path(
    tiny: api.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step is computed twice from equal inputs, so that a near tie leaves later steps comparable."""
    denoise, seen = tiny.denoise, []

    def both(*inputs: torch.Tensor) -> torch.Tensor:
        tiny.choices = PLAIN
        plain = denoise(*inputs)
        tiny.choices = FAST
        fast = denoise(*inputs)
        seen.append(exceptions(plain, fast.argmax(dim=-1)))
        return fast

    monkeypatch.setattr(tiny, "denoise", both)
    tiny.choices = FAST
    prompt = random_ids(4, 40, 0, 512)
    api.generate(tiny, prompt, decoding="block_diffusion", output_tokens=64, num_steps=12, stopping="fixed")
    assert len(seen) == 24
    assert sum(seen) <= 3  # of 3,072 tokens, all of them near ties


def test_every_decoded_token_is_the_likeliest_of_the_plain_path(tiny: api.Model) -> None:
    tiny.choices = FAST
    prompt = random_ids(4, 40, 0, 512)
    out = api.generate(tiny, prompt, decoding="autoregressive", output_tokens=64, eos="ignore").output_ids
    tiny.choices = PLAIN
    plain = api.causal_logits(tiny, torch.cat([prompt, out[:, :-1]], dim=1))[:, 39:]
    assert exceptions(plain, out) <= 1


def test_a_token_that_differs_without_a_near_tie_is_no_exception() -> None:
    oracle_BLV = torch.tensor([[[0.0, 1.0, 1.0 - 5e-5, 0.9]]])
    assert [exceptions(oracle_BLV, torch.tensor([[token]])) for token in (1, 2)] == [0, 1]
    with pytest.raises(AssertionError, match="no near ties"):
        exceptions(oracle_BLV, torch.tensor([[3]]))


@pytest.mark.parametrize("vocab", [96, 512, 997])
def test_the_fast_sampler_draws_each_token_with_its_probability(vocab: int) -> None:
    """Chi-square over 120,000 draws, by steps that accept all; tokens expected less than five times count as one."""
    generator = torch.Generator().manual_seed(vocab)
    logits_V, temperature = 2 * torch.randn(vocab, generator=generator), 0.7
    steps, rows = 120, 1_000
    logits_BLV = logits_V.expand(1, rows, vocab)
    drawn = [
        sampling.fast(logits_BLV.clone(), torch.tensor(temperature), torch.inf, generator).canvas_BL[0]
        for _ in range(steps)
    ]
    counts = torch.bincount(torch.cat(drawn), minlength=vocab).double()
    expected = (logits_V.double() / temperature).softmax(dim=-1) * steps * rows
    rare = expected < 5
    seen, wanted = ([*x[~rare].tolist(), x[rare].sum().item()] for x in (counts, expected))
    assert chisquare(seen, wanted).pvalue > 0.001


def test_inversion_gives_the_token_whose_share_of_the_line_holds_the_number() -> None:
    probs = torch.tensor([[[0.0, 0.5, 0.0, 0.25, 0.25, 0.0, 0.0, 0.0]]]).expand(1, 6, 8).contiguous()
    u = torch.tensor([[0.0, 0.49, 0.5, 0.74, 0.75, 1 - 2**-53]], dtype=torch.float64)
    assert sampling.invert(probs, u).tolist() == [[1, 1, 3, 3, 4, 4]]


@pytest.mark.parametrize("vocab", [96, 512, 997])
def test_a_fast_step_has_the_likeliest_tokens_entropies_and_probabilities_of_a_plain_one(vocab: int) -> None:
    logits_BLV = 4 * torch.randn(2, 9, vocab, generator=torch.Generator().manual_seed(0))
    logits_BLV[0, 0] = logits_BLV[0, 0].round()  # ties: the first of them is taken
    temperature = torch.tensor(0.7)
    plain, fast = (step(logits_BLV.clone(), temperature, 0.5, None) for step in (sampling.plain, sampling.fast))
    assert torch.equal(plain.argmax_BL, fast.argmax_BL)
    torch.testing.assert_close(fast.entropy_BL, plain.entropy_BL, atol=1e-5, rtol=0)
    assert plain.conditioning_BLV is not None
    torch.testing.assert_close(fast.probs_BLV, plain.conditioning_BLV.softmax(dim=-1), atol=1e-6, rtol=0)


def test_equal_generators_give_the_fast_sampler_equal_tokens_and_others_do_not(tiny: api.Model) -> None:
    tiny.choices = FAST

    def tokens(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return api.generate(
            tiny, random_ids(2, 9), decoding="block_diffusion", output_tokens=32, num_steps=4, generator=generator
        ).output_ids

    assert torch.equal(tokens(5), tokens(5))
    assert not torch.equal(tokens(5), tokens(6))


def test_a_device_and_dtype_without_a_fast_form_gets_the_plain_one() -> None:
    assert resolve(CPU, torch.bfloat16).linear == "plain"
    assert resolve(CPU, torch.bfloat16).experts == "loop"
    assert resolve(torch.device("cuda"), torch.bfloat16).experts == "grouped"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"kernel": "x"}, "option is 'kernel', expected 'linear' or 'projections'"),
        ({"experts": "lop"}, "experts is 'lop', expected 'loop' or 'tailored' or 'grouped'"),
    ],
)
def test_an_unknown_option_or_value_is_refused_with_those_that_there_are(wanted: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        api.load("tiny", options=wanted)


def test_packed_weights_are_refused_where_they_would_be_rounded() -> None:
    with pytest.raises(ValueError, match="needs a CPU, float32"):
        api.load("tiny", dtype="bfloat16", options={"linear": "packed"})


def test_every_option_says_what_it_and_its_values_do() -> None:
    assert all(option.about and len(option.values) > 1 and all(option.values.values()) for option in OPTIONS.values())
