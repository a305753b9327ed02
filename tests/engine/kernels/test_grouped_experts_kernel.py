"""The experts' kernels against every pair multiplied out in float32."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("triton", reason="Triton has no build for this platform")
from engine import api, moe
from engine.choices import PLAIN
from engine.kernels.fp8 import quantised
from engine.kernels.grouped_experts import experts_oracle, gathered_experts, grouped_experts

KERNELS = {"grouped": grouped_experts, "gathered": gathered_experts}
# Of the largest output. Sums in another order can flip one rounding of bfloat16 (2**-8) each in the inner activations,
# the pair's output and the sum.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3 * 2.0**-8}


def problem(
    tokens: int, k: int, experts: int, hidden: int, width: int, *, dtype: torch.dtype, fp8: bool, seed: int,
    used: int = 0,
) -> tuple[torch.Tensor, ...]:  # fmt: skip
    """Arguments of the kernels; with `used`, tokens go only to that many of the experts."""
    g = torch.Generator().manual_seed(seed)
    x_NH = torch.randn(tokens, hidden, generator=g).to(dtype)
    chosen = torch.randperm(experts, generator=g)[: max(used or experts, k)]
    experts_NK = torch.stack([chosen[torch.randperm(len(chosen), generator=g)[:k]] for _ in range(tokens)])
    weights_NK = torch.rand(tokens, k, generator=g)
    gate_up = torch.randn(experts, 2 * width, hidden, generator=g) / hidden**0.5
    down = torch.randn(experts, hidden, width, generator=g) / width**0.5
    if not fp8:
        return x_NH, weights_NK, experts_NK, gate_up.to(dtype), down.to(dtype)
    (gate_up8, gate_up_scale), (down8, down_scale) = quantised(gate_up), quantised(down)
    return x_NH, weights_NK, experts_NK, gate_up8, down8, gate_up_scale, down_scale


def check(name: str, device: torch.device, arguments: tuple[torch.Tensor, ...]) -> None:
    got = KERNELS[name](*(t.to(device) for t in arguments)).cpu()
    expected = experts_oracle(*arguments)
    assert got.dtype == expected.dtype
    limit = TOLERANCE[got.dtype] * expected.abs().max().item()
    torch.testing.assert_close(got, expected, atol=limit, rtol=0)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(KERNELS)), tokens=st.integers(1, 9), k=st.integers(1, 3), experts=st.integers(3, 9),
    hidden=st.integers(1, 90), width=st.integers(1, 80), dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    fp8=st.booleans(), seed=st.integers(0, 999), used=st.integers(0, 3),
)  # fmt: skip
def test_random_shapes_and_routings_equal_the_oracle(
    device: torch.device, name: str, tokens: int, k: int, experts: int, hidden: int, width: int, dtype: torch.dtype,
    fp8: bool, seed: int, used: int,
) -> None:  # fmt: skip
    check(name, device, problem(tokens, k, experts, hidden, width, dtype=dtype, fp8=fp8, seed=seed, used=used))


@pytest.mark.parametrize("used", [1, 2, 0])
def test_experts_with_many_tiles_of_rows_and_experts_without_rows(device: torch.device, used: int) -> None:
    arguments = problem(75, 1, 4, 40, 24, dtype=torch.float32, fp8=False, seed=3, used=used)
    check("grouped", device, arguments)


def test_widths_over_one_tile_are_covered_by_several(device: torch.device) -> None:
    check("grouped", device, problem(5, 2, 3, 150, 70, dtype=torch.bfloat16, fp8=True, seed=4))
    check("gathered", device, problem(2, 2, 3, 300, 40, dtype=torch.bfloat16, fp8=True, seed=4))


def test_large_activations_overflow_no_gelu(device: torch.device) -> None:
    x_NH, *rest = problem(2, 1, 3, 16, 16, dtype=torch.float32, fp8=False, seed=5)
    for name in KERNELS:
        check(name, device, (x_NH * 1e4, *rest))


@pytest.mark.parametrize("name", sorted(KERNELS))
def test_the_engines_own_layer_gives_the_same(device: torch.device, name: str) -> None:
    layer = api.load("tiny").layers[0]
    x_NH = torch.randn(4, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        weights_NK, experts_NK = layer.router(x_NH)
        expected = moe.expert_mlp(x_NH, weights_NK, experts_NK, layer.experts, 0, PLAIN)
        arguments = (x_NH, weights_NK, experts_NK, layer.experts.gate_up_proj, layer.experts.down_proj)
        got = KERNELS[name](*(t.to(device) for t in arguments)).cpu()
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_equal_calls_give_equal_bits(device: torch.device) -> None:
    arguments = [t.to(device) for t in problem(6, 3, 5, 33, 17, dtype=torch.bfloat16, fp8=False, seed=6)]
    assert torch.equal(grouped_experts(*arguments), grouped_experts(*arguments))


def test_arguments_that_do_not_fit_are_named() -> None:
    good = problem(2, 1, 3, 8, 4, dtype=torch.float32, fp8=True, seed=7)
    with pytest.raises(ValueError, match="do not fit"):
        grouped_experts(good[0][:, :-1], *good[1:])
    with pytest.raises(ValueError, match="no scales; float8_e4m3fn needs one per output channel"):
        grouped_experts(*good[:5])
    with pytest.raises(ValueError, match="routing weights"):
        gathered_experts(good[0], good[1].bfloat16(), *good[2:])
    with pytest.raises(ValueError, match="contiguous"):
        gathered_experts(good[0].t().contiguous().t(), *good[1:])
