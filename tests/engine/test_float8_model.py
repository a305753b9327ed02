"""Models with float8 weights: what is stored, the same numbers by every path, and the gate at load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from oracle import random_ids

from engine import api, float8, weights
from engine.choices import PLAIN, resolve
from engine.config import PRESETS
from engine.kernels import fp8

FLOAT8 = "float8_e4m3"
CPU = torch.device("cpu")


def logits(model: api.Model) -> torch.Tensor:
    vocab = model.config.vocab_size
    cache = api.encode(model, random_ids(2, 9, 0, vocab))
    return api.denoise_logits(model, random_ids(2, 6, 1, vocab), cache)


def widened(model: api.Model) -> api.Model:
    """The same model with its float8 weights written out in float32: the independent form of every product."""
    wide = weights.skeleton(model.config).to_empty(device=CPU)
    scales = float8.scales_of(model)
    stored = dict(model.named_parameters())
    for name, target in wide.named_parameters():
        small = stored[name]
        target.copy_(fp8.dequantised(small, scales[small]) if small in scales else small)
    return wide


@pytest.mark.parametrize("projections", ["separate", "merged"])
def test_logits_are_those_of_the_stored_weights_written_out_in_float32(projections: str) -> None:
    model = api.load("tiny", weights=FLOAT8, options={"projections": projections, "norms": "separate"})
    wide = widened(model)
    torch.testing.assert_close(logits(model), logits(wide), atol=2e-5, rtol=0)


def test_the_kernels_give_the_logits_of_the_plain_path() -> None:
    pytest.importorskip("triton", reason="Triton has no build for this platform")
    shape = replace(PRESETS["tiny"], num_layers=2, layer_types=PRESETS["tiny"].layer_types[-2:], vocab_size=96)
    model = weights.random_model(shape, CPU, torch.float32, 0, is_float8=True)
    model.choices = PLAIN
    plain = logits(model)
    model.choices = replace(PLAIN, linear="kernel", experts="kernel", attention="kernel")
    torch.testing.assert_close(logits(model), plain, atol=2e-5, rtol=0)


def test_projections_and_experts_take_one_byte_a_weight_and_the_rest_stays_wide() -> None:
    model = api.load("tiny", weights=FLOAT8)
    small = {name for name, p in model.named_parameters() if p.dtype == torch.float8_e4m3fn}
    assert {name for name, p in model.named_parameters() if p.dtype == torch.float32} == {
        name for name, p in model.named_parameters() if p.dim() == 1 or "embed" in name or "router" in name
    }
    assert small == {name for name, p in model.named_parameters()} - {
        name for name, p in model.named_parameters() if p.dtype == torch.float32
    }
    assert model.dtype == torch.float32


def test_random_weights_are_those_of_the_wide_model_quantised() -> None:
    small, wide = api.load("tiny", weights=FLOAT8, seed=3), api.load("tiny", seed=3)
    stored, scales = dict(small.named_parameters()), float8.scales_of(small)
    for name, p in wide.named_parameters():
        if stored[name] in scales:
            kept, scale = fp8.quantised(p)
            assert torch.equal(kept.float(), stored[name].float()) and torch.equal(scale, scales[stored[name]]), name
        else:
            assert torch.equal(p, stored[name]), name


def test_a_trained_model_is_compared_at_load_and_the_record_has_the_error() -> None:
    model = api.load("mini", dtype="bfloat16", weights=FLOAT8)
    share, words = model.float8.split("%")
    assert words == " off in logits, accepted"
    assert 1 < float(share) < 100 * fp8.BOUNDS[torch.float8_e4m3fn]


def test_a_trained_model_that_float8_changes_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fp8.BOUNDS, torch.float8_e4m3fn, 0.001)
    with pytest.raises(ValueError, match="Keep this model's weights in a wider type"):
        api.load("mini", weights=FLOAT8)
    assert "not gated" in api.load("tiny", weights=FLOAT8).float8


def test_float8_weights_are_not_saved_and_unknown_ones_and_parts_without_them_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has float8 weights"):
        api.save(api.load("tiny", weights=FLOAT8), tmp_path)
    with pytest.raises(ValueError, match="weights is 'int4', expected 'float8_e4m3'"):
        api.load("tiny", weights="int4")
    for option in ({"linear": "packed"}, {"experts": "tailored"}):
        with pytest.raises(ValueError, match="which has no float8 form"):
            api.load("tiny", weights=FLOAT8, options=option)


def test_a_gpu_gets_kernels_for_float8_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="Triton has no build for this platform")
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    chosen = resolve(torch.device("cuda"), torch.bfloat16, is_float8=True)
    assert (chosen.linear, chosen.experts, chosen.graphs) == ("kernel", "kernel", "off")


def test_a_file_that_spells_a_tied_weight_out_differently_is_still_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    api.save(api.load("tiny"), tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    name = "layers.0.mlp.gate_proj.weight"
    original = tensors[f"model.decoder.{name}"]
    for factor, is_fine in ((1.0, True), (1.5, False)):
        copy = original.clone()
        copy[0, 0] *= factor
        save_file({**tensors, f"model.encoder.language_model.{name}": copy}, file)
        if is_fine:
            weights.read(tmp_path, CPU, torch.float32, is_float8=True)
        else:
            with pytest.raises(ValueError, match="expected them to be tied"):
                weights.read(tmp_path, CPU, torch.float32, is_float8=True)
