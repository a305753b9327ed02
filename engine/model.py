"""The network: one stack of layers that encodes (causal, writes the cache) and denoises (reads it).

Formulas: huggingface/transformers, src/transformers/models/diffusion_gemma/modeling_diffusion_gemma.py. The encoder
and decoder of that file share every weight but one scalar per layer and the decoder's self-conditioning; here they are
one stack. The autoregressive twin is the encoder with the final norm and the head, rounded as
src/transformers/models/gemma4/modeling_gemma4.py does.

Legend: B batch, T new tokens, L block length, N = B * T, H hidden, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import nn

from engine import ranges
from engine.attention import Attention, Norm, Pass, inverse_frequencies, rms_norm, rope_tables, visibility
from engine.config import FULL, ModelConfig
from engine.kv_cache import KVCache
from engine.moe import Experts, Router, expert_mlp
from engine.observe import Seen
from engine.routing import Routing

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class GatedMLP(nn.Module):
    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, width, bias=False)
        self.up_proj = nn.Linear(hidden, width, bias=False)
        self.down_proj = nn.Linear(width, hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))


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
        with ranges.LAYER(self.index):
            with self.attn_range(self.index):
                attended = self.self_attn(self.input_layernorm(x_BTH), p)
            x_BTH = x_BTH + self.post_attention_layernorm(attended)
            with ranges.MLP(self.index):
                dense = self.mlp(self.pre_feedforward_layernorm(x_BTH))
            raw_NH = x_BTH.flatten(0, 1)
            with ranges.ROUTER(self.index):
                weights_NK, experts_NK = self.router(raw_NH)
                if p.routing is not None:
                    experts_NK = p.routing.draw(self.index, experts_NK)
            if p.seen is not None:
                p.seen.experts(experts_NK)
            mixed = self.pre_feedforward_layernorm_2(raw_NH)
            mixed = expert_mlp(mixed, weights_NK, experts_NK, self.experts, self.index).view_as(x_BTH)
            both = self.post_feedforward_layernorm_1(dense) + self.post_feedforward_layernorm_2(mixed)
            scalar = self.encoder_scalar if p.causal else self.decoder_scalar
            return (x_BTH + self.post_feedforward_layernorm(both)) * scalar

    def only_extend_cache(self, x_BTH: torch.Tensor, p: Pass) -> None:
        """The last layer of a pass whose output nobody reads: its keys and values are all that is left of it."""
        with ranges.LAYER(self.index), self.attn_range(self.index):
            self.self_attn.extend_cache(self.input_layernorm(x_BTH), p)


class SelfConditioning(nn.Module):
    """Adds what the previous step believed, as a soft embedding. Its last norm runs on the first step too."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden, width = config.hidden_size, config.intermediate_size
        self.pre_norm = Norm(hidden, config.rms_norm_eps)
        self.gate_proj = nn.Linear(hidden, width, bias=False)
        self.up_proj = nn.Linear(hidden, width, bias=False)
        self.down_proj = nn.Linear(width, hidden, bias=False)

    def forward(self, embedded_BLH: torch.Tensor, soft_BLH: torch.Tensor | None) -> torch.Tensor:
        """soft_BLH None is the zero signal of a canvas's first step: the MLP then adds exactly zero."""
        if soft_BLH is not None:
            n = self.pre_norm(soft_BLH)
            n = F.gelu(self.gate_proj(n), approximate="tanh") * self.up_proj(n)
            embedded_BLH = embedded_BLH + self.down_proj(n)
        return rms_norm(embedded_BLH, None, self.pre_norm.eps)


class Model(nn.Module):
    """DiffusionGemma's text part, or (canvas_length None) a Gemma 4 mixture of experts. Built by `engine.api.load`.

    Parameters have the names of the checkpoint's decoder, but for the two scalars of each layer.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.window = "sdpa"  # the form of the decoder's sliding window, one of engine.config.WINDOW_FORMS
        self.tokenizer: Tokenizer | None = None
        self.seen: Seen | None = None  # set by engine.observe.observe
        self.routing: Routing | None = None  # set by engine.routing.drawn
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, _weight=_unset(config))
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_layers))
        self.norm = Norm(config.hidden_size, config.rms_norm_eps)
        self.self_conditioning = SelfConditioning(config) if config.canvas_length is not None else None
        self._inv_freq: dict[tuple[str, torch.device], torch.Tensor] = {}

    @property
    def dtype(self) -> torch.dtype:
        return self.embed_tokens.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.embed_tokens.weight.device

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
        self, canvas_BL: torch.Tensor, cache: KVCache, conditioning_BLV: torch.Tensor | None = None
    ) -> torch.Tensor:
        """One denoising pass over a canvas that follows the cached tokens, (B, L, V) float32, capped in float32."""
        assert self.self_conditioning is not None
        if self.seen is not None:
            self.seen.begin("denoise")
        x_BLH = self._embed(canvas_BL)
        with ranges.SELFCOND():
            soft_BLH = None if conditioning_BLV is None else self._soft_embedding(conditioning_BLV)
            x_BLH = self.self_conditioning(x_BLH, soft_BLH)
        p = self._pass(cache, canvas_BL.shape[1], causal=False, real_BT=None)
        for layer in self.layers:
            x_BLH = layer(x_BLH, p)
        return self._head(x_BLH, cap_dtype=torch.float32)

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
        kinds = sorted(set(self.config.layer_types))
        rope = {kind: rope_tables(self._frequencies(kind), cache.length, tokens, self.dtype) for kind in kinds}
        mask = {
            kind: visibility(
                self.config, kind, cache, tokens, self.device, causal=causal, window=self.window, real_BT=real_BT
            )
            for kind in kinds
        }
        return Pass(causal, cache, rope, mask, self.seen, self.routing)

    def _frequencies(self, layer_type: str) -> torch.Tensor:
        key = (layer_type, self.device)
        if key not in self._inv_freq:
            self._inv_freq[key] = inverse_frequencies(self.config, layer_type).to(self.device)
        return self._inv_freq[key]

    @property
    def _embedding_scale(self) -> float:
        """sqrt(H) as the weights' dtype holds it: 53.0 in bfloat16 where float32 has 53.066."""
        return torch.tensor(self.config.hidden_size**0.5, dtype=self.dtype).item()

    def _embed(self, ids: torch.Tensor) -> torch.Tensor:
        with ranges.EMBED():
            return self.embed_tokens(ids) * self._embedding_scale

    def _soft_embedding(self, conditioning_BLV: torch.Tensor) -> torch.Tensor:
        """The mean embedding under the previous step's distribution: exact, one product with the whole table."""
        probs_BLV = conditioning_BLV.softmax(dim=-1, dtype=torch.float32).to(self.dtype)
        return probs_BLV @ self.embed_tokens.weight * self._embedding_scale

    def _head(self, x: torch.Tensor, *, cap_dtype: torch.dtype) -> torch.Tensor:
        with ranges.FINAL_NORM():
            x = self.norm(x)
        with ranges.LM_HEAD():
            logits = F.linear(x, self.embed_tokens.weight).to(cap_dtype)
        with ranges.SOFTCAP():
            cap = self.config.final_logit_softcapping
            return ((logits / cap).tanh_() * cap).float()


def _unset(config: ModelConfig) -> torch.Tensor:
    """A table that nn.Embedding need not initialise."""
    return torch.empty(config.vocab_size, config.hidden_size)
