"""The denoising step's sampler: likeliest token, entropy and a draw of every row from one read of its logits.

With z = logits / T, m = max z and d = z - m, a row needs Z = sum e^d and S = sum d e^d: its entropy is log Z - S / Z
nats. Two parts of a row with their own maxima are merged by Z' = Z e^(m - m') and S' = (S + (m - m') Z) e^(m - m').
The draw is the argmax of z + g, g independent Gumbel noise (https://arxiv.org/abs/1411.0030). Noise comes from
Philox-4x32-10 (https://doi.org/10.1145/2063384.2063405) with the key `seed` and the counter (token id // 4, row, draw):
a number's place in the tensor decides it, not the tiling, so that shards of the vocabulary draw alike, and since seed
and draw are read on the device a CUDA graph draws anew each time it is replayed.

A row is cut into tiles so that few rows fill a GPU too (256 rows are fewer than two per SM of an H100); a second
kernel merges a row's tiles. Speed on a GPU: not measured.

Legend: N rows, V vocabulary, C tiles of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from engine.kernels.arithmetic import rounded

_BLOCK = 4096  # logits of a tile, 16 for each thread of 8 warps
_TORCH_TO_TRITON = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16}


@dataclass(frozen=True, slots=True)
class Sampled:
    """What one step knows of every row. A row without a finite logit has token 0 and NaN for all else."""

    token_N: torch.Tensor  # int64, drawn from softmax(z)
    argmax_N: torch.Tensor  # int64, the lowest id among equals
    entropy_N: torch.Tensor  # float32, nats
    probs_NV: torch.Tensor | None  # softmax of z rounded to `probs_dtype`, for the soft embedding


def sample(
    logits_NV: torch.Tensor, temperature: torch.Tensor, seed: torch.Tensor, draw: torch.Tensor, *,
    softcap: float | None = None, probs_dtype: torch.dtype | None = None, out_probs_NV: torch.Tensor | None = None,
    block: int = _BLOCK,
) -> Sampled:  # fmt: skip
    """One denoising step's statistics and draws; nothing is read on the host.

    logits_NV float32 or bfloat16 (-inf: never drawn; NaN and +inf: undefined). One-element tensors on the same device:
    temperature > 0 float32, seed and draw int64; two calls with the same three draw the same. `softcap` c replaces
    logits by c tanh(logits / c) first, to 4e-6 absolute. With `probs_dtype` a second read of the logits writes the
    distribution that transformers' self-conditioning sees: z rounded to that type, its softmax in float32, rounded;
    into `out_probs_NV` where that is given, contiguous and of that type.
    """
    _check(logits_NV, temperature, seed, draw, probs_dtype, block)
    (rows, vocab), device = logits_NV.shape, logits_NV.device
    tiles = triton.cdiv(vocab, block)
    sums_5NC = torch.empty(5, rows, tiles, dtype=torch.float32, device=device)
    ids_2NC = torch.empty(2, rows, tiles, dtype=torch.int32, device=device)
    condition = _TORCH_TO_TRITON[probs_dtype or torch.float32]
    how = {"CAP": softcap, "CONDITION": condition, "BLOCK": block, "num_warps": 8}
    where = (logits_NV, temperature, vocab, logits_NV.stride(0))
    _tile_statistics[(rows, tiles)](*where, seed, draw, sums_5NC, ids_2NC, **how)
    token_N, argmax_N = (torch.empty(rows, dtype=torch.int64, device=device) for _ in range(2))
    entropy_N, max_N, sum_N = (torch.empty(rows, dtype=torch.float32, device=device) for _ in range(3))
    _merge_tiles[(rows,)](
        sums_5NC, ids_2NC, tiles, token_N, argmax_N, entropy_N, max_N, sum_N,
        CONDITION=condition, TILES=triton.next_power_of_2(tiles), num_warps=1,
    )  # fmt: skip
    if probs_dtype is None:
        return Sampled(token_N, argmax_N, entropy_N, None)
    probs_NV = torch.empty(rows, vocab, dtype=probs_dtype, device=device) if out_probs_NV is None else out_probs_NV
    if probs_NV.shape != logits_NV.shape or probs_NV.dtype != probs_dtype or not probs_NV.is_contiguous():
        raise ValueError(
            f"out_probs_NV is {probs_NV.dtype} {tuple(probs_NV.shape)}, expected {probs_dtype} like logits"
        )
    _write_probs[(rows, tiles)](*where, max_N, sum_N, probs_NV, **how)
    return Sampled(token_N, argmax_N, entropy_N, probs_NV)


def sample_oracle(
    logits_NV: torch.Tensor, temperature: torch.Tensor, seed: torch.Tensor, draw: torch.Tensor, *,
    softcap: float | None = None, probs_dtype: torch.dtype | None = None,
) -> Sampled:  # fmt: skip
    """The same by torch's own softmax and argmax, entropy and scores in float64."""
    x_NV = logits_NV.float()
    if softcap is not None:
        x_NV = softcap * torch.tanh(x_NV / softcap)
    z_NV = x_NV / temperature
    scores_NV = z_NV.double() + gumbel_oracle(*z_NV.shape, seed=int(seed), draw=int(draw)).to(z_NV.device)
    entropy_N = torch.special.entr(z_NV.double().softmax(dim=-1)).sum(dim=-1).float()
    probs_NV = None
    if probs_dtype is not None:
        probs_NV = z_NV.to(probs_dtype).softmax(dim=-1, dtype=torch.float32).to(probs_dtype)
    return Sampled(scores_NV.argmax(dim=-1), z_NV.argmax(dim=-1), entropy_N, probs_NV)


def gumbel_oracle(rows: int, vocab: int, *, seed: int, draw: int) -> torch.Tensor:
    """The noise of every logit, (N, V) float64."""
    quads = (vocab + 3) // 4
    quad_1Q, row_N1 = torch.arange(quads)[None, :], torch.arange(rows)[:, None]
    low, high = (torch.full((1, 1), (draw >> shift) & 0xFFFFFFFF) for shift in (0, 32))
    counter = torch.broadcast_tensors(quad_1Q, row_N1, low, high)
    words_NQ4 = torch.stack(_philox_oracle(list(counter), [seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF]), dim=-1)
    u_NV = (words_NQ4.view(rows, -1)[:, :vocab].double() + 0.5) * 2.0**-32
    return -torch.log(-torch.log1p(-u_NV))


def _philox_oracle(c: list[torch.Tensor], key: list[int]) -> list[torch.Tensor]:
    """Ten rounds on four words of 32 bits held in int64; products are made of halves, which do not overflow."""

    def product(a: int, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        upper, lower = a * (b >> 16), a * (b & 0xFFFF)
        return (upper + (lower >> 16)) >> 16, ((upper << 16) + lower) & 0xFFFFFFFF

    for _ in range(10):
        (high0, low0), (high2, low2) = product(0xD2511F53, c[0]), product(0xCD9E8D57, c[2])
        c = [high2 ^ c[1] ^ key[0], low2, high0 ^ c[3] ^ key[1], low0]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def _check(
    logits_NV: torch.Tensor, temperature: torch.Tensor, seed: torch.Tensor, draw: torch.Tensor,
    probs_dtype: torch.dtype | None, block: int,
) -> None:  # fmt: skip
    if logits_NV.dim() != 2 or logits_NV.dtype not in _TORCH_TO_TRITON or logits_NV.stride(1) != 1:
        raise ValueError(
            "logits must be (rows, vocabulary), float32 or bfloat16, with contiguous rows; got "
            f"{tuple(logits_NV.shape)} {logits_NV.dtype} with strides {logits_NV.stride()}"
        )
    if probs_dtype is not None and probs_dtype not in _TORCH_TO_TRITON:
        raise ValueError(f"probs_dtype must be float32 or bfloat16, got {probs_dtype}")
    if block < 4 or block & (block - 1):
        raise ValueError(f"block must be a power of two of at least 4, got {block}")
    wanted = {"temperature": torch.float32, "seed": torch.int64, "draw": torch.int64}
    for (name, dtype), value in zip(wanted.items(), (temperature, seed, draw), strict=True):
        if value.numel() != 1 or value.dtype != dtype or value.device != logits_NV.device:
            raise ValueError(
                f"{name} must be one {dtype} on {logits_NV.device}, got {value.numel()} of {value.dtype} "
                f"on {value.device}"
            )


@triton.jit
def _tempered(logits, temperature, row, id_V, vocab, stride, CAP: tl.constexpr):
    """z of one tile, float32; -inf behind the row's end."""
    x_V = tl.load(logits + row.to(tl.int64) * stride + id_V, mask=id_V < vocab, other=0.0).to(tl.float32)
    if CAP is not None:
        e_V = tl.exp(-2 * tl.abs(x_V) / CAP)
        tanh_V = (1 - e_V) / (1 + e_V)
        x_V = tl.where(x_V < 0, -tanh_V, tanh_V) * CAP
    return tl.where(id_V < vocab, tl.div_rn(x_V, tl.load(temperature)), float("-inf"))


@triton.jit
def exponentials(seed, draw, row, tile, BLOCK: tl.constexpr):
    """BLOCK draws of Exp(1), those of token ids tile * BLOCK and up. A Gumbel variable is minus the log of one.

    The smallest draws decide who wins, so they have all 32 bits: -log(1 - u) by its series where 1 - u would lose them.
    """
    quad_Q = (tile * (BLOCK // 4) + tl.arange(0, BLOCK // 4)).to(tl.uint32)
    zero_Q = quad_Q * 0
    low, high = (draw & 0xFFFFFFFF).to(tl.uint32), ((draw >> 32) & 0xFFFFFFFF).to(tl.uint32)
    a_Q, b_Q, c_Q, d_Q = tl.philox(seed, quad_Q, zero_Q + row.to(tl.uint32), zero_Q + low, zero_Q + high)
    word_V = tl.interleave(tl.interleave(a_Q, c_Q), tl.interleave(b_Q, d_Q))
    u_V = tl.minimum((word_V.to(tl.float32) + 0.5) * 2.3283064365386963e-10, 1 - 2.0**-24)
    return tl.where(u_V < 2.0**-8, u_V * (1 + u_V * (0.5 + u_V * (1 / 3))), -tl.log(1 - u_V))


@triton.jit
def _tile_statistics(
    logits, temperature, vocab, stride, seed, draw, sums, ids,
    CAP: tl.constexpr, CONDITION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, tile = tl.program_id(0), tl.program_id(1)
    id_V = tile * BLOCK + tl.arange(0, BLOCK)
    z_V = _tempered(logits, temperature, row, id_V, vocab, stride, CAP)
    highest = tl.max(z_V, axis=0)
    base = tl.where(highest == float("-inf"), 0.0, highest)  # -inf minus -inf is no number
    e_V = tl.exp(z_V - base)
    entropic_V = tl.where(z_V == float("-inf"), 0.0, z_V - base) * e_V
    condition_V = rounded(z_V, CONDITION).to(tl.float32)  # rounding keeps the order, so the maximum's is the maximum
    weight_V = tl.exp(condition_V - rounded(base, CONDITION).to(tl.float32))
    score_V = z_V - tl.log(exponentials(tl.load(seed), tl.load(draw), row, tile, BLOCK))
    best = tl.max(score_V, axis=0)

    tiles, rows = tl.num_programs(1), tl.num_programs(0)
    plane = rows.to(tl.int64) * tiles
    at = row.to(tl.int64) * tiles + tile
    tl.store(sums + at, highest)
    tl.store(sums + plane + at, tl.sum(e_V, axis=0))
    tl.store(sums + 2 * plane + at, tl.sum(entropic_V, axis=0))
    tl.store(sums + 3 * plane + at, tl.sum(weight_V, axis=0))
    tl.store(sums + 4 * plane + at, best)
    tl.store(ids + at, tl.min(tl.where(z_V == highest, id_V, vocab), axis=0))
    tl.store(ids + plane + at, tl.min(tl.where(score_V == best, id_V, vocab), axis=0))


@triton.jit
def _merge_tiles(
    sums, ids, tiles, token, argmax, entropy, row_max, row_sum, CONDITION: tl.constexpr, TILES: tl.constexpr
):
    row = tl.program_id(0)
    tile_C = tl.arange(0, TILES)
    plane = tl.num_programs(0).to(tl.int64) * tiles
    at_C, here_C = row.to(tl.int64) * tiles + tile_C, tile_C < tiles
    highest_C = tl.load(sums + at_C, mask=here_C, other=float("-inf"))
    z_C = tl.load(sums + plane + at_C, mask=here_C, other=0.0)
    s_C = tl.load(sums + 2 * plane + at_C, mask=here_C, other=0.0)
    weight_C = tl.load(sums + 3 * plane + at_C, mask=here_C, other=0.0)
    best_C = tl.load(sums + 4 * plane + at_C, mask=here_C, other=float("-inf"))

    highest = tl.max(highest_C, axis=0)
    base = tl.where(highest == float("-inf"), 0.0, highest)
    shift_C = tl.where(highest_C == float("-inf"), 0.0, highest_C - base)  # empty tiles have all sums 0
    z = tl.sum(z_C * tl.exp(shift_C), axis=0)
    s = tl.sum((s_C + shift_C * z_C) * tl.exp(shift_C), axis=0)
    some = z > 0
    safe = tl.where(some, z, 1.0)
    tl.store(entropy + row, tl.where(some, tl.maximum(tl.log(safe) - s / safe, 0.0), float("nan")))

    condition = rounded(base, CONDITION).to(tl.float32)
    tile_base_C = rounded(tl.where(highest_C == float("-inf"), base, highest_C), CONDITION).to(tl.float32)
    tl.store(row_max + row, condition)
    tl.store(row_sum + row, tl.sum(weight_C * tl.exp(tile_base_C - condition), axis=0))

    none = 2147483647
    id_C = tl.load(ids + at_C, mask=here_C & (highest_C == highest), other=none)
    tl.store(argmax + row, tl.min(id_C, axis=0).to(tl.int64))
    id_C = tl.load(ids + plane + at_C, mask=here_C & (best_C == tl.max(best_C, axis=0)), other=none)
    tl.store(token + row, tl.min(id_C, axis=0).to(tl.int64))


@triton.jit
def _write_probs(
    logits, temperature, vocab, stride, row_max, row_sum, probs,
    CAP: tl.constexpr, CONDITION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, tile = tl.program_id(0), tl.program_id(1)
    id_V = tile * BLOCK + tl.arange(0, BLOCK)
    z_V = _tempered(logits, temperature, row, id_V, vocab, stride, CAP)
    total = tl.load(row_sum + row)
    p_V = tl.exp(rounded(z_V, CONDITION).to(tl.float32) - tl.load(row_max + row)) / tl.where(total > 0, total, 1.0)
    p_V = tl.where(total > 0, rounded(p_V, CONDITION).to(tl.float32), float("nan"))
    tl.store(probs + row.to(tl.int64) * vocab + id_V, p_V.to(CONDITION), mask=id_V < vocab)
