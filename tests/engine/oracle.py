"""Tiny models with every weight away from its neutral value, in transformers and in this engine.

transformers is the independent oracle: it makes the weights and writes the directory that the engine loads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import api, sampling
from engine.config import read_config

WINDOW = 8
NEAR = 1e-4  # the likeliest token and one whose logit is nearer to its may change places
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


def hf_diffusion(seed: int = 0, sharpness: float = 1.0, **shape: Any) -> Any:
    """A DiffusionGemma of transformers: sdpa attention (eager crashes on padding), dynamic cache."""
    tf = pytest.importorskip("transformers")
    config = tf.DiffusionGemmaConfig(
        text_config=tf.DiffusionGemmaTextConfig(**SHAPE | shape),
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


def exceptions(oracle_BLV: torch.Tensor, chosen_BL: torch.Tensor) -> int:
    """How many chosen tokens are not the oracle's likeliest ones, each of which is shown to be a near tie with it.

    Raises:
        AssertionError: one of them is none, with its place and the gap.
    """
    best_BL = oracle_BLV.argmax(dim=-1)
    gap_BL = oracle_BLV.amax(dim=-1) - oracle_BLV.gather(-1, chosen_BL[..., None])[..., 0]
    differ_BL = chosen_BL != best_BL
    far_BL = differ_BL & (gap_BL >= NEAR)
    places = [(place, gap_BL[tuple(place)].item()) for place in far_BL.nonzero().tolist()]
    assert not places, f"other tokens than the oracle's, and no near ties: {places}"
    return int(differ_BL.sum())


@dataclass(frozen=True)
class Setting:
    """One way to call both. Predictions are sharp, so that canvases settle once temperatures are low."""

    batch: int = 1
    context: int = 9
    length: int = 6
    output: int = 18
    steps: int = 8
    eos: tuple[int, ...] = ()
    stability: int = 1
    confidence: float = 0.005
    bound: float = 0.1
    t_min: float = 0.4
    t_max: float = 0.8
    pads: tuple[int, ...] = ()
    seed: int = 0


def theirs(pair: Pair, s: Setting) -> Any:
    from transformers.models.diffusion_gemma.generation_diffusion_gemma import EntropyBoundSamplerConfig

    ids = random_ids(s.batch, s.context, s.seed)
    padding = {"attention_mask": left_padding(s.context, list(s.pads))} if s.pads else {}
    torch.manual_seed(s.seed)
    trained_length, pair.hf.config.canvas_length = pair.hf.config.canvas_length, s.length
    try:
        return pair.hf.generate(
            ids,
            max_new_tokens=s.output,
            max_denoising_steps=s.steps,
            eos_token_id=list(s.eos) or None,
            pad_token_id=0,
            stability_threshold=s.stability,
            confidence_threshold=s.confidence,
            sampler_config=EntropyBoundSamplerConfig(entropy_bound=s.bound),
            t_min=s.t_min,
            t_max=s.t_max,
            **padding,
        )
    finally:
        pair.hf.config.canvas_length = trained_length


def ours(pair: Pair, s: Setting, generator: torch.Generator | None, **more: Any) -> api.Generation:
    choices: dict[str, Any] = dict(
        decoding="block_diffusion",
        output_tokens=s.output,
        attention_mask_BT=left_padding(s.context, list(s.pads)) if s.pads else None,
        block_length=s.length,
        num_steps=s.steps,
        eos="respect" if s.eos else "ignore",
        eos_ids=s.eos or None,
        entropy_bound=s.bound,
        t_min=s.t_min,
        t_max=s.t_max,
        stability=s.stability,
        confidence=s.confidence,
        sampler="reference",
        generator=generator,
    )
    return api.generate(pair.ours, random_ids(s.batch, s.context, s.seed), **choices | more)


@dataclass(frozen=True)
class Compared:
    """What a request of ours did from step to step, where each began with what transformers made of the last one."""

    ours: api.Generation
    theirs_BT: torch.Tensor
    off: list[float]  # of each step's logits, the largest difference to transformers
    exceptions: list[int]  # of each step: likeliest tokens that are not transformers', all near ties


def handed_on(pair: Pair, s: Setting, monkeypatch: pytest.MonkeyPatch, sampler: str) -> Compared:
    """A request of both, in which each of our steps computes, but goes on from transformers' logits.

    So no rounding is handed on, which self-conditioning at low temperatures multiplies from step to step until another
    token is drawn. The likeliest tokens are those that `sampler` finds in our logits, and the next step gets what it
    makes of transformers'; draws are transformers' in any case, which those of a faster sampler cannot be.
    """
    seen: list[torch.Tensor] = []
    off: list[float] = []
    counted: list[int] = []
    forward, sample = pair.hf.forward, sampling.SAMPLERS[sampler]

    def watched(**inputs: Any) -> Any:
        out = forward(**inputs)
        seen.append(out.logits.float())
        return out

    def corrected(
        logits_BLV: torch.Tensor, temperature: torch.Tensor, bound: float, generator: torch.Generator | None
    ) -> sampling.Denoised:
        theirs_BLV = seen.pop(0)
        off.append((logits_BLV - theirs_BLV).abs().max().item())
        own, known = (sample(z.clone(), temperature, bound, torch.Generator()) for z in (logits_BLV, theirs_BLV))
        counted.append(exceptions(theirs_BLV, own.argmax_BL))
        drawn = sampling.reference(theirs_BLV, temperature, bound, generator)
        return replace(drawn, conditioning_BLV=known.conditioning_BLV, probs_BLV=known.probs_BLV)

    with monkeypatch.context() as patch:
        patch.setattr(pair.hf, "forward", watched)
        expected_BT = theirs(pair, s).sequences[:, s.context :]
        patch.setitem(sampling.SAMPLERS, "corrected", corrected)
        got = ours(pair, s, torch.Generator().manual_seed(s.seed), sampler="corrected")
    assert not seen, f"transformers took {len(seen)} more steps"
    return Compared(got, expected_BT, off, counted)
