"""Rows that are done leave the batch, and every row gives the tokens that it gives in a static batch. In float32."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from oracle import left_padding, random_ids

from engine import api
from engine.choices import PLAIN, Choices, resolve
from engine.observe import observe
from engine.routing import Routing, drawn

BATCH, PROMPT, VOCAB = 5, 70, 512  # the prompt is longer than the window of 64
STEPS_BC = torch.tensor([[2, 5, 1], [6, 1, 4], [4, 4, 2], [1, 6, 6], [6, 3, 3]])
REPLAYED: dict[str, Any] = {"stopping": "replay", "replay_steps_BC": STEPS_BC}
MANY_ENDS = list(range(1, 10))
SETTINGS: dict[str, dict[str, Any]] = {
    "rows stop at different steps": {**REPLAYED, "eos": "ignore"},
    "rows stop by themselves": {"stopping": "adaptive", "stability": 0, "confidence": 5.0, "eos": "ignore"},
    "rows end in different canvases": {"stopping": "fixed", "eos_ids": MANY_ENDS},
    "greedy rows end": {"decoding": "autoregressive", "eos_ids": list(range(1, 20))},
    "drawing rows end": {"decoding": "autoregressive", "eos_ids": list(range(1, 20)), "temperature": 0.8},
}
CHOICES = {
    "reference": replace(PLAIN, sampler="reference"),
    "plain": PLAIN,
    "fast": resolve(torch.device("cpu"), torch.float32),
}


def generated(model: api.Model, choices: Choices, compaction: str, **changes: Any) -> api.Generation:
    """Rows that are padded differently, with drawn experts."""
    model.choices = replace(choices, compaction=compaction)
    request: dict[str, Any] = {
        "decoding": "block_diffusion", "output_tokens": 48, "block_length": 16, "num_steps": 6,
        "attention_mask_BT": left_padding(PROMPT, [0, 30, 5, 69, 0]), "generator": torch.Generator().manual_seed(1),
    }  # fmt: skip
    routing = Routing([[1.0] * model.config.num_experts], model.config.num_layers, 3, "cpu")
    try:
        with drawn(model, routing):
            return api.generate(model, random_ids(BATCH, PROMPT, 0, VOCAB), **{**request, **changes})
    finally:
        model.choices = PLAIN


@pytest.mark.parametrize("choices", CHOICES.values(), ids=CHOICES)
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_every_row_has_the_tokens_and_steps_that_it_has_in_a_static_batch(
    tiny: api.Model, setting: dict[str, Any], choices: Choices
) -> None:
    static, compacted = (generated(tiny, choices, compaction, **setting) for compaction in ("off", "on"))
    assert torch.equal(compacted.output_ids, static.output_ids)
    assert torch.equal(compacted.useful_tokens, static.useful_tokens)
    assert torch.equal(compacted.steps_per_canvas, static.steps_per_canvas)
    assert (compacted.passes, compacted.stop_reason) == (static.passes, static.stop_reason)
    assert sum(compacted.row_passes.values()) < sum(static.row_passes.values())  # so that the setting tests something


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_a_pass_counts_once_for_each_row_that_it_ran_for(tiny: api.Model, setting: dict[str, Any]) -> None:
    static, compacted = (generated(tiny, CHOICES["fast"], compaction, **setting) for compaction in ("off", "on"))
    assert static.row_passes == {kind: BATCH * count for kind, count in static.passes.items()}
    ran = {**static.row_passes}
    if setting.get("decoding") == "autoregressive":
        ran["decode"] = int((compacted.useful_tokens - 1).sum())
    else:
        takes_part_BC = compacted.steps_per_canvas > 0
        ran |= {"denoise": int(compacted.steps_per_canvas.sum()), "commit": int(takes_part_BC[:, 1:].sum())}
    assert compacted.row_passes == ran


def test_a_row_that_ends_and_would_not_stop_holds_up_nobody_and_changes_what_is_drawn_behind_it(
    tiny: api.Model,
) -> None:
    """The one difference: a static batch goes on denoising for such a row, and so draws more."""
    ends = {"eos_ids": MANY_ENDS, "stopping": "fixed"}
    steps_BC = generated(tiny, CHOICES["fast"], "off", **ends).steps_per_canvas
    ended_B = steps_BC[:, 1] == 0
    assert 0 < int(ended_B.sum()) < BATCH
    steps_BC = torch.where(ended_B[:, None], torch.tensor([6, 6, 6]), torch.tensor([6, 3, 2]))
    setting = {"eos_ids": MANY_ENDS, "stopping": "replay", "replay_steps_BC": steps_BC}
    static, compacted = (generated(tiny, CHOICES["fast"], compaction, **setting) for compaction in ("off", "on"))
    assert torch.equal(compacted.output_ids[:, :32], static.output_ids[:, :32])
    assert not torch.equal(compacted.output_ids[:, 32:], static.output_ids[:, 32:])
    assert (static.passes["denoise"], compacted.passes["denoise"]) == (18, 11)


def test_counters_see_the_rows_that_ran(tiny: api.Model) -> None:
    with observe(tiny) as seen:
        out = generated(tiny, PLAIN, "on", **SETTINGS["rows stop at different steps"])
    assert sum(map(len, seen.entropies)) == out.row_passes["denoise"] == STEPS_BC.sum()
    assert [len(rows) for rows in seen.settled_steps] == [BATCH] * 3


def test_what_a_cache_keeps_of_the_rows_that_stay_is_a_copy(tiny: api.Model) -> None:
    cache = api.encode(tiny, random_ids(3, 9, 0, VOCAB))
    two, place_b = cache.without([False, True, False])
    one, place_again_b = two.without([True, True, False])
    assert two.rows is not None and one.rows is not None
    assert (two.rows.here, one.rows.here) == ((0, 2), (2,))
    assert place_b is not None and place_b.tolist() == [0, 2]
    assert place_again_b is not None and place_again_b.tolist() == [1]
    assert two.without([False, True, False]) == (two, None)
    ids_BT = random_ids(3, 4, 1, VOCAB)
    alone = api.causal_logits(tiny, ids_BT[2:], cache=one)
    torch.testing.assert_close(alone, api.causal_logits(tiny, ids_BT, cache=cache)[2:], atol=1e-5, rtol=0)


REFUSED = {
    "attention": ({"attention": "kernel"}, "buffers for the whole batch"),
    "sampler": ({"sampler": "kernel"}, "place among those that run"),
    "compile": ({"compile": "on"}, "every number of rows anew"),
}


@pytest.mark.parametrize(("others", "message"), REFUSED.values(), ids=REFUSED)
def test_parts_that_need_a_whole_batch_are_refused(
    monkeypatch: pytest.MonkeyPatch, others: dict[str, str], message: str
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("CXX", "g++")
    with pytest.raises(ValueError, match=message):
        resolve(torch.device("cpu"), torch.float32, {"compaction": "on", **others})
