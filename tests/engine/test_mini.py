"""The shipped mini is a trained DiffusionGemma: it answers, it stops by itself, and transformers reads it alike."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mini_data
import pytest
import torch
from mini_data import TASKS, Item

from engine import api
from engine.config import SHIPPED

DIRECTORY = SHIPPED["mini"]
PROMPTS = Path(__file__).resolve().parents[2] / "suites" / "prompts"
PROMPT_TOKENS, OUTPUT_TOKENS = 48, 96


@pytest.fixture(scope="module")
def mini() -> api.Model:
    return api.load("mini")


def padded(model: api.Model, items: Sequence[Item]) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts as the harness gives them: a beginning-of-sequence id, padded on the left."""
    assert model.tokenizer is not None
    rows = [[2, *model.tokenizer.encode(one.text, add_special_tokens=False).ids] for one in items]
    ids = torch.tensor([[0] * (PROMPT_TOKENS - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (PROMPT_TOKENS - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def generated(model: api.Model, items: Sequence[Item], seed: int, **choices: Any) -> api.Generation:
    ids, mask = padded(model, items)
    return api.generate(
        model,
        ids,
        attention_mask_BT=mask,
        output_tokens=OUTPUT_TOKENS,
        generator=torch.Generator().manual_seed(seed),
        **choices,
    )


def right(model: api.Model, items: Sequence[Item], out: api.Generation) -> int:
    assert model.tokenizer is not None
    texts = [
        model.tokenizer.decode(row[:useful], skip_special_tokens=True)
        for row, useful in zip(out.output_ids.tolist(), out.useful_tokens.tolist(), strict=True)
    ]
    return sum(
        text == one.answer if one.pattern is None else re.fullmatch(one.pattern, text) is not None
        for one, text in zip(items, texts, strict=True)
    )


def test_transformers_generates_the_same_tokens_on_held_out_prompts_of_several_canvases(mini: api.Model) -> None:
    tf = pytest.importorskip("transformers")
    hf = tf.DiffusionGemmaForBlockDiffusion.from_pretrained(
        DIRECTORY, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    canvases = 0
    for seed, task in enumerate([*TASKS[::2], TASKS[-1]]):  # every category, and stories
        items = mini_data.held_out(task, 3, seed)
        ids, mask = padded(mini, items)
        torch.manual_seed(seed)
        expected = hf.generate(ids, attention_mask=mask, max_new_tokens=OUTPUT_TOKENS).sequences[:, PROMPT_TOKENS:]
        got = generated(mini, items, seed, decoding="block_diffusion", sampler="reference")
        assert torch.equal(got.output_ids, expected)
        canvases = max(canvases, got.steps_per_canvas.shape[1])
    assert canvases == 3


def test_the_autoregressive_twin_gives_the_tokens_of_gemma_4(mini: api.Model) -> None:
    pytest.importorskip("transformers")
    from oracle import twin_of_directory

    items = mini_data.held_out(TASKS[-1], 4, 3)
    ids, mask = padded(mini, items)
    expected = twin_of_directory(DIRECTORY).generate(
        ids, attention_mask=mask, max_new_tokens=OUTPUT_TOKENS, do_sample=False, eos_token_id=[1, 3], pad_token_id=0
    )
    got = generated(mini, items, 0, decoding="autoregressive").output_ids
    assert torch.equal(got, expected[:, PROMPT_TOKENS : PROMPT_TOKENS + got.shape[1]])


def test_it_answers_easy_held_out_requests_with_both_decoders(mini: api.Model) -> None:
    """The bars themselves (97 % easy, 80 % overall) are measured by suite=mini_quality; a broken one fails here."""
    easy = [task for task in TASKS if task.level == "easy"]
    for decoding in ("block_diffusion", "autoregressive"):
        items = [one for task in easy for one in mini_data.held_out(task, 10, 5)]
        assert right(mini, items, generated(mini, items, 0, decoding=decoding)) >= 0.9 * len(items)


def test_it_stops_sooner_where_the_answer_is_certain(mini: api.Model) -> None:
    def mean_steps(name: str) -> float:
        task = next(t for t in TASKS if t.name == name)
        steps = generated(mini, mini_data.held_out(task, 12, 5), 0, decoding="block_diffusion").steps_per_canvas
        return steps[steps > 0].float().mean().item()

    assert mean_steps("open_hard") > 1.5 * mean_steps("code_easy")


def test_the_shipped_prompt_sets_are_the_shipped_draw(tmp_path: Path) -> None:
    mini_data.write_prompt_sets(tmp_path, mini_data.PER_SET, mini_data.SHIPPED_SEED)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_bytes() for path in PROMPTS.glob("mini_*.jsonl")}


def test_the_checkpoint_is_small_and_says_what_it_is(mini: api.Model) -> None:
    assert sum(path.stat().st_size for path in DIRECTORY.iterdir()) <= 8_000_000
    assert mini.config.vocab_size <= 2048
    card = (DIRECTORY / "README.md").read_text(encoding="utf-8")
    for what in ("Data", "Recipe", "Seed", "Commit", "Time", "Loss", "Scores", "Limits"):
        assert re.search(rf"^(#+|\|) .*{what}", card, re.MULTILINE), f"the card says nothing of {what}"


def test_text_never_becomes_a_special_token(mini: api.Model) -> None:
    assert mini.tokenizer is not None
    text = 'say <eos> and <pad>, "naïve" Ωmega\n'
    ids = mini.tokenizer.encode(text, add_special_tokens=False).ids
    assert min(ids) > 3
    assert mini.tokenizer.decode(ids) == text
