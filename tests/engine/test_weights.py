"""Directories go both ways between transformers and the engine, and a broken one is refused in one line."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import VISION, Pair, hf_gemma4, random_ids
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from engine import api, weights
from engine.config import PRESETS

DIFFUSION = dict(context=20, length=6)


def our_logits(model: api.Model) -> torch.Tensor:
    ids, canvas = random_ids(2, DIFFUSION["context"]), random_ids(2, DIFFUSION["length"], seed=1)
    return api.denoise_logits(model, canvas, api.encode(model, ids))


def their_logits(hf: Any) -> torch.Tensor:
    with torch.no_grad():
        return hf(
            input_ids=random_ids(2, DIFFUSION["context"]), decoder_input_ids=random_ids(2, DIFFUSION["length"], seed=1)
        ).logits


def saved_names(directory: Path) -> set[str]:
    names: set[str] = set()
    for path in directory.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            names |= set(file.keys())
    return names


@pytest.mark.parametrize("shard", ["10GB", "20KB"])
def test_a_directory_that_transformers_wrote_gives_the_same_logits_here(pair: Pair, tmp_path: Path, shard: str) -> None:
    pair.hf.save_pretrained(tmp_path, max_shard_size=shard)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard == "20KB")
    torch.testing.assert_close(our_logits(api.load(tmp_path)), their_logits(pair.hf), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shard", [10**9, 20_000])
def test_a_directory_written_here_gives_the_same_logits_in_transformers(pair: Pair, tmp_path: Path, shard: int) -> None:
    from transformers import DiffusionGemmaForBlockDiffusion

    api.save(pair.ours, tmp_path, max_shard_bytes=shard)
    hf, info = DiffusionGemmaForBlockDiffusion.from_pretrained(
        tmp_path, attn_implementation="sdpa", output_loading_info=True
    )
    torch.testing.assert_close(their_logits(hf), our_logits(pair.ours), atol=1e-5, rtol=0)
    assert not info["unexpected_keys"]
    assert all("vision" in name for name in info["missing_keys"])


def test_a_preset_saved_here_generates_the_same_tokens_in_transformers(tiny: api.Model, tmp_path: Path) -> None:
    from transformers import DiffusionGemmaForBlockDiffusion

    api.save(tiny, tmp_path)
    hf = DiffusionGemmaForBlockDiffusion.from_pretrained(tmp_path, attn_implementation="sdpa")
    prompt = random_ids(1, 70, vocab=512)
    torch.manual_seed(0)
    theirs = hf.generate(prompt, max_new_tokens=32, max_denoising_steps=3).sequences[:, 70:]
    generator = torch.Generator().manual_seed(0)
    ours = api.generate(
        tiny,
        prompt,
        decoding="block_diffusion",
        output_tokens=32,
        num_steps=3,
        generator=generator,
        sampler="reference",
    )
    assert torch.equal(ours.output_ids, theirs)


def test_saving_and_loading_keeps_every_weight_the_config_and_the_tokenizer(tiny: api.Model, tmp_path: Path) -> None:
    api.save(tiny, tmp_path)
    again = api.load(tmp_path)
    assert again.config == tiny.config
    assert again.tokenizer.to_str() == tiny.tokenizer.to_str()
    for (name, a), (_, b) in zip(tiny.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_the_checkpoints_generation_values_are_read(pair: Pair, tmp_path: Path) -> None:
    shutil.copytree(pair.directory, tmp_path, dirs_exist_ok=True)
    sampler = {"_cls_name": "EntropyBoundSamplerConfig", "entropy_bound": 0.7}
    given = dict(max_denoising_steps=9, t_min=0.1, t_max=0.3, stability_threshold=2, confidence_threshold=0.5)
    given |= dict(sampler_config=sampler, eos_token_id=[7, 8], pad_token_id=3, bos_token_id=None)
    (tmp_path / "generation_config.json").write_text(json.dumps(given))
    own = api.load(tmp_path).config.generation
    assert (own.max_denoising_steps, own.t_min, own.t_max, own.entropy_bound) == (9, 0.1, 0.3, 0.7)
    assert (own.stability_threshold, own.confidence_threshold) == (2, 0.5)
    assert (own.eos_ids, own.pad_id) == ((7, 8), 3)


@pytest.mark.parametrize("nested", [False, True])
def test_a_gemma4_directory_of_transformers_gives_the_same_logits_here(tmp_path: Path, nested: bool) -> None:
    hf = hf_gemma4(seed=3)
    hf.save_pretrained(tmp_path)
    if nested:  # as in multimodal checkpoints: text_config, a longer prefix, other towers beside the text
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma4", "text_config": config}))
        tensors = load_file(tmp_path / "model.safetensors")
        renamed = {name.replace("model.", "model.language_model.", 1): t for name, t in tensors.items()}
        save_file(renamed | {"model.vision_tower.x": torch.ones(2)}, tmp_path / "model.safetensors")
    model = api.load(tmp_path)
    ids = random_ids(2, 20)
    with torch.no_grad():
        torch.testing.assert_close(api.causal_logits(model, ids), hf(ids).logits, atol=1e-5, rtol=0)
    assert model.config.canvas_length is None


def test_a_gemma4_directory_written_here_gives_the_same_logits_in_transformers(tmp_path: Path) -> None:
    from transformers import Gemma4ForCausalLM

    hf_gemma4(seed=3).save_pretrained(tmp_path / "theirs")
    model = api.load(tmp_path / "theirs")
    api.save(model, tmp_path / "ours")
    hf, info = Gemma4ForCausalLM.from_pretrained(
        tmp_path / "ours", attn_implementation="sdpa", output_loading_info=True
    )
    ids = random_ids(2, 20)
    with torch.no_grad():
        torch.testing.assert_close(api.causal_logits(model, ids), hf(ids).logits, atol=1e-5, rtol=0)
    assert not info["unexpected_keys"]
    assert not info["missing_keys"]


def test_the_26b_preset_has_the_names_and_shapes_that_transformers_saves() -> None:
    tf = pytest.importorskip("transformers")
    preset = PRESETS["diffusiongemma_26b_a4b"]
    text = dict(
        hidden_size=2816, intermediate_size=2112, num_hidden_layers=30, num_attention_heads=16, num_key_value_heads=8,
        head_dim=256, global_head_dim=512, num_global_key_value_heads=2, sliding_window=1024, num_experts=128,
        top_k_experts=8, moe_intermediate_size=704, vocab_size=262_144,
    )  # fmt: skip
    config = tf.DiffusionGemmaConfig(
        text_config=tf.DiffusionGemmaTextConfig(**text), vision_config=tf.Gemma4VisionConfig(**VISION)
    )
    with torch.device("meta"):
        hf = tf.DiffusionGemmaForBlockDiffusion(config)
    # tied tensors are saved once, under the decoder's name: everything of the encoder's text but its layer scalars
    encoder = "model.encoder.language_model."
    theirs = {
        name: tuple(t.shape)
        for name, t in hf.state_dict().items()
        if "vision" not in name
        and name != "lm_head.weight"
        and (not name.startswith(encoder) or name.endswith("layer_scalar"))
    }
    ours = {name: tuple(p.shape) for name, p in weights.saved_names(weights.skeleton(preset)).items()}
    assert ours == theirs
    scalars = sum(1 for name in ours if name.endswith("layer_scalar"))
    assert scalars == 60
    assert round(sum(p.numel() for p in weights.skeleton(preset).parameters()) / 1e9, 2) == 25.25


def test_the_names_written_are_those_that_transformers_writes(pair: Pair, tmp_path: Path) -> None:
    api.save(pair.ours, tmp_path)
    assert saved_names(tmp_path) == {name for name in saved_names(pair.directory) if "vision" not in name}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_presets_weights_follow_its_seed_and_give_useful_logits(dtype: str) -> None:
    first, same, other = (api.load("tiny", dtype=dtype, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), same.parameters(), strict=True))
    assert not torch.equal(first.embed_tokens.weight, other.embed_tokens.weight)
    ids = random_ids(1, 80, vocab=512)
    for logits in (
        api.causal_logits(first, ids),
        api.denoise_logits(first, ids[:, :32], api.encode(first, ids)),
    ):
        assert torch.isfinite(logits).all()
        assert 0.3 < logits.std() < 3


def test_a_duplicate_of_a_tied_tensor_is_accepted_if_it_is_the_same(pair: Pair, tmp_path: Path) -> None:
    shutil.copytree(pair.directory, tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.decoder.embed_tokens.weight"].clone()
    tensors["model.encoder.language_model.norm.weight"] = tensors["model.decoder.norm.weight"].clone()
    save_file(tensors, tmp_path / "model.safetensors")
    assert torch.equal(our_logits(api.load(tmp_path)), our_logits(pair.ours))
    tensors["lm_head.weight"][0, 0] += 1
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"lm_head.weight differs from model.decoder.embed_tokens.weight"):
        api.load(tmp_path)


def test_saving_again_leaves_no_tensors_of_the_last_time(tiny: api.Model, tmp_path: Path) -> None:
    api.save(tiny, tmp_path, max_shard_bytes=100_000)
    api.save(tiny, tmp_path)
    assert [p.name for p in tmp_path.glob("model*")] == ["model.safetensors"]


def test_rope_and_layer_pattern_survive_the_round_trip(tmp_path: Path) -> None:
    config = replace(PRESETS["tiny"], full_rope_theta=5e5, sliding_rope_theta=2e4, full_rotary_factor=0.5)
    model = weights.random_model(config, torch.device("cpu"), torch.float32, seed=0)
    api.save(model, tmp_path)
    assert api.load(tmp_path).config == config
