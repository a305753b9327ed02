"""Weights: from safetensors in Hugging Face layout, to it, and random ones for presets.

A model is laid out without memory first, then allocated once on its device in its dtype, then filled tensor by tensor,
so that there is never a second copy: 50.5 GB of bfloat16 fit a card of 80 GB. Only safetensors are read, never pickles.

Names are the checkpoint's own. DiffusionGemma saves `model.decoder.*`, and of its encoder, which shares all else, only
`model.encoder.language_model.layers.N.layer_scalar`; Gemma 4 saves `model.*` or `model.language_model.*`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from engine import float8
from engine.config import ModelConfig, read_config, write_config
from engine.model import Model

_DECODER = "model.decoder."
_ENCODER = "model.encoder.language_model."
_OTHER_MODALITIES = (
    "model.encoder.vision_tower.", "model.encoder.embed_vision.",  # DiffusionGemma
    "model.vision_tower.", "model.embed_vision.", "model.audio_tower.", "model.embed_audio.",  # Gemma 4
)  # fmt: skip
_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


def skeleton(config: ModelConfig, dtype: torch.dtype = torch.float32, *, is_float8: bool = False) -> Model:
    """The model on the meta device: names, shapes and dtype, no memory. is_float8: see engine/float8.py."""
    with torch.device("meta"):
        model = Model(config)
        model.to(dtype).requires_grad_(False).eval()
        return float8.shrink(model) if is_float8 else model


def saved_names(model: Model, text_prefix: str = "model.") -> dict[str, torch.Tensor]:
    """Parameters by the names that Hugging Face saves them under. text_prefix: where Gemma 4 keeps its text part."""
    named: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        if model.config.canvas_length is None:
            name = text_prefix + name.replace("encoder_scalar", "layer_scalar")
        elif name.endswith("encoder_scalar"):
            name = _ENCODER + name.replace("encoder_scalar", "layer_scalar")
        else:
            name = _DECODER + name.replace("decoder_scalar", "layer_scalar")
        named[name] = parameter
    return named


def random_model(
    config: ModelConfig, device: torch.device, dtype: torch.dtype, seed: int, *, is_float8: bool = False
) -> Model:
    """Seeded random weights, drawn in place. The numbers depend on the kind of device and on the dtype.

    Scales keep activations near 1 in every layer and give scores that are neither flat nor one-hot: projections
    1/sqrt(fan-in); the router 1, because its input has length 1; query norms head_dim^-1/2, because attention scores
    are not divided by anything; other norms and scalars near 1.
    """
    model = skeleton(config, dtype, is_float8=is_float8).to_empty(device=device)
    scales = float8.scales_of(model)
    generator = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for name, target in model.named_parameters():
            p = torch.empty_like(target, dtype=dtype) if target in scales else target
            if p.dim() > 1:
                std = 1.0 if name.endswith("router.proj.weight") else p.shape[-1] ** -0.5
                p.normal_(0.0, std, generator=generator)
            else:
                centre = p.shape[0] ** -0.5 if name.endswith("q_norm.weight") else 1.0
                p.normal_(centre, 0.05 * centre, generator=generator)
            if target in scales:
                float8.put(target, scales[target], p)
    return model


def read(directory: Path, device: torch.device, dtype: torch.dtype, *, is_float8: bool = False) -> Model:
    """The model in a directory, converted to `dtype`.

    Raises:
        ValueError: files or tensors that are missing, unexpected, of a wrong shape, broken, or not finite.
    """
    model = skeleton(read_config(directory), dtype, is_float8=is_float8)
    files = _tensor_files(directory)
    names = {name: path for path, inside in files.items() for name in inside}
    prefix = "model.language_model." if any(n.startswith("model.language_model.") for n in names) else "model."
    expected = saved_names(model, prefix)
    where = directory / (_SINGLE if directory / _SINGLE in files else _INDEX)
    missing = sorted(set(expected) - set(names))
    if missing:
        raise ValueError(f"{where}: tensor {missing[0]} is missing{_and_more(missing)}")
    embedding = next(name for name in expected if name.endswith("embed_tokens.weight"))
    duplicates = {n: _shared_with(n, embedding) for n in names if n not in expected}
    extra = sorted(n for n, of in duplicates.items() if of not in expected and not n.startswith(_OTHER_MODALITIES))
    if extra:
        raise ValueError(f"{names[extra[0]]}: tensor {extra[0]} is unexpected in this architecture{_and_more(extra)}")
    model.to_empty(device=device)
    targets, scales = saved_names(model, prefix), float8.scales_of(model)
    for path, inside in files.items():
        for name, tensor in _tensors(path, [n for n in inside if n in targets]):
            _fill(path, name, targets[name], scales.get(targets[name]), tensor)
    for path, inside in files.items():  # tied tensors that a file spells out twice must be the same twice
        for name, tensor in _tensors(path, [n for n in inside if duplicates.get(n) in targets]):
            original = targets[duplicates[name]]
            if not float8.is_same(original, scales.get(original), tensor):
                raise ValueError(f"{path}: tensor {name} differs from {duplicates[name]}, expected them to be tied")
    return model


def write(model: Model, directory: Path, max_shard_bytes: int) -> None:
    """Config, tokenizer and safetensors, in shards of at most so many bytes (a single tensor may be larger)."""
    if model.float8:
        raise ValueError("the model has float8 weights, which Hugging Face's layout has no names for; save a wider one")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for old in (*directory.glob("model*.safetensors"), directory / _INDEX, directory / "tokenizer.json"):
            old.unlink(missing_ok=True)
        write_config(model.config, str(model.dtype).removeprefix("torch."), directory)
        if model.tokenizer is not None:
            model.tokenizer.save(str(directory / "tokenizer.json"))
        _write_tensors(saved_names(model), directory, max_shard_bytes)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{directory}: cannot be written ({error})") from error


def _write_tensors(named: dict[str, torch.Tensor], directory: Path, max_shard_bytes: int) -> None:
    shards: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for name, tensor in sorted(named.items()):
        if shards[-1] and size + tensor.nbytes > max_shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    weight_map: dict[str, str] = {}
    for i, shard in enumerate(shards, start=1):
        file = _SINGLE if len(shards) == 1 else f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(t.nbytes for t in named.values())}, "weight_map": weight_map}
        (directory / _INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _tensor_files(directory: Path) -> dict[Path, list[str]]:
    """Each safetensors file of the directory and the tensors to take from it."""
    if (directory / _SINGLE).is_file():
        return {directory / _SINGLE: _keys(directory / _SINGLE)}
    index = directory / _INDEX
    if not index.is_file():
        pickles = sorted(p.name for p in (*directory.glob("*.bin"), *directory.glob("*.pt"), *directory.glob("*.pth")))
        found = f"; {pickles[0]} is a pickle, which is never read: convert it to safetensors" if pickles else ""
        raise ValueError(f"{directory}: expected {_SINGLE} or {_INDEX}{found}")
    try:
        weight_map: dict[str, str] = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{index}: not an index of tensors ({error!r})") from error
    files: dict[Path, list[str]] = {}
    for name, file in weight_map.items():
        if Path(file).name != file:
            raise ValueError(f"{index}: tensor {name} is in {file!r}, expected a file of the same directory")
        files.setdefault(directory / file, []).append(name)
    for path, inside in files.items():
        absent = sorted(set(inside) - set(_keys(path)))
        if absent:
            raise ValueError(f"{path}: tensor {absent[0]} is missing, but {_INDEX} says that it is here")
    return files


def _keys(path: Path) -> list[str]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file, but {_INDEX} names it")
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: broken or truncated safetensors file ({error})") from error


def _tensors(path: Path, names: list[str]) -> Iterator[tuple[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            for name in names:
                yield name, file.get_tensor(name)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: broken or truncated safetensors file ({error})") from error


def _fill(path: Path, name: str, target: torch.Tensor, scale: torch.Tensor | None, tensor: torch.Tensor) -> None:
    if tensor.shape != target.shape:
        raise ValueError(f"{path}: tensor {name} has shape {tuple(tensor.shape)}, expected {tuple(target.shape)}")
    if not tensor.dtype.is_floating_point:
        raise ValueError(f"{path}: tensor {name} is {tensor.dtype}, expected floating point")
    if scale is not None and not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{path}: tensor {name} holds NaN or infinity, expected finite numbers")
    float8.put(target, scale, tensor)
    if scale is None and not bool(torch.isfinite(target).all()):
        raise ValueError(f"{path}: tensor {name} holds NaN or infinity, expected finite numbers")


def _shared_with(name: str, embedding: str) -> str:
    """The saved tensor that this one is tied to, if it is a tied one."""
    return embedding if name == "lm_head.weight" else name.replace(_ENCODER, _DECODER)


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
