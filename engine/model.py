"""The network: one stack of layers that encodes (causal, writes the cache) and denoises (reads it).

Formulas: huggingface/transformers, src/transformers/models/diffusion_gemma/modeling_diffusion_gemma.py. The encoder
and decoder of that file share every weight but one scalar per layer and the decoder's self-conditioning; here they are
one stack. The autoregressive twin is the encoder with the final norm and the head, rounded as
src/transformers/models/gemma4/modeling_gemma4.py does.

Legend: B batch, T new tokens, L block length, N = B * T, H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import nn

from engine import ranges
from engine.attention import Attention, Norm, Pass, inverse_frequencies, rms_norm, rope_tables, unit, visibility
from engine.choices import PLAIN, Choices
from engine.config import FULL, ModelConfig
from engine.kv_cache import KVCache
from engine.linear import Weight, gated
from engine.moe import Experts, Router, expert_mlp
from engine.observe import Seen
from engine.routing import Routing
from engine.static_cache import StaticCache

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_ROPE_AHEAD = 256  # positions behind a pass for which its rotations are made at once


class GatedMLP(nn.Module):
    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, width, bias=False)
        self.up_proj = nn.Linear(hidden, width, bias=False)
        self.down_proj = nn.Linear(width, hidden, bias=False)

        self._gate, self._up, self._down = map(Weight.of, (self.gate_proj, self.up_proj, self.down_proj))
        self._gate_up = Weight.rows_of(self.gate_proj, self.up_proj)

    def forward(self, x: torch.Tensor, choices: Choices) -> torch.Tensor:
        if choices.projections == "merged" and choices.linear != "packed":
            gate, up = self._gate_up.product(x, choices).chunk(2, dim=-1)
            hidden = F.gelu(gate, approximate="tanh") * up
        else:  # packed products do the rest on the way, which is worth more than one product less
            hidden = gated(x, self._gate, self._up, choices)
        return self._down.product(hidden, choices)


class Layer(nn.Module):
    """Attention, then a dense MLP and a mixture of experts side by side on the same residual.

    Serves both modes; they differ in masks, in who keeps the keys, and in the scalar on the layer's output.
    """

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        hidden, eps = config.hidden_size, config.rms_norm_eps
        self.index = index
        self.attn_range = ranges.ATTN_FULL if config.layer_types[index] == FULL else ranges.ATTN_SLIDING
        self.self_attn = Attention(config, index)
        self.mlp = GatedMLP(hidden, config.intermediate_size)
        self.router = Router(config)
        self.experts = Experts(config)
        self.input_layernorm = Norm(hidden, eps)
        self.post_attention_layernorm = Norm(hidden, eps)
        self.pre_feedforward_layernorm = Norm(hidden, eps)
        self.post_feedforward_layernorm_1 = Norm(hidden, eps)  # dense branch
        self.pre_feedforward_layernorm_2 = Norm(hidden, eps)
        self.post_feedforward_layernorm_2 = Norm(hidden, eps)  # experts' branch
        self.post_feedforward_layernorm = Norm(hidden, eps)  # their sum
        self.encoder_scalar = nn.Parameter(torch.empty(1))
        self.decoder_scalar = nn.Parameter(torch.empty(1)) if config.canvas_length is not None else None

    def forward(self, x_BTH: torch.Tensor, p: Pass) -> torch.Tensor:
        c = p.choices
        with ranges.LAYER(self.index):
            with self.attn_range(self.index):
                attended = self.self_attn(self.input_layernorm.chosen(x_BTH, c), p)
            x_BTH = x_BTH + self.post_attention_layernorm.chosen(attended, c)
            shared_BTH = None if c.norms == "separate" else unit(x_BTH, self.router.eps)
            dense_in = self.pre_feedforward_layernorm.chosen(x_BTH, c, shared_BTH)
            mixed_in = self.pre_feedforward_layernorm_2.chosen(x_BTH, c, shared_BTH)
            with ranges.MLP(self.index):
                dense = self.mlp(dense_in, c)
            with ranges.ROUTER(self.index):
                if shared_BTH is None or x_BTH.dtype != torch.float32:  # fewer operations round less often, too
                    weights_NK, experts_NK = self.router(x_BTH.flatten(0, 1))
                else:
                    weights_NK, experts_NK = self.router.of_unit(shared_BTH.flatten(0, 1))
                if p.routing is not None:
                    experts_NK = p.routing.draw(self.index, experts_NK, p.cache.rows)
            if p.seen is not None:
                p.seen.experts(experts_NK)
            mixed = expert_mlp(mixed_in.flatten(0, 1), weights_NK, experts_NK, self.experts, self.index, c)
            dense = self.post_feedforward_layernorm_1.chosen(dense, c)
            mixed = self.post_feedforward_layernorm_2.chosen(mixed.view_as(x_BTH), c)
            scalar = self.encoder_scalar if p.causal else self.decoder_scalar
            assert scalar is not None
            return (x_BTH + self.post_feedforward_layernorm.chosen(dense + mixed, c)) * scalar

    def only_extend_cache(self, x_BTH: torch.Tensor, p: Pass) -> None:
        """The last layer of a pass whose output nobody reads: its keys and values are all that is left of it."""
        with ranges.LAYER(self.index), self.attn_range(self.index):
            self.self_attn.extend_cache(self.input_layernorm.chosen(x_BTH, p.choices), p)


class SelfConditioning(GatedMLP):
    """Adds what the previous step believed, as a soft embedding. Its last norm runs on the first step too."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config.hidden_size, config.intermediate_size)
        self.pre_norm = Norm(config.hidden_size, config.rms_norm_eps)

    def condition(self, embedded_BLH: torch.Tensor, soft_BLH: torch.Tensor | None, choices: Choices) -> torch.Tensor:
        """soft_BLH None is the zero signal of a canvas's first step: the MLP then adds exactly zero."""
        if soft_BLH is not None:
            embedded_BLH = embedded_BLH + self(self.pre_norm.chosen(soft_BLH, choices), choices)
        return rms_norm(embedded_BLH, None, self.pre_norm.eps)


class Model(nn.Module):
    """DiffusionGemma's text part, or (canvas_length None) a Gemma 4 mixture of experts. Built by `engine.api.load`.

    Parameters have the names of the checkpoint's decoder, but for the two scalars of each layer.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.window = "sdpa"  # the form of the decoder's sliding window, one of engine.config.WINDOW_FORMS
        self.choices = PLAIN  # which implementations run; `engine.api.load` and `generate` set it
        self.float8 = ""  # what is known of float8 weights, where there are some; set by `engine.api.load`
        self.tokenizer: Tokenizer | None = None
        self.seen: Seen | None = None  # set by engine.observe.observe
        self.routing: Routing | None = None  # set by engine.routing.drawn
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, _weight=_unset(config))
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_layers))
        self.norm = Norm(config.hidden_size, config.rms_norm_eps)
        self.self_conditioning = SelfConditioning(config) if config.canvas_length is not None else None
        self.compiled: dict[Choices, Callable[..., torch.Tensor]] = {}  # `denoise` by torch.compile
        self.steps: dict[object, object] = {}  # static steps and graphs of the last request, see engine/steps.py
        self._table = Weight(lambda: self.embed_tokens.weight)
        self._table_across = Weight(lambda: self.embed_tokens.weight.t())
        self._kinds = sorted(set(config.layer_types))
        self._rope: dict[str, tuple[int, torch.Tensor, torch.Tensor]] = {}  # kind -> first position, cos, sin

    @property
    def dtype(self) -> torch.dtype:
        return self.embed_tokens.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.embed_tokens.weight.device

    def new_cache(self, batch: int, reserve: int = 0) -> KVCache:
        """For the attention that is chosen. `reserve`: tokens it will hold at most, when known."""
        if self.choices.attention == "kernel":
            return StaticCache(self.config, batch, self.device, self.dtype, reserve=reserve)
        return KVCache(self.config, reserve=reserve)

    def encode(self, ids_BT: torch.Tensor, cache: KVCache, real_BT: torch.Tensor | None = None) -> None:
        """Causal pass that only fills the cache: no final norm, no head, and of the last layer only K and V."""
        if self.seen is not None:
            self.seen.begin("")  # not counted
        self._causal(ids_BT, cache, real_BT, only_cache=True)

    def causal_logits(
        self, ids_BT: torch.Tensor, cache: KVCache, real_BT: torch.Tensor | None = None, *, last: int | None = None
    ) -> torch.Tensor:
        """Causal pass with a head on the `last` positions (None: all), float32, capped in the dtype as Gemma 4 does."""
        x_BTH = self._causal(ids_BT, cache, real_BT, only_cache=False)
        return self._head(x_BTH if last is None else x_BTH[:, -last:], cap_dtype=self.dtype)

    def denoise(
        self,
        canvas_BL: torch.Tensor,
        cache: KVCache,
        conditioning_BLV: torch.Tensor | None = None,
        probs_BLV: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """One denoising pass over a canvas that follows the cached tokens, (B, L, V) float32, capped in float32."""
        return self.head(self.denoised(canvas_BL, cache, conditioning_BLV, probs_BLV))

    def denoised(
        self,
        canvas_BL: torch.Tensor,
        cache: KVCache,
        conditioning_BLV: torch.Tensor | None = None,
        probs_BLV: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The same before the final norm and the head, (B, L, H).

        What the previous step believed comes as conditioning_BLV, its logits over the temperature, or as probs_BLV,
        their softmax, where its sampler had that already; neither on a canvas's first step.
        """
        assert self.self_conditioning is not None
        if self.seen is not None:
            self.seen.begin("denoise")
        x_BLH = self._embed(canvas_BL)
        with ranges.SELFCOND():
            if conditioning_BLV is not None:
                probs_BLV = conditioning_BLV.softmax(dim=-1, dtype=torch.float32)
            soft_BLH = None if probs_BLV is None else self._soft_embedding(probs_BLV)
            x_BLH = self.self_conditioning.condition(x_BLH, soft_BLH, self.choices)
        p = self._pass(cache, canvas_BL.shape[1], causal=False, real_BT=None)
        for layer in self.layers:
            x_BLH = layer(x_BLH, p)
        return x_BLH

    def head(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of a denoising pass, (..., V) float32: those of each row are its own."""
        return self._head(x, cap_dtype=torch.float32)

    def _causal(
        self, ids_BT: torch.Tensor, cache: KVCache, real_BT: torch.Tensor | None, *, only_cache: bool
    ) -> torch.Tensor:
        batch, tokens = ids_BT.shape
        x_BTH = self._embed(ids_BT)
        p = self._pass(cache, tokens, causal=True, real_BT=real_BT)
        for layer in self.layers[:-1]:
            x_BTH = layer(x_BTH, p)
        last = cast(Layer, self.layers[-1])
        if only_cache:
            last.only_extend_cache(x_BTH, p)
        else:
            x_BTH = last(x_BTH, p)
        cache.advance(tokens, real_BT, batch)  # last, so that a pass that raises leaves the cache as it was
        return x_BTH

    def _pass(self, cache: KVCache, tokens: int, *, causal: bool, real_BT: torch.Tensor | None) -> Pass:
        if isinstance(cache, StaticCache):
            form = "causal" if causal else {"sdpa": "canvas", "symmetric": "symmetric"}[self.window]
            bounds = cache.begin(tokens, real_BT)
            return Pass(causal, cache, cache.rope(), {}, self.choices, self.seen, self.routing, bounds, form)
        rope = {kind: self._rope_tables(kind, cache.length, tokens) for kind in self._kinds}
        mask = {
            kind: visibility(
                self.config, kind, cache, tokens, self.device, causal=causal, window=self.window, real_BT=real_BT
            )
            for kind in self._kinds
        }
        return Pass(causal, cache, rope, mask, self.choices, self.seen, self.routing)

    def _rope_tables(self, kind: str, start: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Kept for the positions around the last pass: all steps of a canvas, and the next tokens, have them ready."""
        first, cos, sin = self._rope.get(kind, (0, None, None))
        if cos is None or start < first or start + tokens > first + len(cos) or cos.dtype != self.dtype:
            first = start
            inv_freq = inverse_frequencies(self.config, kind).to(self.device)
            cos, sin = rope_tables(inv_freq, first, tokens + _ROPE_AHEAD, self.dtype)
            self._rope[kind] = first, cos, sin
        assert sin is not None
        return cos[start - first : start - first + tokens], sin[start - first : start - first + tokens]

    @cached_property
    def _embedding_scale(self) -> float:
        """sqrt(H) as the weights' dtype holds it: 53.0 in bfloat16 where float32 has 53.066."""
        return torch.tensor(self.config.hidden_size**0.5, dtype=self.dtype).item()

    def _embed(self, ids: torch.Tensor) -> torch.Tensor:
        with ranges.EMBED():
            return self.embed_tokens(ids) * self._embedding_scale

    def _soft_embedding(self, probs_BLV: torch.Tensor) -> torch.Tensor:
        """The mean embedding under the previous step's distribution: exact, one product with the whole table."""
        return self._table_across.product(probs_BLV.to(self.dtype), self.choices) * self._embedding_scale

    def _head(self, x: torch.Tensor, *, cap_dtype: torch.dtype) -> torch.Tensor:
        with ranges.FINAL_NORM():
            x = self.norm.chosen(x, self.choices)
        cap = self.config.final_logit_softcapping
        if self.choices.linear == "packed":  # float32, in which dividing before the product is a matter of rounding
            with ranges.LM_HEAD():
                tanh = self._table.product(x / cap, self.choices, activation="tanh")
            with ranges.SOFTCAP():
                return tanh.mul_(cap)
        with ranges.LM_HEAD():
            logits = self._table.product(x, self.choices).to(cap_dtype)
        with ranges.SOFTCAP():
            return ((logits / cap).tanh_() * cap).float()


def _unset(config: ModelConfig) -> torch.Tensor:
    """A table that nn.Embedding need not initialise."""
    return torch.empty(config.vocab_size, config.hidden_size)
