"""Tiny models with every weight away from its neutral value, in transformers and in this engine.

transformers is the independent oracle: it makes the weights and writes the directory that the engine loads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import api
from engine.config import read_config

WINDOW = 8
SHAPE: dict[str, Any] = dict(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=4,
    layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    global_head_dim=16,
    num_global_key_value_heads=1,
    sliding_window=WINDOW,
    num_experts=6,
    top_k_experts=2,
    moe_intermediate_size=16,
    max_position_embeddings=512,
)
# transformers' names of sizes that this engine calls otherwise
OURS = {
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads",
    "num_global_key_value_heads": "global_num_kv_heads",
}
GEMMA4_ONLY: dict[str, Any] = dict(
    enable_moe_block=True, attention_k_eq_v=True, hidden_size_per_layer_input=0, final_logit_softcapping=30.0
)
VISION: dict[str, Any] = dict(
    hidden_size=16,
    intermediate_size=16,
    num_hidden_layers=1,
    num_attention_heads=1,
    num_key_value_heads=1,
    head_dim=16,
    position_embedding_size=16,
)


@torch.no_grad()
def perturb(model: torch.nn.Module, seed: int, sharpness: float) -> None:
    """Random weights of useful size; a larger final norm (`sharpness`) makes more certain, less alike predictions."""
    generator = torch.Generator().manual_seed(seed)
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, p in sorted(named.items()):
        if "inv_freq" in name or "embed_scale" in name or "vision" in name:
            continue
        noise = torch.randn(p.shape, generator=generator)
        if p.dim() > 1:
            p.copy_(noise * (1.0 if "router" in name else p.shape[-1] ** -0.5))
        elif "q_norm" in name:
            p.copy_((1 + 0.3 * noise) * p.shape[0] ** -0.5)
        else:
            p.copy_(1 + 0.3 * noise)
    final_norm = re.compile(r"model\.(encoder\.language_model\.|decoder\.)?norm\.weight")
    next(p for name, p in named.items() if final_norm.fullmatch(name)).mul_(sharpness)


@dataclass
class Pair:
    """The same weights twice."""

    hf: Any
    ours: api.Model
    directory: Path


def hf_diffusion(seed: int = 0, sharpness: float = 1.0) -> Any:
    """A DiffusionGemma of transformers: sdpa attention (eager crashes on padding), dynamic cache."""
    tf = pytest.importorskip("transformers")
    config = tf.DiffusionGemmaConfig(
        text_config=tf.DiffusionGemmaTextConfig(**SHAPE),
        vision_config=tf.Gemma4VisionConfig(**VISION),
        canvas_length=6,
        attn_implementation="sdpa",
    )
    model = tf.DiffusionGemmaForBlockDiffusion(config).eval()
    perturb(model, seed, sharpness)
    return model


def hf_gemma4(seed: int = 0) -> Any:
    tf = pytest.importorskip("transformers")
    config = tf.Gemma4TextConfig(**SHAPE, **GEMMA4_ONLY, attn_implementation="sdpa")
    model = tf.Gemma4ForCausalLM(config).eval()
    perturb(model, seed, 1.0)
    return model


def twin_of(hf: Any) -> Any:
    """The Gemma4ForCausalLM with the encoder's weights: its layer scalars are the encoder's."""
    twin = hf_gemma4().to(hf.dtype)
    load_encoder(twin, hf)
    return twin


def load_encoder(twin: Any, hf: Any) -> None:
    state = {}
    for name, tensor in hf.state_dict().items():
        if name.startswith("model.encoder.language_model."):
            state["model." + name.removeprefix("model.encoder.language_model.")] = tensor
    twin.load_state_dict(state | {"lm_head.weight": hf.lm_head.weight}, strict=True)


def random_ids(batch: int, tokens: int, seed: int = 0, vocab: int = SHAPE["vocab_size"]) -> torch.Tensor:
    return torch.randint(0, vocab, (batch, tokens), generator=torch.Generator().manual_seed(seed))


def left_padding(tokens: int, pads: list[int]) -> torch.Tensor:
    """(B, T) bool with so many padding tokens at the start of each row."""
    return torch.arange(tokens) >= torch.tensor(pads)[:, None]


def make_pair(directory: Path, hf: Any) -> Pair:
    hf.save_pretrained(directory)
    return Pair(hf, api.load(directory), directory)


def twin_of_directory(directory: Path) -> Any:
    """The Gemma4ForCausalLM that has the encoder's weights of a DiffusionGemma directory."""
    tf = pytest.importorskip("transformers")
    hf = tf.DiffusionGemmaForBlockDiffusion.from_pretrained(directory, dtype=torch.float32)
    own = read_config(directory)
    shape = {name: getattr(own, OURS.get(name, name)) for name in SHAPE} | {"layer_types": list(own.layer_types)}
    config = tf.Gemma4TextConfig(**shape, **GEMMA4_ONLY, attn_implementation="sdpa")
    twin = tf.Gemma4ForCausalLM(config).eval()
    load_encoder(twin, hf)
    return twin
