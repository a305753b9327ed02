"""config.json and generation_config.json of Hugging Face directories <-> ModelConfig. No torch here.

Fields: huggingface/transformers, src/transformers/models/diffusion_gemma/configuration_diffusion_gemma.py,
generation_diffusion_gemma.py, and src/transformers/models/gemma4/configuration_gemma4.py. What this engine does not
compute is refused by name; nothing is guessed from the defaults of those classes, which are not the checkpoint's sizes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.config.shape import FULL, SLIDING, GenerationDefaults, ModelConfig

DIFFUSION = "DiffusionGemmaForBlockDiffusion"
GEMMA4 = "Gemma4ForCausalLM"

# Trained models that come with the engine: name -> directory.
SHIPPED: dict[str, Path] = {
    path.parent.name: path.parent for path in sorted((Path(__file__).parents[1] / "checkpoints").glob("*/config.json"))
}

# our field: theirs, in the text config
_SIZES = {
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "sliding_window": "sliding_window",
    "num_experts": "num_experts",
    "top_k_experts": "top_k_experts",
    "moe_intermediate_size": "moe_intermediate_size",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "max_position_embeddings",
}
# our field: theirs, in generation_config.json
_GENERATION = {
    "max_denoising_steps": "max_denoising_steps",
    "t_min": "t_min",
    "t_max": "t_max",
    "stability_threshold": "stability_threshold",
    "confidence_threshold": "confidence_threshold",
}
# field: the values that this engine computes, the first being what an absent field means. Gemma 4 classes have other
# defaults for the last three, so that there an absent field means None, which is refused.
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False, None),
    "hidden_activation": ("gelu_pytorch_tanh",),
    "use_bidirectional_attention": (None, "vision"),  # "vision" concerns image tokens only
    "tie_word_embeddings": (True,),
    "num_kv_shared_layers": (0, None),
    "use_double_wide_mlp": (False, None),
    "hidden_size_per_layer_input": (0,),
    "attention_k_eq_v": (True,),
    "enable_moe_block": (True,),
}
_EXPLICIT_IN_GEMMA4 = ("hidden_size_per_layer_input", "attention_k_eq_v", "enable_moe_block")
_ROPE: dict[str, dict[str, Any]] = {
    SLIDING: {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0, "factor": 1.0},
    FULL: {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25, "factor": 1.0},
}


def read_config(directory: Path) -> ModelConfig:
    """The model that a directory describes.

    Raises:
        ValueError: a missing or broken file, another architecture, a missing size, an unsupported feature.
    """
    path = directory / "config.json"
    outer = _read_json(path)
    kind = outer.get("model_type")
    if kind not in ("diffusion_gemma", "gemma4", "gemma4_text"):
        raise ValueError(f"{path}: model_type is {kind!r}, expected diffusion_gemma, gemma4 or gemma4_text")
    text = outer if kind == "gemma4_text" else _object(path, "text_config", outer.get("text_config"))
    diffusion = kind == "diffusion_gemma"
    _refuse_unsupported(path, text, diffusion)
    _refuse_unsupported(path, {"tie_word_embeddings": outer.get("tie_word_embeddings", True)}, True)
    sizes: dict[str, Any] = {ours: _required(path, text, theirs) for ours, theirs in _SIZES.items()}
    plain = _model_config(  # fills in the pattern of layers, which the sizes of the full ones refer to
        path, layer_types=_layer_types(path, text), global_head_dim=2, global_num_kv_heads=1, **sizes
    )
    sizes |= _full_layer_heads(path, text, plain.layer_types) | _rope(path, text)
    return _model_config(
        path,
        layer_types=plain.layer_types,
        canvas_length=outer.get("canvas_length", 256) if diffusion else None,
        # transformers' DiffusionGemma caps at 30 and writes no field for it
        final_logit_softcapping=text.get("final_logit_softcapping", 30.0 if diffusion else None),
        rms_norm_eps=text.get("rms_norm_eps", 1e-6),
        generation=_read_generation(directory, text),
        **sizes,
    )


def write_config(config: ModelConfig, dtype: str, directory: Path) -> None:
    """Write both files; `dtype` is that of the saved weights, "float32" or "bfloat16"."""
    own = config.generation
    text: dict[str, Any] = {theirs: getattr(config, ours) for ours, theirs in _SIZES.items()}
    text |= {
        "attention_bias": False,
        "bos_token_id": own.bos_id,
        "eos_token_id": list(own.eos_ids),
        "final_logit_softcapping": config.final_logit_softcapping,
        "global_head_dim": config.global_head_dim,
        "hidden_activation": "gelu_pytorch_tanh",
        "layer_types": list(config.layer_types),
        "num_global_key_value_heads": config.global_num_kv_heads,
        "pad_token_id": own.pad_id,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_parameters": {
            SLIDING: {"rope_type": "default", "rope_theta": config.sliding_rope_theta},
            FULL: {
                "rope_type": "proportional",
                "rope_theta": config.full_rope_theta,
                "partial_rotary_factor": config.full_rotary_factor,
            },
        },
        "tie_word_embeddings": True,
    }
    tokens = {"bos_token_id": own.bos_id, "eos_token_id": list(own.eos_ids), "pad_token_id": own.pad_id}
    if config.canvas_length is None:
        outer = text | {
            "architectures": [GEMMA4],
            "attention_k_eq_v": True,
            "dtype": dtype,
            "enable_moe_block": True,
            "hidden_size_per_layer_input": 0,
            "model_type": "gemma4_text",
            "num_kv_shared_layers": 0,
        }
        generation: dict[str, Any] = tokens
    else:
        outer = {
            "architectures": [DIFFUSION],
            "canvas_length": config.canvas_length,
            "dtype": dtype,
            "model_type": "diffusion_gemma",
            "text_config": text | {"model_type": "diffusion_gemma_text"},
            "tie_word_embeddings": True,
            "vision_config": _TINY_VISION,
        }
        sampler = {"_cls_name": "EntropyBoundSamplerConfig", "entropy_bound": own.entropy_bound}
        generation = tokens | {theirs: getattr(own, ours) for ours, theirs in _GENERATION.items()}
        generation |= {"sampler_config": sampler}
    for name, content in (("config.json", outer), ("generation_config.json", generation)):
        (directory / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


# transformers builds a vision tower for every DiffusionGemma; this is about the smallest that it builds.
_TINY_VISION = {
    "model_type": "gemma4_vision",
    "head_dim": 16,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_attention_heads": 1,
    "num_hidden_layers": 1,
    "num_key_value_heads": 1,
    "position_embedding_size": 16,
}


def _model_config(path: Path, *, canvas_length: int | None = None, **fields: Any) -> ModelConfig:
    """A ModelConfig whose complaints name the file."""
    try:
        return ModelConfig(canvas_length=canvas_length, **fields)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file, expected a model directory in Hugging Face layout") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error})") from error
    return _object(path, "the file", content)


def _layer_types(path: Path, text: dict[str, Any]) -> tuple[Any, ...]:
    given = text.get("layer_types") or []
    if not isinstance(given, list):
        raise ValueError(f"{path}: layer_types is {given!r}, expected a list of names")
    return tuple(given)


def _object(path: Path, name: str, value: Any) -> dict[str, Any]:
    """A JSON object; null means an empty one."""
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{path}: {name} holds {type(value).__name__}, expected a JSON object")
    return value or {}


def _required(path: Path, section: dict[str, Any], name: str) -> Any:
    if section.get(name) is None:
        raise ValueError(f"{path}: {name} is missing, expected a positive whole number")
    return section[name]


def _refuse_unsupported(path: Path, text: dict[str, Any], diffusion: bool) -> None:
    for name, values in _SUPPORTED.items():
        absent = None if not diffusion and name in _EXPLICIT_IN_GEMMA4 else values[0]
        value = text.get(name, absent)
        if value not in values:
            raise ValueError(f"{path}: {name} is {value!r}, which this engine does not compute; expected {values[0]!r}")


def _full_layer_heads(path: Path, text: dict[str, Any], kinds: tuple[str, ...]) -> dict[str, Any]:
    """Head size and K/V heads of the full layers: two fields, or one override per layer, which must all agree."""
    own = {"head_dim": text["head_dim"], "num_key_value_heads": text["num_key_value_heads"]}
    if "per_layer_config" in text:
        overrides = _object(path, "per_layer_config", text["per_layer_config"])
        layers = [own | _object(path, f"per_layer_config.{i}", overrides.get(str(i))) for i in range(len(kinds))]
        full = [sizes for sizes, kind in zip(layers, kinds, strict=True) if kind == FULL]
        sliding = [sizes for sizes, kind in zip(layers, kinds, strict=True) if kind != FULL]
        if any(sizes != own for sizes in sliding) or any(s != full[0] or s.keys() != own.keys() for s in full):
            raise ValueError(
                f"{path}: per_layer_config is {overrides!r}, expected the same head_dim and num_key_value_heads for "
                f"all full layers, and nothing else"
            )
        sizes = full[0] if full else own
    else:  # as transformers reads files that have the two fields
        sizes = {"head_dim": _required(path, text, "global_head_dim")}
        sizes["num_key_value_heads"] = text.get("num_global_key_value_heads") or own["num_key_value_heads"]
    return {"global_head_dim": sizes["head_dim"], "global_num_kv_heads": sizes["num_key_value_heads"]}


def _rope(path: Path, text: dict[str, Any]) -> dict[str, Any]:
    given = _object(path, "rope_parameters", text.get("rope_parameters"))
    both = {kind: own | _object(path, f"rope_parameters.{kind}", given.get(kind)) for kind, own in _ROPE.items()}
    fixed = ((SLIDING, "rope_type"), (SLIDING, "partial_rotary_factor"), (FULL, "rope_type"), (FULL, "factor"))
    for kind, name in fixed:
        found, expected = both[kind][name], _ROPE[kind][name]
        if found != expected:
            raise ValueError(f"{path}: rope_parameters.{kind}.{name} is {found!r}, expected {expected!r}")
    return {
        "sliding_rope_theta": both[SLIDING]["rope_theta"],
        "full_rope_theta": both[FULL]["rope_theta"],
        "full_rotary_factor": both[FULL]["partial_rotary_factor"],
    }


def _read_generation(directory: Path, text: dict[str, Any]) -> GenerationDefaults:
    """The decoding values; what the file leaves out is what transformers' generate falls back to."""
    path = directory / "generation_config.json"
    given = _read_json(path) if path.is_file() else {}
    found = {ours: given[theirs] for ours, theirs in _GENERATION.items() if given.get(theirs) is not None}
    bound = _object(path, "sampler_config", given.get("sampler_config")).get("entropy_bound")
    if bound is not None:
        found["entropy_bound"] = bound
    for name, value in found.items():
        whole = name in ("max_denoising_steps", "stability_threshold")
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise ValueError(f"{path}: {name} is {value!r}, expected a {'whole ' if whole else ''}number")
    ids = {name: _first(given.get(name), text.get(name)) for name in ("eos_token_id", "pad_token_id", "bos_token_id")}
    eos = [] if ids["eos_token_id"] is None else ids["eos_token_id"]
    eos = eos if isinstance(eos, list) else [eos]
    for value in (*eos, ids["pad_token_id"], ids["bos_token_id"]):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise ValueError(f"{path}: token ids are {ids!r}, expected whole numbers")
    return GenerationDefaults(
        **found, eos_ids=tuple(eos), pad_id=_first(ids["pad_token_id"], 0), bos_id=ids["bos_token_id"]
    )


def _first(*values: Any) -> Any:
    return next((v for v in values if v is not None), None)
