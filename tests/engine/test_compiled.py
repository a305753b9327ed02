"""Compiled denoising steps: the logits and tokens of transformers, and no graph break."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from oracle import Pair, Setting, handed_on, hf_diffusion, make_pair, random_ids

from engine import api
from engine.choices import Choices, resolve
from engine.config import FULL, SLIDING

FAST = resolve(torch.device("cpu"), torch.float32)
BOUND = 1e-5  # of logits, whose standard deviation is about 1


@pytest.fixture(scope="module")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A layer of each kind: a compiler takes seconds for each."""
    hf = hf_diffusion(num_hidden_layers=2, layer_types=[SLIDING, FULL])
    return make_pair(tmp_path_factory.mktemp("shallow"), hf)


@pytest.fixture(scope="module")
def compiled_calls() -> Iterator[list[bool]]:
    """Grows with each call of a compiled function: whether a graph break would have raised."""
    calls: list[bool] = []
    compile_ = torch.compile

    def watched(function: Any, *, fullgraph: bool = False) -> Any:
        compiled = compile_(function, fullgraph=fullgraph)

        def counted(*inputs: Any) -> Any:
            calls.append(fullgraph)
            return compiled(*inputs)

        return counted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", watched)
        yield calls


# With and without padding in the sliding window, and before it is full; each on both sides of a commit. More of the
# same would be compiled again, for 5 to 10 seconds.
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on a CPU needs g++")
@pytest.mark.parametrize(("context", "pads"), [(20, (0, 1, 19)), (20, ()), (5, ())])
def test_compiled_steps_have_the_logits_and_tokens_of_transformers(
    shallow: Pair, compiled_calls: list[bool], monkeypatch: pytest.MonkeyPatch, context: int, pads: tuple[int, ...]
) -> None:
    monkeypatch.setattr(shallow.ours, "choices", replace(FAST, compile="on"))
    compiled_calls.clear()
    setting = Setting(batch=len(pads) or 1, context=context, output=12, steps=4, pads=pads)
    both = handed_on(shallow, setting, monkeypatch, "fast")
    assert max(both.off) <= BOUND
    assert sum(both.exceptions) <= 1
    assert torch.equal(both.ours.output_ids, both.theirs_BT)
    assert both.ours.passes == {"prefill": 1, "denoise": 8, "commit": 1, "decode": 0}
    # Each canvas's first step runs as it is, and so does the first conditioned one of all: it lays out the weights.
    assert compiled_calls in ([True] * 6, [True] * 5)


def graphs_and_breaks(model: api.Model, choices: Choices) -> tuple[int, int]:
    """Of a conditioned step after the first two, as torch.compile would see it."""
    model.choices = choices
    vocab = model.config.vocab_size
    cache, canvas_BL = api.encode(model, random_ids(2, 9)), random_ids(2, 6, 1)
    probs_BLV = torch.randn(2, 6, vocab, generator=torch.Generator().manual_seed(2)).softmax(dim=-1)
    with torch.no_grad():
        for believed in (None, probs_BLV):
            model.denoise(canvas_BL, cache, None, believed)
        torch.compiler.reset()
        found = torch._dynamo.explain(model.denoise)(canvas_BL, cache, None, probs_BLV)
    return found.graph_count, found.graph_break_count


def test_a_step_is_one_graph(shallow: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shallow.ours, "choices", FAST)
    assert graphs_and_breaks(shallow.ours, FAST) == (1, 0)


def test_a_step_that_reads_the_device_is_found_to_break_its_graph(
    shallow: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shallow.ours, "choices", FAST)
    graphs, breaks = graphs_and_breaks(shallow.ours, replace(FAST, experts="loop"))
    assert graphs > 1 and breaks > 0
