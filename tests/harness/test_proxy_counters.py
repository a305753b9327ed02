"""What the reference backend counts for answers without checkers, against one plain pass per row."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from engine import api
from engine.observe import MOST_ROWS
from harness.measuring.backends import reference
from harness.records.types import Cell
from harness.spec.config import DeviceConfig, ModelSource
from harness.spec.plan import build
from harness.spec.suite import compose

TEXTS = ("Count to ten.", "a", "Why is the sky blue? Explain it to a child of six years.")


def cell_of(decoding: str = "block_diffusion", eos: str = "ignore", prompt_tokens: int = 24) -> Cell:
    words = (
        "axes.batch_size=[3]", "axes.block_length=[16]", "axes.num_steps=[3]", f"axes.prompt_tokens=[{prompt_tokens}]",
        "axes.output_tokens=[20]", f"eos={eos}",
    )  # fmt: skip
    cells = [planned.cell for planned in build(compose(list(words), backends=["reference"])).cells]
    return next(cell for cell in cells if cell.decoding == decoding)


@pytest.fixture(scope="module")
def backend() -> reference.ReferenceBackend:
    made = reference.ReferenceBackend()
    cell = cell_of()
    made.load(ModelSource(preset="tiny"), None, DeviceConfig(kind="cpu"), cell, 0)  # type: ignore[arg-type]
    return made


def counted(backend: reference.ReferenceBackend, cell: Cell) -> dict[str, Any]:
    return backend.count(cell, backend.prepare(cell, TEXTS, 5))


def plain_nll(backend: reference.ReferenceBackend, text: str, output_ids: list[int], prompt_tokens: int) -> float:
    """One row without padding, in one pass without a cache."""
    model = backend._model
    prompt = [model.config.generation.bos_id, *model.tokenizer.encode(text).ids][:prompt_tokens]
    logits_V = api.causal_logits(model, torch.tensor([[*prompt, *output_ids]]))[0]
    log_probs = [
        torch.log_softmax(logits_V[len(prompt) + i - 1].double(), dim=-1)[token] for i, token in enumerate(output_ids)
    ]
    return -float(sum(log_probs)) / len(output_ids)


@pytest.mark.parametrize("decoding", ["block_diffusion", "autoregressive"])
@pytest.mark.parametrize("prompt_tokens", [24, 1])
def test_the_proxy_is_the_mean_likelihood_of_each_row_by_itself(
    backend: reference.ReferenceBackend, decoding: str, prompt_tokens: int
) -> None:
    found = counted(backend, cell_of(decoding, prompt_tokens=prompt_tokens))
    for text, ids, nll_nats in zip(TEXTS, found["output_ids"], found["nll_nats"], strict=True):
        assert len(ids) == 20
        assert nll_nats == pytest.approx(plain_nll(backend, text, ids, prompt_tokens), rel=1e-4)


def test_scoring_piece_by_piece_gives_the_same(
    backend: reference.ReferenceBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = counted(backend, cell_of())["nll_nats"]
    monkeypatch.setattr(reference, "_MOST_LOGITS", 3 * backend._model.config.vocab_size * 7)
    assert counted(backend, cell_of())["nll_nats"] == pytest.approx(whole, rel=1e-5)


def test_greedy_decoding_is_likelier_than_a_canvas_of_random_weights(backend: reference.ReferenceBackend) -> None:
    greedy, canvas = (counted(backend, cell_of(d))["nll_nats"] for d in ("autoregressive", "block_diffusion"))
    assert sum(greedy) < sum(canvas)


def test_tokens_behind_an_end_of_sequence_do_not_count(
    backend: reference.ReferenceBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = cell_of(eos="respect")
    free = counted(backend, cell_of())["output_ids"]
    end = next(i for i in free[0][2:16] if i not in free[0][:2])  # some token that row 0 says, but not at once
    config = backend._model.config
    ending = dataclasses.replace(config, generation=dataclasses.replace(config.generation, eos_ids=(end,)))
    monkeypatch.setattr(backend._model, "config", ending)
    found = counted(backend, cell)
    monkeypatch.undo()
    assert found["output_ids"][0] == free[0][: free[0].index(end) + 1]
    for text, ids, nll_nats in zip(TEXTS, found["output_ids"], found["nll_nats"], strict=True):
        assert nll_nats == pytest.approx(plain_nll(backend, text, ids, 24), rel=1e-4)


def test_settled_steps_are_those_of_useful_positions_of_rows_that_took_part() -> None:
    out = api.Generation(
        output_ids=torch.zeros(2, 8), useful_tokens=torch.tensor([3, 6]), passes={}, row_passes={},
        steps_per_canvas=torch.tensor([[5, 0], [4, 2]]), step_s=[], block_s=[], ttfb_s=0.0, stop_reason="eos",
    )  # fmt: skip
    every = [[[1, 5, 2, 3], [4, 4, 1, 2]], [[9, 9, 9, 9], [2, 1, 1, 1]]]
    assert reference._settled(every, out, 4) == [[[1, 5, 2], [4, 4, 1, 2]], [[], [2, 1]]]


@pytest.mark.parametrize("decoding", ["block_diffusion", "autoregressive"])
def test_every_pass_is_split_into_parts_whose_sum_is_near_its_timed_steps(
    backend: reference.ReferenceBackend, decoding: str
) -> None:
    cell = cell_of(decoding)
    kind = "decode" if decoding == "autoregressive" else "denoise"
    answer = backend.generate(cell, backend.prepare(cell, TEXTS, 5))
    found = counted(backend, cell)
    assert found["phase_passes"] == {name: count for name, count in answer.passes.items() if count}
    assert {"experts", "attention", "lm_head", "sampler", "router", "dense_mlp", "other"} <= found["phase_s"][
        kind
    ].keys()
    ratio = sum(found["phase_s"][kind].values()) / sum(answer.step_s)
    assert 0.1 < ratio < 10  # two requests on a busy machine: only their order of magnitude is sure


def test_single_outputs_of_a_large_batch_are_not_all_kept(backend: reference.ReferenceBackend) -> None:
    cell = dataclasses.replace(cell_of(), batch_size=MOST_ROWS + 2)
    found = backend.count(cell, backend.prepare(cell, (TEXTS * 4)[: MOST_ROWS + 2], 5))
    assert len(found["output_ids"]) == len(found["settled_steps"][0]) == MOST_ROWS
    assert len(found["nll_nats"]) == MOST_ROWS + 2
