"""Attention of one layer, its rotary positions, and who may see whom.

Formulas: huggingface/transformers, src/transformers/models/diffusion_gemma/modeling_diffusion_gemma.py (attention,
decoder mask) and src/transformers/modeling_rope_utils.py (proportional rope). The score scale is exactly 1: the
weights of the query and key norms carry it.

Legend: B batch, T new tokens, S keys seen, H hidden, Q query heads, K key/value heads, A heads of all three kinds,
G query heads per key/value head, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

from engine.choices import Choices
from engine.config import FULL, SLIDING, ModelConfig
from engine.kv_cache import KVCache
from engine.linear import Weight
from engine.observe import Seen
from engine.routing import Routing


class Norm(nn.Module):
    """Root-mean-square norm: all of it in float32, one cast at the end, times w (not 1 + w).

    Called, it is the plain norm; `of_unit` is what is left of it where its input has the length 1 already.
    """

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps
        self._weight_of_unit: torch.Tensor | None = None  # made at first use, then kept, as projections' copies are

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, self.weight, self.eps)

    def chosen(self, x: torch.Tensor, choices: Choices, shared32: torch.Tensor | None = None) -> torch.Tensor:
        """The norm of x, in the form that is chosen; shared32: what `unit` made of x for others already."""
        if choices.norms == "separate":
            return self(x)
        return self.of_unit(unit(x, self.eps) if shared32 is None else shared32, x.dtype)

    def of_unit(self, unit32: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The norm of what `unit` made of an input of that dtype."""
        return cast(unit32 * self.weight_of_unit(), dtype)

    def weight_of_unit(self) -> torch.Tensor:
        """w * sqrt(D) in float32: a vector of length 1 has the root mean square 1 / sqrt(D)."""
        if self._weight_of_unit is None:
            self._weight_of_unit = self.weight.float() * self.weight.numel() ** 0.5
        return self._weight_of_unit


def rms_norm(x: torch.Tensor, weight: torch.Tensor | None, eps: float) -> torch.Tensor:
    x32 = x.float()
    y32 = x32 * torch.pow(x32.pow(2).mean(-1, keepdim=True) + eps, -0.5)
    if weight is not None:
        y32 = y32 * weight.float()
    return y32.type_as(x)


def unit(x: torch.Tensor, eps: float) -> torch.Tensor:
    """x / sqrt(|x|^2 + D eps) in float32, of length 1 but for eps. That root is hypot(|x|, sqrt(D eps))."""
    x32 = cast(x, torch.float32)
    added = eps * x.shape[-1]
    if torch.compiler.is_compiling():  # which fuses the formula, and cannot follow a cache
        return x32 * torch.rsqrt(x32.square().sum(dim=-1, keepdim=True) + added)
    length = torch.linalg.vector_norm(x32, dim=-1, keepdim=True)
    return x32 / torch.hypot(length, _scalar(added**0.5))


def cast(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """x.to(dtype), which takes as long as a small sum even where it has nothing to do."""
    return x if x.dtype == dtype else x.to(dtype)


@cache
def _scalar(value: float) -> torch.Tensor:
    return torch.tensor(value)  # on the host: torch takes it for a plain number on every device


@dataclass(slots=True)
class Pass:
    """What all layers of one forward pass share. Dicts are keyed by the type of layer."""

    causal: bool  # True: prefill, commit, decode. False: denoise
    cache: KVCache
    rope: dict[str, tuple[torch.Tensor, torch.Tensor]]  # cos and sin, (T, 1, D)
    mask: dict[str, torch.Tensor | None]  # see `visibility`
    choices: Choices
    seen: Seen | None = None  # an untimed round's counters
    routing: Routing | None = None  # where experts are drawn instead of chosen
    # attention="kernel" reads these instead of mask: the slots of each row, start and end (B,) int32, and the form of
    # engine/kernels/attention.py
    bounds: tuple[torch.Tensor, torch.Tensor] | None = None
    form: str = "causal"


def inverse_frequencies(config: ModelConfig, layer_type: str) -> torch.Tensor:
    """Rotation per position of each of the D/2 pairs, float32.

    Full layers turn only the first `full_rotary_factor` of the pairs, with the whole D in the exponent; the others
    stand still. That is not the usual partial rotary embedding, which rotates the first dims with their own exponent.
    """
    if layer_type == SLIDING:
        size, theta, turning = config.head_dim, config.sliding_rope_theta, config.head_dim // 2
    else:
        size, theta = config.global_head_dim, config.full_rope_theta
        turning = int(config.full_rotary_factor * size // 2)
    inv_freq = 1.0 / theta ** (torch.arange(0, 2 * turning, 2, dtype=torch.float32) / size)
    return torch.cat([inv_freq, torch.zeros(size // 2 - turning)])


def rope_tables(
    inv_freq: torch.Tensor, start: int, tokens: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin (T, 1, D) for positions start..start+T-1: computed in float32, then cast.

    The first half of the sines is negative, which is the sign that the second of a pair has in the first's rotation.
    """
    positions = torch.arange(start, start + tokens, device=inv_freq.device, dtype=torch.float32)
    angles = (positions[:, None] * inv_freq)[:, None, :]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], dim=-1).to(dtype), torch.cat([-sin, sin], dim=-1).to(dtype)


def apply_rope(x_BTND: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate pairs (i, i + D/2): rolled by D/2, each stands where its partner was."""
    return x_BTND * cos + x_BTND.roll(x_BTND.shape[-1] // 2, dims=-1) * sin


def visibility(
    config: ModelConfig, layer_type: str, cache: KVCache, tokens: int, device: torch.device,
    *, causal: bool, window: str, real_BT: torch.Tensor | None,
) -> torch.Tensor | None:  # fmt: skip
    """Which kept and new keys each of T new queries sees, (B or 1, 1, T, S) bool.

    None when it is all of them, or, in a causal pass over an empty cache, the plain triangle.

    causal: a query sees itself and what came before; in sliding layers only the last W, itself included.
    denoise, window "sdpa": every canvas query sees the whole canvas and all kept keys (sliding layers keep W - 1).
    denoise, window "symmetric": in sliding layers also |i - j| < W for each query, inside the canvas too.
    Padding is seen by nobody but itself; a row that sees nothing would have no softmax.
    """
    sliding = layer_type == SLIDING
    kept = min(cache.length, config.sliding_window - 1) if sliding else cache.length
    padded = cache.real_BS is not None or real_BT is not None
    reach = kept + tokens  # the largest distance between a query and a key, plus one
    windowed = sliding and reach > config.sliding_window and (causal or window == "symmetric")
    if not padded and not windowed and (not causal or tokens == 1 or kept == 0):
        return None
    key_S = torch.arange(-kept, tokens, device=device)
    query_T1 = torch.arange(tokens, device=device)[:, None]
    mask = torch.ones(tokens, kept + tokens, dtype=torch.bool, device=device)
    if causal:
        mask &= key_S <= query_T1
    if windowed:
        mask &= (query_T1 - key_S).abs() < config.sliding_window
    mask = mask[None, None]
    if padded:
        batch = (real_BT if real_BT is not None else cache.real_BS).shape[0]  # type: ignore[union-attr]
        real = torch.ones(batch, kept + tokens, dtype=torch.bool, device=device)
        if cache.real_BS is not None:
            real[:, :kept] = cache.real_BS[:, cache.length - kept :]
        if real_BT is not None:
            real[:, kept:] = real_BT
        mask = mask & (real[:, None, None, :] | (key_S == query_T1))
    return mask


class Attention(nn.Module):
    """Grouped-query attention. Full layers have no v_proj: K and V share k_proj, and part before the key norm."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.layer_type = config.layer_types[index]
        self.index = index
        full = self.layer_type == FULL
        self.window = None if full else config.sliding_window
        self.head_dim = config.global_head_dim if full else config.head_dim
        self.num_heads = config.num_heads
        self.num_kv_heads = config.global_num_kv_heads if full else config.num_kv_heads
        self.eps = config.rms_norm_eps
        hidden, kv_size = config.hidden_size, self.num_kv_heads * self.head_dim
        self.q_proj = nn.Linear(hidden, self.num_heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(hidden, kv_size, bias=False)
        self.v_proj = None if full else nn.Linear(hidden, kv_size, bias=False)
        self.o_proj = nn.Linear(self.num_heads * self.head_dim, hidden, bias=False)
        self.q_norm = Norm(self.head_dim, self.eps)
        self.k_norm = Norm(self.head_dim, self.eps)
        self._q, self._k, self._o = map(Weight.of, (self.q_proj, self.k_proj, self.o_proj))
        self._v = None if self.v_proj is None else Weight.of(self.v_proj)
        self._qkv = Weight.rows_of(*(m for m in (self.q_proj, self.k_proj, self.v_proj) if m is not None))
        self._head_norm_AD: torch.Tensor | None = None  # of queries, keys and values, when they are merged

    def extend_cache(self, x_BTH: torch.Tensor, p: Pass) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new tokens' keys and values behind the kept ones; returns kept and new ones, (B, K, S, D)."""
        return self._keep(*self._keys_and_values(x_BTH, p), p)

    def forward(self, x_BTH: torch.Tensor, p: Pass) -> torch.Tensor:
        batch, tokens = x_BTH.shape[:2]
        if p.choices.projections == "merged":
            q_BTQD, k_BTKD, v_BTKD = self._merged_heads(x_BTH, p)
        else:
            q_BTQD = self.q_norm(self._q.product(x_BTH, p.choices).view(batch, tokens, self.num_heads, self.head_dim))
            q_BTQD = apply_rope(q_BTQD, *p.rope[self.layer_type])
            k_BTKD, v_BTKD = self._keys_and_values(x_BTH, p)
        k_BKSD, v_BKSD = self._keep(k_BTKD, v_BTKD, p)
        if p.bounds is not None:
            from engine.kernels.attention import attend  # only where it is launched: there may be no Triton

            o_BTQD = attend(q_BTQD, k_BKSD, v_BKSD, *p.bounds, form=p.form, window=self.window)
            return self._o.product(o_BTQD.flatten(2), p.choices)
        q_BQTD, mask = q_BTQD.transpose(1, 2), p.mask[self.layer_type]
        if p.causal and tokens > 1:
            o_BQTD = self._attend_repeated(q_BQTD, k_BKSD, v_BKSD, mask)
        else:
            o_BQTD = self._attend_packed(q_BQTD, k_BKSD, v_BKSD, mask)
        return self._o.product(o_BQTD.transpose(1, 2).reshape(batch, tokens, -1), p.choices)

    def _keys_and_values(self, x_BTH: torch.Tensor, p: Pass) -> tuple[torch.Tensor, torch.Tensor]:
        """The new tokens' keys, normalised and rotated, and values, normalised, (B, T, K, D)."""
        shape = (*x_BTH.shape[:2], self.num_kv_heads, self.head_dim)
        k_BTKD = self._k.product(x_BTH, p.choices).view(shape)
        v_BTKD = k_BTKD if self._v is None else self._v.product(x_BTH, p.choices).view(shape)
        k_BTKD = apply_rope(self.k_norm(k_BTKD), *p.rope[self.layer_type])
        return k_BTKD, rms_norm(v_BTKD, None, self.eps)

    def _merged_heads(self, x_BTH: torch.Tensor, p: Pass) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values as above, all A heads at once. The values' norm has the weight 1."""
        batch, tokens = x_BTH.shape[:2]
        Q, K = self.num_heads, self.num_kv_heads
        heads_BTAD = self._qkv.product(x_BTH, p.choices).view(batch, tokens, -1, self.head_dim)
        if self._v is None:
            heads_BTAD = torch.cat([heads_BTAD, heads_BTAD[:, :, Q:]], dim=2)
        if self._head_norm_AD is None:
            rows = [self.q_norm.weight_of_unit().expand(Q, -1), self.k_norm.weight_of_unit().expand(K, -1)]
            self._head_norm_AD = torch.cat([*rows, torch.full_like(rows[1], self.head_dim**0.5)])
        heads_BTAD = cast(unit(heads_BTAD, self.eps) * self._head_norm_AD, x_BTH.dtype)
        turned_BTAD = apply_rope(heads_BTAD[:, :, : Q + K], *p.rope[self.layer_type])
        return turned_BTAD[:, :, :Q], turned_BTAD[:, :, Q:], heads_BTAD[:, :, Q + K :]

    def _keep(self, k_BTKD: torch.Tensor, v_BTKD: torch.Tensor, p: Pass) -> tuple[torch.Tensor, torch.Tensor]:
        return p.cache.layers[self.index].extend(k_BTKD.transpose(1, 2), v_BTKD.transpose(1, 2))

    def _attend_packed(
        self, q_BQTD: torch.Tensor, k_BKSD: torch.Tensor, v_BKSD: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """The G query heads of a key/value head become more queries of it, so that K and V are read once, uncopied."""
        batch, heads, tokens, size = q_BQTD.shape
        group = heads // self.num_kv_heads
        q = q_BQTD.reshape(batch, self.num_kv_heads, group * tokens, size)
        mask = None if mask is None else mask.repeat(1, 1, group, 1)
        o = F.scaled_dot_product_attention(q, k_BKSD, v_BKSD, attn_mask=mask, scale=1.0)
        return o.reshape(batch, heads, tokens, size)

    def _attend_repeated(
        self, q_BQTD: torch.Tensor, k_BKSD: torch.Tensor, v_BKSD: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """For long causal passes: K and V are copied per query head, which keeps the mask one (T, S) square."""
        group = self.num_heads // self.num_kv_heads
        k_BQSD, v_BQSD = (x.repeat_interleave(group, dim=1) for x in (k_BKSD, v_BKSD))
        return F.scaled_dot_product_attention(q_BQTD, k_BQSD, v_BQSD, attn_mask=mask, is_causal=mask is None, scale=1.0)
