"""FLOPs and bytes of every operation of one model call, by formula. No torch: plan and report use this on a laptop.

Legend: B batch, T new positions, M = B*T rows, C cached positions (context), H hidden, V vocabulary, E experts,
k experts per token, I expert width, D dense width.

Conventions. Bytes are compulsory traffic: each weight once, each matrix product's input once and its output once. A
multiply and an add are two FLOPs. The routing term counts the distinct experts that M rows hit: expected ones (uniform
routing: E*(1 - (1 - k/E)^M), else popularity.py), or a measured count. Attention counts the keys that the window form
of transformers' sdpa path makes visible (the last window-1 cached keys and all new ones), without a causal discount.
The sampler is the fused one: it reads float32 logits twice and writes bfloat16 probabilities.
Decoding structure: transformers, models/diffusion_gemma/modeling_diffusion_gemma.py and generation_diffusion_gemma.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.config import ModelConfig
from engine.cost.popularity import Inclusion

OPERATIONS = (
    "soft_embedding",
    "selfcond_mlp",
    "attention_projections",
    "attention_core",
    "dense_mlp",
    "experts",
    "router",
    "lm_head",
    "sampler",
)
LOGIT_BYTES = 4  # the head's output is float32
PROBABILITY_BYTES = 2  # what the soft embedding reads


@dataclass(frozen=True, kw_only=True, slots=True)
class Widths:
    """Bytes per element of each part."""

    weight: float  # dense MLP, attention, self-conditioning MLP, and the experts unless they have a width of their own
    activation: float
    kv: float
    head: float  # the embedding, which is also the head
    experts: float | None = None

    @property
    def expert(self) -> float:
        return self.weight if self.experts is None else self.experts


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Compulsory bytes and floating-point operations."""

    bytes: float
    flops: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(bytes=self.bytes + other.bytes, flops=self.flops + other.flops)

    def times(self, count: float) -> Cost:
        return Cost(bytes=self.bytes * count, flops=self.flops * count)


def distinct_experts(config: ModelConfig, rows: int, inclusion: Inclusion | None = None) -> float:
    """Expected number of distinct experts that `rows` tokens hit in a layer, mean over layers.

    Tokens choose independently, so an expert that a token includes with probability p is hit by M of them with
    probability 1 - (1 - p)^M. None is uniform routing, where every p is k/E.
    """
    uniform = ((config.top_k_experts / config.num_experts,) * config.num_experts,)
    layers = uniform if inclusion is None else inclusion
    return sum(1 - (1 - p) ** rows for layer in layers for p in layer) / len(layers)


def attention_parameters(config: ModelConfig) -> int:
    """Weights of all q, k, v and o projections; full layers have no v."""
    sliding = 2 * config.num_heads * config.head_dim + 2 * config.num_kv_heads * config.head_dim
    full = 2 * config.num_heads * config.global_head_dim + config.global_num_kv_heads * config.global_head_dim
    return config.hidden_size * (config.num_sliding_layers * sliding + config.num_full_layers * full)


def parameters(config: ModelConfig) -> dict[str, int]:
    """Matrix weights by part. Norm vectors are left out: they are under 0.01 % of any of these shapes."""
    layers, H = config.num_layers, config.hidden_size
    return {
        "experts": layers * config.num_experts * 3 * H * config.moe_intermediate_size,
        "attention": attention_parameters(config),
        "dense_mlp": layers * 3 * H * config.intermediate_size,
        "router": layers * H * config.num_experts,
        "selfcond_mlp": 0 if config.canvas_length is None else 3 * H * config.intermediate_size,
        "embedding": config.vocab_size * H,
    }


def parameters_read(config: ModelConfig, experts_hit: float) -> float:
    """Matrix weights that a pass reads when so many distinct experts a layer are hit; k is one token's share."""
    of_part = parameters(config)
    return sum(of_part.values()) - of_part["experts"] * (1 - experts_hit / config.num_experts)


def weight_bytes(config: ModelConfig, widths: Widths) -> int:
    """Bytes that the weights take on the device."""
    of_part = {"embedding": widths.head, "experts": widths.expert}
    return int(sum(n * of_part.get(part, widths.weight) for part, n in parameters(config).items()))


def kv_bytes(config: ModelConfig, batch_size: int, *, sliding: int, full: int, widths: Widths) -> int:
    """Bytes of keys and values when sliding layers have room for so many positions, and full ones for so many."""
    elements = (
        config.num_sliding_layers * config.num_kv_heads * config.head_dim * sliding
        + config.num_full_layers * config.global_num_kv_heads * config.global_head_dim * full
    )
    return int(2 * batch_size * elements * widths.kv)


def _backbone(
    config: ModelConfig, B: int, T: int, C: int, widths: Widths, experts_hit: float | None
) -> dict[str, Cost]:
    """The layer stack, equal in all pass kinds but for T and C."""
    M = B * T
    H, layers = config.hidden_size, config.num_layers
    sliding, full = config.num_sliding_layers, config.num_full_layers
    q_width = sliding * config.num_heads * config.head_dim + full * config.num_heads * config.global_head_dim
    v_width = sliding * config.num_kv_heads * config.head_dim
    k_width = v_width + full * config.global_num_kv_heads * config.global_head_dim
    sliding_keys, full_keys = min(C, config.sliding_window - 1) + T, C + T
    kv_elements = 2 * (
        sliding * config.num_kv_heads * config.head_dim * sliding_keys
        + full * config.global_num_kv_heads * config.global_head_dim * full_keys
    )
    score_elements = config.num_heads * (
        sliding * config.head_dim * sliding_keys + full * config.global_head_dim * full_keys
    )
    hit = distinct_experts(config, M) if experts_hit is None else experts_hit
    attention, dense, k = attention_parameters(config), layers * 3 * H * config.intermediate_size, config.top_k_experts
    E, I = config.num_experts, config.moe_intermediate_size  # noqa: E741 (the paper's letters)
    return {
        "attention_projections": Cost(
            bytes=attention * widths.weight
            + M * (2 * layers * H + 2 * q_width + k_width + v_width) * widths.activation,
            flops=2 * M * attention,
        ),
        "attention_core": Cost(bytes=B * kv_elements * widths.kv, flops=4 * M * score_elements),
        "dense_mlp": Cost(
            bytes=dense * widths.weight + layers * M * (2 * H + 3 * config.intermediate_size) * widths.activation,
            flops=2 * M * dense,
        ),
        "experts": Cost(
            bytes=layers * (hit * 3 * H * I * widths.expert + M * k * (2 * H + 3 * I) * widths.activation),
            flops=2 * M * k * layers * 3 * H * I,
        ),
        "router": Cost(bytes=layers * (H * E + 14 * M * H) * widths.activation, flops=2 * M * layers * H * E),
    }


def _head(config: ModelConfig, rows: int, widths: Widths) -> Cost:
    V, H = config.vocab_size, config.hidden_size
    return Cost(bytes=V * H * widths.head + LOGIT_BYTES * rows * V, flops=2 * rows * V * H)


def pass_cost(
    config: ModelConfig,
    kind: str,
    *,
    batch_size: int,
    tokens: int,
    context: int,
    widths: Widths,
    experts_hit: float | None = None,
    samples: bool = False,
) -> dict[str, Cost]:
    """Cost of one model call by operation (names of OPERATIONS).

    Args:
        kind: prefill, denoise, commit or decode.
        tokens: new positions per row of the batch.
        context: positions already in the KV cache.
        experts_hit: distinct experts per layer, where it was measured.
        samples: this prefill also gives the first token (autoregressive decoding).

    Raises:
        ValueError: an unknown kind.
    """
    costs = _backbone(config, batch_size, tokens, context, widths, experts_hit)
    M, V, H = batch_size * tokens, config.vocab_size, config.hidden_size
    if kind == "denoise":
        selfcond = 3 * H * config.intermediate_size
        costs["soft_embedding"] = Cost(bytes=V * H * widths.head + PROBABILITY_BYTES * M * V, flops=2 * M * V * H)
        costs["selfcond_mlp"] = Cost(bytes=selfcond * widths.weight, flops=2 * M * selfcond)
        costs["lm_head"] = _head(config, M, widths)
        costs["sampler"] = Cost(bytes=(2 * LOGIT_BYTES + PROBABILITY_BYTES) * M * V, flops=12 * M * V)
    elif kind == "decode" or (kind == "prefill" and samples):
        costs["lm_head"] = _head(config, batch_size, widths)
        costs["sampler"] = Cost(bytes=LOGIT_BYTES * batch_size * V, flops=batch_size * V)
    elif kind not in ("prefill", "commit"):
        raise ValueError(f"pass kind is {kind!r}, expected prefill, denoise, commit or decode")
    return {name: costs[name] for name in OPERATIONS if name in costs}
