"""A directory that is damaged, or holds another model, is refused in one line that names file and tensor."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import GEMMA4_ONLY, SHAPE, Pair
from safetensors.torch import load_file, save_file

from engine import api

NORM = "model.decoder.norm.weight"


def _edit(tensors: dict[str, torch.Tensor], name: str, value: torch.Tensor | None) -> dict[str, torch.Tensor]:
    return {k: v for k, v in tensors.items() if k != name} | ({} if value is None else {name: value})


BROKEN_TENSORS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], str]] = {
    "missing": (lambda t: _edit(t, NORM, None), rf"model.safetensors: tensor {NORM} is missing"),
    "extra": (lambda t: _edit(t, "x.y", torch.ones(1)), r"model.safetensors: tensor x.y is unexpected"),
    "shape": (lambda t: _edit(t, NORM, torch.ones(31)), rf"tensor {NORM} has shape \(31,\), expected \(32,\)"),
    "nan": (lambda t: _edit(t, NORM, torch.full((32,), float("nan"))), rf"tensor {NORM} holds NaN or infinity"),
    "dtype": (lambda t: _edit(t, NORM, torch.ones(32, dtype=torch.int32)), rf"tensor {NORM} is torch.int32, expected"),
}


@pytest.mark.parametrize(("edit", "message"), BROKEN_TENSORS.values(), ids=BROKEN_TENSORS)
def test_a_wrong_tensor_is_named_with_its_file(
    pair: Pair, tmp_path: Path, edit: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], message: str
) -> None:
    shutil.copytree(pair.directory, tmp_path, dirs_exist_ok=True)
    save_file(edit(load_file(tmp_path / "model.safetensors")), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=message) as error:
        api.load(tmp_path)
    assert "\n" not in str(error.value)


def _truncate(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _pickle_only(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(b"never opened")


def _index(directory: Path, weight_map: dict[str, str]) -> None:
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


BROKEN_FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (_truncate, r"model.safetensors: broken or truncated safetensors file"),
    "pickle only": (_pickle_only, r"pytorch_model.bin is a pickle, which is never read"),
    "no weights": (
        lambda d: (d / "model.safetensors").unlink(),
        r"expected model.safetensors or model.safetensors.ind",
    ),
    "no config": (lambda d: (d / "config.json").unlink(), r"config.json: no such file"),
    "config is no JSON": (lambda d: (d / "config.json").write_text("{"), r"config.json: not readable as JSON"),
    "config is a list": (lambda d: (d / "config.json").write_text("[]"), r"config.json: the file holds list, expected"),
    "layer types are no list": (
        lambda d: (d / "config.json").write_text(
            (d / "config.json")
            .read_text()
            .replace('"layer_types": [', '"x": [')
            .replace('"text_config": {', '"text_config": {"layer_types": true, ')
        ),
        r"config.json: layer_types is True, expected a list of names",
    ),
    "bad tokenizer": (lambda d: (d / "tokenizer.json").write_text("{}"), r"tokenizer.json: not a tokenizer"),
    "shard missing": (lambda d: _index(d, {NORM: "a.safetensors"}), r"a.safetensors: no such file, but .* names it"),
    "shard elsewhere": (lambda d: _index(d, {NORM: "../a.safetensors"}), r"expected a file of the same directory"),
    "index without map": (
        lambda d: (_index(d, {}), (d / "model.safetensors.index.json").write_text("{}")),
        r"model.safetensors.index.json: not an index of tensors",
    ),
}


@pytest.mark.parametrize(("damage", "message"), BROKEN_FILES.values(), ids=BROKEN_FILES)
def test_a_broken_directory_is_refused_in_one_line(
    pair: Pair, tmp_path: Path, damage: Callable[[Path], Any], message: str
) -> None:
    shutil.copytree(pair.directory, tmp_path, dirs_exist_ok=True)
    damage(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        api.load(tmp_path)
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


UNSUPPORTED: dict[str, Any] = {
    "attention_bias": True,
    "hidden_activation": "silu",
    "use_bidirectional_attention": "all",
    "tie_word_embeddings": False,
    "num_kv_shared_layers": 2,
    "hidden_size_per_layer_input": 256,
    "attention_k_eq_v": False,
    "enable_moe_block": False,
    "use_double_wide_mlp": True,
    "final_logit_softcapping": None,
    "model_type": "llama",
    "num_experts": None,
    "sliding_window": 0,
    "rope_parameters": {"full_attention": {"rope_type": "yarn"}},
    "per_layer_config": {"1": {"head_dim": 16, "num_key_value_heads": 1}},
}


@pytest.mark.parametrize("field", UNSUPPORTED)
def test_a_feature_this_engine_does_not_compute_is_refused_by_name(tmp_path: Path, field: str) -> None:
    config = {"model_type": "gemma4_text", **SHAPE, **GEMMA4_ONLY, field: UNSUPPORTED[field]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"config.json: (.*: )?{field}") as error:
        api.load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("field", ["hidden_size_per_layer_input", "attention_k_eq_v", "enable_moe_block"])
def test_a_gemma4_config_that_leaves_a_decisive_feature_open_is_refused(tmp_path: Path, field: str) -> None:
    config = {"model_type": "gemma4_text", **SHAPE, **GEMMA4_ONLY}
    del config[field]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"config.json: {field} is None, which this engine does not compute"):
        api.load(tmp_path)


def test_a_directory_that_cannot_be_written_is_refused(tiny: api.Model, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file: cannot be written"):
        api.save(tiny, tmp_path / "file")
