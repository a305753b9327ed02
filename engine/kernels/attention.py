"""Attention of T new tokens over a static buffer of keys and values whose used part is read on the device.

A graph captured once serves every length: row b's keys lie in slots start[b] .. end[b] - 1, the last T of them this
pass's own, and both numbers are read by the kernel. Left padding is a start above 0. The T queries belong to the last T
slots. Forms, as in `engine.attention.visibility` (i a query's slot, j a key's, W the window, none in full layers):

causal     prefill, commit, decode: 0 <= i - j, and i - j < W
canvas     denoise as transformers' sdpa path masks it: the whole canvas and the last W - 1 slots before it
symmetric  denoise as flash attention masks it: |i - j| < W

A query that sees no key (it is padding itself) gets zeros. Scores are q k, scale 1, with the softmax in float32 over
tiles of keys: of each tile exp(s - m) with the running maximum m, earlier sums times exp(m_old - m)
(https://arxiv.org/abs/2205.14135). The G query heads of a key/value head are rows of one tile, so that keys are read
once for all. Where rows are few, the keys are cut into parts whose sums a second kernel merges. Speed on a GPU: not
measured.

Legend: B batch, T new tokens, Q query heads, K key/value heads, G = Q / K, S slots, D head size, P parts of the keys,
M = G * T rows of one key/value head.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from engine.kernels.arithmetic import dot, rounded

FORMS = ("causal", "canvas", "symmetric")
_KEY_TILE_BYTES = 32768  # of keys, and as many of values
# Two stages of both and the queries: at most 192 KiB as compiled for an H100, which has 227 (A100: 137 of 163).
_QUERY_TILE_BYTES = 65536
_PROGRAMS_WANTED = 256  # about two per SM of an H100
_MOST_PARTS = 32


def attend(
    q_BTQD: torch.Tensor, k_BKSD: torch.Tensor, v_BKSD: torch.Tensor, start_B: torch.Tensor, end_B: torch.Tensor, *,
    form: str, window: int | None = None, parts: int | None = None,
) -> torch.Tensor:  # fmt: skip
    """The heads' outputs, (B, T, Q, D) contiguous, in q's type.

    q, k, v float32 or bfloat16 of one type, any strides with the head size innermost and dense; D a power of two from
    16 to 512. start_B and end_B int32, with 0 <= start <= end <= S and end >= T. `window` counts slots, the query's
    own included; None for full layers. `parts` None: as many as fill the GPU.
    """
    _check(q_BTQD, k_BKSD, v_BKSD, start_B, end_B, form, window)
    (batch, tokens, heads, size), (_, kv_heads, slots, _) = q_BTQD.shape, k_BKSD.shape
    group = heads // kv_heads
    bytes_of_row = size * q_BTQD.element_size()
    block_m = min(max(16, triton.next_power_of_2(group * tokens)), 64, _QUERY_TILE_BYTES // bytes_of_row)
    block_s = min(64, _KEY_TILE_BYTES // bytes_of_row)
    row_tiles = triton.cdiv(group * tokens, block_m)
    if parts is None:
        most = min(_MOST_PARTS, triton.cdiv(slots, 4 * block_s))
        parts = min(max(1, _PROGRAMS_WANTED // (row_tiles * batch * kv_heads)), most)
    out_BTQD = torch.empty_like(q_BTQD, memory_format=torch.contiguous_format)
    part_shape = (parts, *out_BTQD.shape[:-1]) if parts > 1 else (0,)
    max_PBTQ, sum_PBTQ = (torch.empty(part_shape, dtype=torch.float32, device=q_BTQD.device) for _ in range(2))
    part_PBTQD = torch.empty(*part_shape, size, dtype=torch.float32, device=q_BTQD.device) if parts > 1 else out_BTQD
    _attend[(row_tiles, batch * kv_heads, parts)](
        q_BTQD, k_BKSD, v_BKSD, start_B, end_B, part_PBTQD, max_PBTQ, sum_PBTQ,
        *q_BTQD.stride()[:3], *k_BKSD.stride()[:3], *v_BKSD.stride()[:3], batch, tokens, kv_heads,
        GROUP=group, FORM=form, WINDOW=window, PARTS=parts, SIZE=size, BLOCK_M=block_m, BLOCK_S=block_s,
        num_warps=4 if block_m * size <= 8192 else 8, num_stages=2,
    )  # fmt: skip
    if parts > 1:
        rows = batch * tokens * heads
        _merge_parts[(rows,)](
            part_PBTQD, max_PBTQ, sum_PBTQ, out_BTQD, rows, parts,
            PARTS=triton.next_power_of_2(parts), SIZE=size, num_warps=4,
        )  # fmt: skip
    return out_BTQD


def attend_oracle(
    q_BTQD: torch.Tensor, k_BKSD: torch.Tensor, v_BKSD: torch.Tensor, start_B: torch.Tensor, end_B: torch.Tensor, *,
    form: str, window: int | None = None,
) -> torch.Tensor:  # fmt: skip
    """The same with a mask over all slots and one softmax, in float32."""
    (_, tokens, heads, _), (_, kv_heads, slots, _) = q_BTQD.shape, k_BKSD.shape
    key_S = torch.arange(slots, device=q_BTQD.device)
    first_B11 = (end_B - tokens)[:, None, None]
    query_BT1 = first_B11 + torch.arange(tokens, device=q_BTQD.device)[:, None]
    apart_BTS = query_BT1 - key_S
    seen_BTS = (
        (key_S >= start_B[:, None, None]) & (key_S < end_B[:, None, None]) & (query_BT1 >= start_B[:, None, None])
    )
    if form == "causal":
        seen_BTS &= apart_BTS >= 0
    if window is not None:
        seen_BTS &= key_S > first_B11 - window if form == "canvas" else apart_BTS.abs() < window
    seen_B1TS = seen_BTS[:, None]
    k_BQSD, v_BQSD = (x.float().repeat_interleave(heads // kv_heads, dim=1) for x in (k_BKSD, v_BKSD))
    score_BQTS = q_BTQD.transpose(1, 2).float() @ k_BQSD.transpose(2, 3)
    probs_BQTS = score_BQTS.masked_fill(~seen_B1TS, float("-inf")).softmax(dim=-1).masked_fill(~seen_B1TS, 0.0)
    value_BQSD = v_BQSD.masked_fill(~(key_S < end_B[:, None])[:, None, :, None], 0.0)  # slots nobody wrote may hold NaN
    return (probs_BQTS @ value_BQSD).transpose(1, 2).to(q_BTQD.dtype)


def _check(
    q_BTQD: torch.Tensor, k_BKSD: torch.Tensor, v_BKSD: torch.Tensor, start_B: torch.Tensor, end_B: torch.Tensor,
    form: str, window: int | None,
) -> None:  # fmt: skip
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    if window is not None and window < 1:
        raise ValueError(f"a window holds at least the query's own slot, got {window}")
    (batch, tokens, heads, size), kv_heads, slots = q_BTQD.shape, k_BKSD.shape[1], k_BKSD.shape[2]
    if k_BKSD.shape != (batch, kv_heads, slots, size) or v_BKSD.shape != k_BKSD.shape or heads % kv_heads:
        raise ValueError(
            f"queries {tuple(q_BTQD.shape)}, keys {tuple(k_BKSD.shape)} and values {tuple(v_BKSD.shape)} do not fit: "
            "(B, T, Q, D) and twice (B, K, S, D), Q a multiple of K"
        )
    if not 16 <= size <= 512 or size & (size - 1):
        raise ValueError(f"the head size must be a power of two from 16 to 512, got {size}")
    if tokens > slots:
        raise ValueError(f"{tokens} new tokens have no room in {slots} slots")
    tensors = (q_BTQD, k_BKSD, v_BKSD)
    if {t.dtype for t in tensors} not in ({torch.float32}, {torch.bfloat16}) or any(t.stride(3) != 1 for t in tensors):
        raise ValueError("queries, keys and values must be float32 or bfloat16, all alike, with dense heads")
    for name, bound in (("start", start_B), ("end", end_B)):
        if bound.shape != (batch,) or bound.dtype != torch.int32 or not bound.is_contiguous():
            raise ValueError(f"{name} must be {batch} int32, got {tuple(bound.shape)} {bound.dtype}")


@triton.jit
def _range_of_keys(start, end, first, low_row, high_row, tokens, FORM: tl.constexpr, WINDOW: tl.constexpr):
    """The slots that some query of token low_row .. high_row sees, as begin and end; begin >= end: none."""
    begin = start
    if WINDOW is not None:
        if FORM == "canvas":
            begin = tl.maximum(begin, first - WINDOW + 1)
        else:
            begin = tl.maximum(begin, first + low_row - WINDOW + 1)
            if FORM == "symmetric":
                end = tl.minimum(end, first + high_row + WINDOW)
    if FORM == "causal":
        end = tl.minimum(end, first + high_row + 1)
    return begin, end


@triton.jit
def _attend(
    q, k, v, starts, ends, out, row_max, row_sum,
    q_b, q_t, q_q, k_b, k_k, k_s, v_b, v_k, v_s, batch, tokens, kv_heads,
    GROUP: tl.constexpr, FORM: tl.constexpr, WINDOW: tl.constexpr, PARTS: tl.constexpr, SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """One tile of rows against one part of the keys. Long, since all of it shares the running sums."""
    b, head, part = tl.program_id(1) // kv_heads, tl.program_id(1) % kv_heads, tl.program_id(2)
    m_M, d_D = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M), tl.arange(0, SIZE)
    some_M = m_M < GROUP * tokens
    t_M, query_head_M = m_M // GROUP, head * GROUP + m_M % GROUP  # a token's heads together: few tokens in a tile
    start, end = tl.load(starts + b), tl.load(ends + b)
    first = end - tokens
    low_row = tl.program_id(0) * BLOCK_M // GROUP
    high_row = tl.minimum((tl.program_id(0) * BLOCK_M + BLOCK_M - 1) // GROUP, tokens - 1)
    begin, stop = _range_of_keys(start, end, first, low_row, high_row, tokens, FORM, WINDOW)
    if PARTS > 1:
        length = (tl.maximum(stop - begin, 0) + PARTS * BLOCK_S - 1) // (PARTS * BLOCK_S) * BLOCK_S
        begin += part * length
        stop = tl.minimum(stop, begin + length)

    b64 = b.to(tl.int64)
    q_M = b64 * q_b + t_M.to(tl.int64) * q_t + query_head_M * q_q
    q_MD = tl.load(q + q_M[:, None] + d_D[None, :], mask=some_M[:, None], other=0.0)
    i_M = first + t_M
    real_M = some_M & (i_M >= start)
    max_M = tl.full([BLOCK_M], float("-inf"), tl.float32)
    sum_M = tl.zeros([BLOCK_M], tl.float32)
    acc_MD = tl.zeros([BLOCK_M, SIZE], tl.float32)
    for slot in range(begin, stop, BLOCK_S):
        j_S = slot + tl.arange(0, BLOCK_S)
        in_S = j_S < stop
        j64_S = j_S.to(tl.int64)
        k_DS = tl.load(k + b64 * k_b + head * k_k + j64_S[None, :] * k_s + d_D[:, None], mask=in_S[None, :], other=0.0)
        score_MS = dot(q_MD, k_DS, tl.zeros([BLOCK_M, BLOCK_S], tl.float32))
        seen_MS = real_M[:, None] & in_S[None, :]
        if FORM == "causal":
            seen_MS &= j_S[None, :] <= i_M[:, None]
        if WINDOW is not None and FORM != "canvas":  # the canvas form's window is the range itself
            seen_MS &= tl.abs(i_M[:, None] - j_S[None, :]) < WINDOW
        score_MS = tl.where(seen_MS, score_MS, float("-inf"))
        new_M = tl.maximum(max_M, tl.max(score_MS, axis=1))
        base_M = tl.where(new_M == float("-inf"), 0.0, new_M)  # nothing seen yet: exp(-inf) = 0, not NaN
        p_MS = tl.exp(score_MS - base_M[:, None])
        old_M = tl.exp(max_M - base_M)
        sum_M = sum_M * old_M + tl.sum(p_MS, axis=1)
        v_SD = tl.load(v + b64 * v_b + head * v_k + j64_S[:, None] * v_s + d_D[None, :], mask=in_S[:, None], other=0.0)
        p_MS = rounded(p_MS, v_SD.dtype)
        acc_MD = dot(p_MS, v_SD, acc_MD * old_M[:, None])
        max_M = new_M

    o_M = (b64 * tokens + t_M) * (kv_heads * GROUP) + query_head_M
    if PARTS > 1:
        o_M += part * batch.to(tl.int64) * tokens * kv_heads * GROUP
        tl.store(row_max + o_M, max_M, mask=some_M)
        tl.store(row_sum + o_M, sum_M, mask=some_M)
    else:
        acc_MD = acc_MD / tl.where(sum_M > 0, sum_M, 1.0)[:, None]
    tl.store(out + o_M[:, None] * SIZE + d_D[None, :], rounded(acc_MD, out.dtype.element_ty), mask=some_M[:, None])


@triton.jit
def _merge_parts(part, row_max, row_sum, out, rows, parts, PARTS: tl.constexpr, SIZE: tl.constexpr):
    row, p_P, d_D = tl.program_id(0).to(tl.int64), tl.arange(0, PARTS), tl.arange(0, SIZE)
    at_P, here_P = p_P.to(tl.int64) * rows + row, p_P < parts
    max_P = tl.load(row_max + at_P, mask=here_P, other=float("-inf"))
    sum_P = tl.load(row_sum + at_P, mask=here_P, other=0.0)
    highest = tl.max(max_P, axis=0)
    factor_P = tl.exp(max_P - tl.where(highest == float("-inf"), 0.0, highest))
    total = tl.sum(sum_P * factor_P, axis=0)
    part_PD = tl.load(part + at_P[:, None] * SIZE + d_D[None, :], mask=here_P[:, None], other=0.0)
    o_D = tl.sum(part_PD * factor_P[:, None], axis=0) / tl.where(total > 0, total, 1.0)
    tl.store(out + row * SIZE + d_D, rounded(o_D, out.dtype.element_ty))
