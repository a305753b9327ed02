"""The mini's training repeats exactly, goes on exactly after an interruption, and leaves a model that loads."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mini_losses import CONFIG, Batch, Loads, Recipe, TrainingCache, make_batch, train_tokenizer
from train_mini import Training, train

from engine import api, weights
from engine.config import read_config

SMALL = Recipe(steps=3, polish_steps=3, batch=8, warmup_steps=2)
TOOL = Path(__file__).resolve().parents[2] / "tools" / "train_mini.py"


def trained(directory: Path, *stops: int) -> Training:
    """Trained to each of the steps in turn, by a new process's worth of state each time."""
    for stop in stops:
        training = Training(SMALL, directory)
        train(training, stop)
    return training


def test_two_trainings_from_one_seed_have_the_same_losses_and_weights(tmp_path: Path) -> None:
    first, second = trained(tmp_path / "a", 4), trained(tmp_path / "b", 4)
    assert first.history == second.history
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole, parts = trained(tmp_path / "whole", 5), trained(tmp_path / "parts", 2, 3, 5)
    assert whole.history == parts.history
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_training_with_another_recipe_is_not_continued(tmp_path: Path) -> None:
    trained(tmp_path, 1)
    with pytest.raises(SystemExit, match="another recipe"):
        Training(replace(SMALL, seed=1), tmp_path)


def test_the_export_is_a_directory_that_the_engine_loads(tmp_path: Path) -> None:
    directory = trained(tmp_path, 2).export()
    model = api.load(directory)
    assert model.tokenizer is not None
    ids = torch.tensor([[2, *model.tokenizer.encode("What is 1+1?").ids]])
    assert api.generate(model, ids, decoding="block_diffusion", output_tokens=32, num_steps=2).output_ids.shape == (
        1,
        32,
    )
    about = json.loads((directory / "training.json").read_text(encoding="utf-8"))
    assert about["curves"].keys() == {"denoise", "causal", "balance"}
    assert about["parameters"] == sum(p.numel() for p in model.parameters())
    assert read_config(directory).canvas_length == 32


def test_the_command_stops_where_it_is_told_and_goes_on_from_there(tmp_path: Path) -> None:
    words = [sys.executable, str(TOOL), "--out", str(tmp_path), "--batch", "8", "--steps", "6", "--polish-steps", "0"]
    for until in ("1", "2"):
        done = subprocess.run([*words, "--until", until], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["step"] == int(until)


def test_the_cache_of_training_gives_the_logits_of_the_engines_own(tmp_path: Path) -> None:
    """A prefix longer than the sliding window, padded; one causal pass cut back against encode."""
    training = Training(SMALL, tmp_path)
    config, model = training.model.config, training.model
    generator = torch.Generator().manual_seed(0)
    prefix, canvas = (torch.randint(4, config.vocab_size, (2, n), generator=generator) for n in (70, 32))
    real = torch.ones_like(prefix, dtype=torch.bool)
    real[0, :9] = False
    cache = TrainingCache(config)
    with torch.no_grad():
        ids, mask = torch.cat([prefix, canvas], 1), torch.cat([real, torch.ones_like(canvas, dtype=torch.bool)], 1)
        model.causal_logits(ids, cache, mask)
        cache.cut(prefix.shape[1])
        ours = model.denoise(canvas, cache)
    expected = api.denoise_logits(model, canvas, api.encode(model, prefix, attention_mask_BT=real))
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_an_even_load_of_the_experts_costs_one() -> None:
    model = weights.random_model(CONFIG, torch.device("cpu"), torch.float32, 0)
    loads = Loads(model)
    E = model.config.num_experts
    scores = torch.stack([torch.roll(torch.linspace(3, 0, E), i) for i in range(E)])  # every expert is first once
    loads.scores_NE.append(scores)
    assert loads.take().item() == pytest.approx(1.0)
    loads.scores_NE.append(scores[:1].repeat(E, 1))
    assert loads.take().item() > 1.5


def test_a_later_canvas_follows_the_answer_so_far() -> None:
    tokenizer = train_tokenizer(0)
    recipe = replace(SMALL, later_canvas_share=1.0)
    batch: Batch = make_batch(tokenizer, recipe, 0)
    assert batch.prefix_BT.shape[0] == recipe.batch // 2
    for prefix, real, canvas in zip(batch.prefix_BT, batch.real_BT, batch.canvas_BL, strict=True):
        text = tokenizer.decode([*prefix[real].tolist(), *canvas.tolist()])
        assert re.search(r"One \w+ \w+ ([A-Z]\w+) met a \w+ (\w+) at the \w+\. The \2 was", text)
