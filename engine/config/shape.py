"""What shape the model has, and how it decodes by default. No torch here: plan and report read this file.

Sizes of the released checkpoint: huggingface/transformers, src/transformers/models/diffusion_gemma/
convert_diffusion_gemma_weights.py. The defaults of transformers' config classes are other sizes, so nothing here
falls back to them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any

SLIDING = "sliding_attention"
FULL = "full_attention"
WINDOW_FORMS = ("sdpa", "symmetric")


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationDefaults:
    """The checkpoint's own decoding values (generation_config.json); `generate` uses them where a caller gives none."""

    max_denoising_steps: int = 48
    entropy_bound: float = 0.1
    t_min: float = 0.4
    t_max: float = 0.8
    stability_threshold: int = 1
    confidence_threshold: float = 0.005
    eos_ids: tuple[int, ...] = (1, 106, 50)
    pad_id: int = 0
    bos_id: int | None = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Shape of one DiffusionGemma or Gemma 4 mixture-of-experts text model.

    Raises:
        ValueError: a size that no model can have; the message names the field, its value and what was expected.
    """

    hidden_size: int
    intermediate_size: int  # the dense MLP's width, and the self-conditioning MLP's
    num_layers: int
    num_heads: int
    num_kv_heads: int  # sliding layers
    head_dim: int  # sliding layers
    global_num_kv_heads: int  # full layers, which have no v_proj: K and V share one projection
    global_head_dim: int  # full layers
    sliding_window: int
    num_experts: int
    top_k_experts: int
    moe_intermediate_size: int
    vocab_size: int
    canvas_length: int | None  # None: a Gemma 4 checkpoint, which has no diffusion decoder
    layer_types: tuple[str, ...] = ()  # () means five sliding layers, then a full one, repeated; the last one full
    final_logit_softcapping: float = 30.0
    rms_norm_eps: float = 1e-6
    sliding_rope_theta: float = 1e4
    full_rope_theta: float = 1e6
    full_rotary_factor: float = 0.25
    max_position_embeddings: int = 262_144
    generation: GenerationDefaults = field(default_factory=GenerationDefaults)

    def __post_init__(self) -> None:
        if not self.layer_types:
            pattern = [FULL if (i + 1) % 6 == 0 else SLIDING for i in range(self.num_layers)]
            pattern[-1] = FULL
            object.__setattr__(self, "layer_types", tuple(pattern))
        for f in fields(self):
            value = getattr(self, f.name)
            # the field's own annotation says which ones count things; all counts are positive
            counts = f.type == "int" or (f.type == "int | None" and value is not None)
            if counts and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"model config: {f.name} is {value!r}, expected a positive whole number")
            if f.type == "float" and not (isinstance(value, int | float) and 0 < value < math.inf):
                raise ValueError(f"model config: {f.name} is {value!r}, expected a positive number")
        _check(len(self.layer_types) == self.num_layers, "layer_types", self.layer_types, f"{self.num_layers} entries")
        _check(set(self.layer_types) <= {SLIDING, FULL}, "layer_types", self.layer_types, f"{SLIDING} or {FULL}")
        _check(self.layer_types[-1] == FULL, "layer_types", self.layer_types, f"a last layer of type {FULL}")
        top_k, experts = self.top_k_experts, self.num_experts
        _check(top_k <= experts, "top_k_experts", top_k, f"at most {experts}")
        for size in (self.head_dim, self.global_head_dim):
            _check(size % 2 == 0, "head_dim", size, "an even number, because rotary positions turn pairs")
        for heads in (self.num_kv_heads, self.global_num_kv_heads):
            _check(self.num_heads % heads == 0, "num_kv_heads", heads, f"a divisor of {self.num_heads} query heads")

    @property
    def num_sliding_layers(self) -> int:
        return self.layer_types.count(SLIDING)

    @property
    def num_full_layers(self) -> int:
        return self.layer_types.count(FULL)

    def with_generation(self, **changes: Any) -> ModelConfig:
        return replace(self, generation=replace(self.generation, **changes))


def _check(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise ValueError(f"model config: {name} is {value!r}, expected {expected}")


# Byte-level ids 0..3 are pad, eos, bos and end of turn; byte b is id 4 + b (engine/tokenizer.py).
_BYTE_LEVEL = GenerationDefaults(eos_ids=(1, 3), pad_id=0, bos_id=2)

PRESETS: dict[str, ModelConfig] = {
    # About a million random weights with every trait of the architecture, for tests.
    "tiny": ModelConfig(
        hidden_size=128,
        intermediate_size=192,
        num_layers=4,
        layer_types=(SLIDING, SLIDING, SLIDING, FULL),
        num_heads=4,
        num_kv_heads=2,
        head_dim=32,
        global_num_kv_heads=1,
        global_head_dim=64,
        sliding_window=64,
        num_experts=8,
        top_k_experts=2,
        moe_intermediate_size=64,
        vocab_size=512,
        canvas_length=32,
        max_position_embeddings=8192,
        generation=_BYTE_LEVEL,
    ),
    # The shape on which peers were timed on a 2-core CPU.
    "small": ModelConfig(
        hidden_size=256,
        intermediate_size=512,
        num_layers=6,
        num_heads=4,
        num_kv_heads=2,
        head_dim=64,
        global_num_kv_heads=1,
        global_head_dim=128,
        sliding_window=128,
        num_experts=16,
        top_k_experts=4,
        moe_intermediate_size=128,
        vocab_size=8192,
        canvas_length=64,
        max_position_embeddings=32_768,
        generation=_BYTE_LEVEL,
    ),
    # The released shape: 25.25 B text parameters, 3.82 B active per token, 50.5 GB in bfloat16.
    "diffusiongemma_26b_a4b": ModelConfig(
        hidden_size=2816,
        intermediate_size=2112,
        num_layers=30,
        num_heads=16,
        num_kv_heads=8,
        head_dim=256,
        global_num_kv_heads=2,
        global_head_dim=512,
        sliding_window=1024,
        num_experts=128,
        top_k_experts=8,
        moe_intermediate_size=704,
        vocab_size=262_144,
        canvas_length=256,
        max_position_embeddings=262_144,
    ),
}
