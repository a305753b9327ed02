"""The fused sampler against torch's softmax and argmax, and its noise against the distribution it should have."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

triton = pytest.importorskip("triton", reason="Triton has no build for this platform")
import triton.language as tl  # noqa: E402

from engine.kernels import sampler  # noqa: E402
from engine.kernels.arithmetic import rounded  # noqa: E402

INF = float("inf")


def draw_from(device: torch.device, temperature: float = 0.7, seed: int = 5, draw: int = 3) -> tuple[torch.Tensor, ...]:
    return (
        torch.tensor(temperature, device=device),
        torch.tensor(seed, device=device),
        torch.tensor(draw, device=device),
    )


def random_logits(rows: int, vocab: int, seed: int = 0, scale: float = 5.0) -> torch.Tensor:
    return scale * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed))


def check(logits_NV: torch.Tensor, scalars: tuple[torch.Tensor, ...], block: int, **options: Any) -> sampler.Sampled:
    """The kernel's answer, once it agrees with the oracle's."""
    got = sampler.sample(logits_NV, *scalars, block=block, **options)
    expected = sampler.sample_oracle(logits_NV, *scalars, **options)
    torch.testing.assert_close(got.entropy_N, expected.entropy_N, atol=2e-5, rtol=1e-5, equal_nan=True)
    assert torch.equal(got.argmax_N, expected.argmax_N)
    assert torch.equal(got.token_N, expected.token_N)
    if expected.probs_NV is not None:
        assert got.probs_NV is not None
        torch.testing.assert_close(got.probs_NV, expected.probs_NV, equal_nan=True)
    return got


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.integers(1, 4), vocab=st.integers(1, 700), seed=st.integers(0, 2**62), draw=st.integers(0, 2**40),
    block=st.sampled_from([64, 256, 1024]), temperature=st.floats(0.1, 2.0), hidden=st.floats(0, 1),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    condition=st.sampled_from([None, torch.float32, torch.bfloat16]),
)  # fmt: skip
def test_rows_of_any_length_with_any_logits_missing_equal_the_oracle(
    device: torch.device, rows: int, vocab: int, seed: int, draw: int, block: int, temperature: float, hidden: float,
    dtype: torch.dtype, condition: torch.dtype | None,
) -> None:  # fmt: skip
    logits = random_logits(rows, vocab, seed % 1000)
    missing = torch.rand(rows, vocab, generator=torch.Generator().manual_seed(seed % 1000)) < hidden
    missing[:, seed % vocab] = False
    logits = logits.masked_fill(missing, -INF).to(device, dtype)
    check(logits, draw_from(device, temperature, seed, draw), block, probs_dtype=condition)


def test_the_cap_inside_the_kernel_is_the_models_cap(device: torch.device) -> None:
    logits = random_logits(3, 300, scale=60.0).to(device)
    logits[0, 7] = -INF  # capped, it is a logit of -30 like others
    check(logits, draw_from(device), 128, softcap=30.0, probs_dtype=torch.float32)


def test_among_equal_logits_the_lowest_id_is_the_argmax_across_tiles_too(device: torch.device) -> None:
    logits = torch.zeros(3, 500, device=device)
    logits[1, [70, 90, 400]] = 4.0
    logits[2, [300, 499]] = 4.0
    assert check(logits, draw_from(device), 64).argmax_N.tolist() == [0, 70, 300]


def test_one_finite_logit_is_certain_and_none_is_no_distribution(device: torch.device) -> None:
    logits = torch.full((3, 200), -INF, device=device)
    logits[0, 150], logits[1, 0] = -80.0, 3.0
    got = check(logits, draw_from(device), 64, probs_dtype=torch.float32)
    assert got.entropy_N[:2].tolist() == [0.0, 0.0]
    assert got.token_N.tolist() == [150, 0, 0]
    assert got.entropy_N[2].isnan()


def test_tiles_change_no_token(device: torch.device) -> None:
    logits, scalars = random_logits(3, 999, scale=0.5).to(device), draw_from(device)
    first, *others = (sampler.sample(logits, *scalars, block=block).token_N for block in (16, 128, 1024))
    assert all(torch.equal(first, other) for other in others)


def test_rows_may_lie_in_a_wider_buffer_and_scalars_be_views(device: torch.device) -> None:
    wide = random_logits(4, 150).to(device)
    ramp = torch.tensor([0.8, 0.6, 0.5], device=device)
    _, seed, draw = draw_from(device)
    check(wide[:, :100], (ramp[1], seed, draw), 64, probs_dtype=torch.bfloat16)


@pytest.mark.parametrize("change", ["seed", "draw", "row"])
def test_seed_step_and_row_each_give_other_draws(device: torch.device, change: str) -> None:
    flat = torch.zeros(2, 1000, device=device)
    one = sampler.sample(flat, *draw_from(device, seed=1, draw=1)).token_N
    other = sampler.sample(flat, *draw_from(device, seed=1 + (change == "seed"), draw=1 + (change == "draw"))).token_N
    assert one[0] != (one[1] if change == "row" else other[0])


def test_the_oracles_generator_gives_the_published_numbers() -> None:
    """Known answers of Random123's kat_vectors for philox4x32-10: all zeros, all ones."""
    for word, expected in (
        (0, ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]),
        (0xFFFFFFFF, ["408f276d", "41c83b0e", "a20bc7c6", "6d5451fd"]),
    ):
        words = sampler._philox_oracle([torch.tensor([word])] * 4, [word, word])
        assert [f"{int(w):08x}" for w in words] == expected


@triton.jit
def _noise(out, BLOCK: tl.constexpr):
    seed = tl.full((), 11, tl.int64)
    noise = sampler.exponentials(seed, seed * 0 + 2, tl.program_id(0), tl.program_id(1), BLOCK)
    tl.store(out + tl.arange(0, BLOCK), noise)


@pytest.fixture(scope="module")
def noise(device: torch.device) -> torch.Tensor:
    """2**20 of the kernel's own exponential draws."""
    out = torch.empty(2**20, device=device)
    _noise[(1,)](out, BLOCK=2**20)
    return out.cpu()


def test_a_million_draws_of_noise_pass_kolmogorov_and_smirnov(noise: torch.Tensor) -> None:
    assert stats.kstest(noise.numpy(), "expon").pvalue > 0.01
    least = noise.view(-1, 64).amin(dim=1) * 64  # the draws that win: Exp(1) again
    assert stats.kstest(least.numpy(), "expon").pvalue > 0.01


def test_131072_tokens_drawn_with_the_noise_have_the_softmaxs_frequencies(noise: torch.Tensor) -> None:
    z = torch.tensor([2.0, 0.0, -1.0, 1.0, -4.0, 0.5, -6.0, -INF])
    tokens = (z - noise.view(-1, 8).log()).argmax(dim=-1)
    counts = tokens.bincount(minlength=8)
    assert counts[7] == 0
    assert stats.chisquare(counts[:7].numpy(), (z.double().softmax(-1) * len(tokens))[:7].numpy()).pvalue > 0.01


def test_300_rows_of_the_whole_kernel_have_the_softmaxs_frequencies(device: torch.device) -> None:
    z = torch.tensor([1.0, 0.0, -1.0, 0.5, 2.0])
    tokens = sampler.sample(z.to(device).repeat(300, 1), *draw_from(device, temperature=2.0), block=8).token_N
    expected = (z.double() / 2).softmax(-1) * 300
    assert stats.chisquare(tokens.cpu().bincount(minlength=5).numpy(), expected.numpy()).pvalue > 0.01


@triton.jit
def _round(x, out, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(out + at, rounded(tl.load(x + at), tl.bfloat16))


def test_the_cast_to_bfloat16_is_torchs(device: torch.device) -> None:
    x = torch.cat([random_logits(1, 4092)[0], torch.tensor([INF, -INF, 0.0, 1.00390625])]).to(device)
    out = torch.empty_like(x, dtype=torch.bfloat16)
    _round[(1,)](x, out, BLOCK=4096)
    assert torch.equal(out, x.bfloat16())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"logits": torch.zeros(2, 8).t()}, "contiguous rows"),
        ({"logits": torch.zeros(2, 8, dtype=torch.float64)}, "float32 or bfloat16"),
        ({"temperature": torch.tensor(1.0).double()}, "temperature must be one"),
        ({"seed": torch.zeros(2, dtype=torch.int64)}, "seed must be one"),
        ({"block": 48}, "power of two"),
        ({"probs_dtype": torch.float16}, "probs_dtype"),
    ],
)
def test_arguments_that_do_not_fit_are_named(changed: dict[str, Any], message: str) -> None:
    temperature, seed, draw = draw_from(torch.device("cpu"))
    usual = {"logits": torch.zeros(2, 8), "temperature": temperature, "seed": seed, "draw": draw}
    logits, temperature, seed, draw = ((usual | changed)[name] for name in usual)
    options = {name: value for name, value in changed.items() if name not in usual}
    with pytest.raises(ValueError, match=message):
        sampler.sample(logits, temperature, seed, draw, **options)
