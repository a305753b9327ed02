"""Attention over a buffer with lengths on the device, against one masked softmax over all slots."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("triton", reason="Triton has no build for this platform")
from engine.attention import visibility
from engine.config import FULL, PRESETS, SLIDING
from engine.kernels.attention import FORMS, attend, attend_oracle
from engine.kv_cache import KVCache

# Outputs are means of values of size 1: probabilities and outputs are rounded once each.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2.0**-6}


def problem(
    batch: int, tokens: int, heads: int, kv_heads: int, slots: int, size: int, dtype: torch.dtype, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    q, k, v = (
        torch.randn(shape, generator=g)
        for shape in ((batch, tokens, heads, size), *2 * ((batch, kv_heads, slots, size),))
    )
    return (q * 2 / size**0.5).to(dtype), k.to(dtype), v.to(dtype)


def check(
    device: torch.device, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, starts: list[int], ends: list[int], *,
    form: str, window: int | None = None, parts: int | None = None,
) -> torch.Tensor:  # fmt: skip
    """The kernel's output, once it equals the oracle's; slots outside start..end hold NaN, which must not be read."""
    k, v = k.clone(), v.clone()
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        for buffer in (k, v):
            buffer[row, :, end:] = float("nan")
            buffer[row, :, :start] = 7.0  # padding was written too, with numbers
    bounds = [torch.tensor(x, dtype=torch.int32, device=device) for x in (starts, ends)]
    arguments = [*(x.to(device) for x in (q, k, v)), *bounds]
    got = attend(*arguments, form=form, window=window, parts=parts)
    expected = attend_oracle(*arguments, form=form, window=window)
    torch.testing.assert_close(got, expected, atol=TOLERANCE[q.dtype], rtol=0)
    return got


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), batch=st.integers(1, 2), tokens=st.integers(1, 40), kv_heads=st.integers(1, 2),
       group=st.integers(1, 4), size=st.sampled_from([16, 64]), dtype=st.sampled_from([torch.float32, torch.bfloat16]),
       form=st.sampled_from(FORMS), window=st.none() | st.integers(1, 60), parts=st.sampled_from([None, 1, 3]),
       seed=st.integers(0, 999))  # fmt: skip
def test_random_lengths_paddings_windows_and_forms_equal_the_oracle(
    device: torch.device, data: st.DataObject, batch: int, tokens: int, kv_heads: int, group: int, size: int,
    dtype: torch.dtype, form: str, window: int | None, parts: int | None, seed: int,
) -> None:  # fmt: skip
    slots = tokens + data.draw(st.integers(0, 150))
    ends = [data.draw(st.integers(tokens, slots)) for _ in range(batch)]
    starts = [data.draw(st.integers(0, end)) for end in ends]
    q, k, v = problem(batch, tokens, kv_heads * group, kv_heads, slots, size, dtype, seed)
    check(device, q, k, v, starts, ends, form=form, window=window, parts=parts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("size", "kv_heads", "window"), [(256, 2, 20), (512, 1, None)])
@pytest.mark.parametrize(("form", "tokens"), [("causal", 1), ("canvas", 1), ("canvas", 9), ("causal", 9)])
def test_the_released_head_sizes_over_several_tiles_of_keys(
    device: torch.device, dtype: torch.dtype, size: int, kv_heads: int, window: int | None, form: str, tokens: int
) -> None:
    q, k, v = problem(2, tokens, 8, kv_heads, 90, size, dtype, 1)
    check(device, q, k, v, [0, 31], [90, 70], form=form, window=window)


def test_a_query_that_is_padding_and_a_row_without_tokens_give_zeros(device: torch.device) -> None:
    q, k, v = problem(2, 6, 4, 2, 20, 16, torch.float32, 2)
    for parts in (1, 2):
        got = check(device, q, k, v, [4, 6], [6, 6], form="causal", parts=parts)
        assert not got[0, :4].any()
        assert got[0, 4:].all()
        assert not got[1].any()


def test_one_call_serves_other_lengths_written_to_the_same_tensors(device: torch.device) -> None:
    """What a graph replays: the same arguments, changed in place."""
    q, k, v = (x.to(device) for x in problem(1, 2, 4, 2, 64, 16, torch.float32, 3))
    start, end = (torch.tensor([x], dtype=torch.int32, device=device) for x in (0, 10))
    short = attend(q, k, v, start, end, form="canvas")
    end.fill_(60)
    longer = attend(q, k, v, start, end, form="canvas")
    torch.testing.assert_close(longer, attend_oracle(q, k, v, start, end, form="canvas"), atol=2e-5, rtol=0)
    assert not torch.allclose(short, longer, atol=1e-3)


def test_buffers_may_be_views_of_larger_ones_and_queries_slices_of_a_projection(device: torch.device) -> None:
    q, k, v = problem(2, 5, 8, 2, 50, 32, torch.bfloat16, 4)
    views = (q[:, :, 2:6].to(device), k[:, :, 3:].to(device), v[:, :, 3:].to(device))
    q_view = q.to(device)[:, :, 2:6]
    bounds = [torch.tensor(x, dtype=torch.int32, device=device) for x in ([2, 0], [40, 47])]
    got = attend(q_view, k.to(device)[:, :, 3:], v.to(device)[:, :, 3:], *bounds, form="causal", window=7)
    torch.testing.assert_close(got, attend_oracle(*views, *bounds, form="causal", window=7), atol=2.0**-6, rtol=0)


@pytest.mark.parametrize(("kind", "form"), [(FULL, "causal"), (FULL, "canvas"), (SLIDING, "causal"),
                                            (SLIDING, "canvas"), (SLIDING, "symmetric")])  # fmt: skip
@pytest.mark.parametrize("cached", [10, 100])
def test_forms_are_those_of_the_engines_masks(device: torch.device, kind: str, form: str, cached: int) -> None:
    config, tokens = PRESETS["tiny"], 12
    assert 10 < config.sliding_window < 100 + tokens
    cache, pad = KVCache(config), 3
    cache.length, cache.real_BS = cached, (torch.arange(cached) >= pad)[None]
    window = config.sliding_window if kind == SLIDING else None
    mask = visibility(config, kind, cache, tokens, torch.device("cpu"), causal=form == "causal",
                      window="symmetric" if form == "symmetric" else "sdpa", real_BT=None)  # fmt: skip
    assert mask is not None
    q, k, v = problem(1, tokens, 4, 2, cached + tokens, 16, torch.float32, 5)
    bounds = [torch.tensor([x], dtype=torch.int32, device=device) for x in (pad, cached + tokens)]
    got = attend(*(x.to(device) for x in (q, k, v)), *bounds, form=form, window=window)
    kept = mask.shape[-1]  # the engine's sliding layers hold no older keys
    k_BQSD, v_BQSD = (x[:, :, -kept:].repeat_interleave(2, dim=1) for x in (k, v))
    expected = torch.nn.functional.scaled_dot_product_attention(q.transpose(1, 2), k_BQSD, v_BQSD, mask, scale=1.0)
    torch.testing.assert_close(got.cpu(), expected.transpose(1, 2), atol=2e-5, rtol=0)


def test_arguments_that_do_not_fit_are_named() -> None:
    q, k, v = problem(1, 4, 4, 2, 8, 16, torch.float32, 6)
    start, end = torch.zeros(1, dtype=torch.int32), torch.full((1,), 8, dtype=torch.int32)
    for arguments, options, message in (
        ((q, k, v, start, end), {"form": "sdpa"}, "form must be one of causal, canvas, symmetric"),
        ((q, k, v, start, end), {"form": "causal", "window": 0}, "own slot"),
        ((q[:, :, :3], k, v, start, end), {"form": "causal"}, "multiple of K"),
        ((q[..., :12], k[..., :12], v[..., :12], start, end), {"form": "causal"}, "power of two"),
        ((q, k[:, :, :3], v[:, :, :3], start, end), {"form": "causal"}, "no room"),
        ((q, k, v.bfloat16(), start, end), {"form": "causal"}, "all alike"),
        ((q, k, v, start.long(), end), {"form": "causal"}, "start must be 1 int32"),
    ):
        with pytest.raises(ValueError, match=message):
            attend(*arguments, **options)
