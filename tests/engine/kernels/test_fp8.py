"""Float8 weights: how far off one is, the product with them, and the gate."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.kernels import fp8

NAN = float("nan")


def random_weights(outputs: int, inputs: int, seed: int) -> torch.Tensor:
    """Channels of very different sizes, weights within one as well."""
    g = torch.Generator().manual_seed(seed)
    spread = torch.exp(2 * torch.randn(outputs, inputs, generator=g) + 5 * torch.randn(outputs, 1, generator=g))
    return spread * torch.randn(outputs, inputs, generator=g).sign()


@given(outputs=st.integers(1, 9), inputs=st.integers(1, 200), seed=st.integers(0, 999))
@settings(max_examples=50, deadline=None)
def test_a_weight_is_off_by_a_sixteenth_or_a_1024th_of_its_channels_scale(outputs: int, inputs: int, seed: int) -> None:
    w = random_weights(outputs, inputs, seed)
    stored, scale_O = fp8.quantised(w)
    off = (fp8.dequantised(stored, scale_O) - w).abs()
    bound = torch.maximum(w.abs() / 16, scale_O[:, None] / 1024)
    assert bool((off <= bound * (1 + 1e-5)).all())


def test_a_channels_largest_weight_is_kept_to_rounding_and_a_channel_of_zeros_stays() -> None:
    w = torch.tensor([[0.1, -0.7], [0.0, 0.0]])
    stored, scale_O = fp8.quantised(w)
    restored = fp8.dequantised(stored, scale_O)
    torch.testing.assert_close(restored[0, 1], w[0, 1])
    assert torch.equal(restored[1], w[1])


def test_experts_are_quantised_like_single_matrices() -> None:
    w = torch.stack([random_weights(5, 7, seed) for seed in range(3)])
    stored, scale_EO = fp8.quantised(w)
    assert scale_EO.shape == (3, 5)
    assert torch.equal(stored[1].float(), fp8.quantised(w[1])[0].float())


def test_weights_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="no float8 form"):
        fp8.quantised(torch.tensor([[1.0, NAN]]))


def test_the_gate_lets_through_what_is_within_the_bound_and_names_the_error_of_the_rest() -> None:
    exact, bound = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)), fp8.BOUNDS[torch.float8_e4m3fn]
    assert fp8.check_logits(exact * (1 + bound * 0.99), exact, torch.float8_e4m3fn) == pytest.approx(bound * 0.99)
    with pytest.raises(ValueError, match=r"float8_e4m3fn weights the logits are off by"):
        fp8.check_logits(exact * (1 + bound * 1.01), exact, torch.float8_e4m3fn)
    with pytest.raises(ValueError, match="off by nan"):
        fp8.check_logits(exact * NAN, exact, torch.float8_e4m3fn)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.integers(1, 70), outputs=st.integers(1, 150), inputs=st.integers(1, 150), seed=st.integers(0, 999),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)  # fmt: skip
def test_the_product_equals_the_one_with_restored_weights(
    device: torch.device, rows: int, outputs: int, inputs: int, seed: int, dtype: torch.dtype
) -> None:
    linear = pytest.importorskip("engine.kernels.linear", reason="Triton has no build for this platform")
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, inputs, generator=g).to(dtype)
    stored, scale_O = fp8.quantised(torch.randn(outputs, inputs, generator=g))
    got = linear.fp8_linear(x.to(device), stored.to(device), scale_O.to(device)).cpu()
    expected = linear.fp8_linear_oracle(x, stored, scale_O)
    one_rounding = 2.0**-7 if dtype == torch.bfloat16 else 1e-5  # sums in another order may fall on the other side
    torch.testing.assert_close(got, expected, rtol=one_rounding, atol=1e-5 * expected.abs().max().item())


def test_a_product_that_does_not_fit_is_refused() -> None:
    linear = pytest.importorskip("engine.kernels.linear", reason="Triton has no build for this platform")
    stored, scale_O = fp8.quantised(torch.ones(4, 8))
    with pytest.raises(ValueError, match="do not fit"):
        linear.fp8_linear(torch.ones(2, 9), stored, scale_O)
    with pytest.raises(ValueError, match="activations must be"):
        linear.fp8_linear(torch.ones(2, 8).double(), stored, scale_O)
