"""stopping="replay": rows freeze when the schedule says, and in nothing else does a request differ."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine import api

PROMPT = torch.arange(20).view(2, 10)
REQUEST: dict[str, Any] = {
    "decoding": "block_diffusion", "output_tokens": 32, "block_length": 16, "num_steps": 6, "eos": "ignore",
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> api.Model:
    return api.load("tiny")


def generated(model: api.Model, **changes: Any) -> api.Generation:
    return api.generate(model, PROMPT, generator=torch.Generator().manual_seed(3), **{**REQUEST, **changes})


def test_rows_take_the_steps_of_the_schedule_and_passes_are_the_longest_rows(model: api.Model) -> None:
    steps_BC = torch.tensor([[2, 5], [4, 1]])
    out = generated(model, stopping="replay", replay_steps_BC=steps_BC)
    assert out.steps_per_canvas.tolist() == steps_BC.tolist()
    assert out.passes["denoise"] == 4 + 5


def test_num_steps_is_the_cap_of_the_schedule(model: api.Model) -> None:
    out = generated(model, stopping="replay", replay_steps_BC=torch.tensor([[99, 6], [7, 6]]))
    assert out.steps_per_canvas.tolist() == [[6, 6], [6, 6]]


def test_a_schedule_at_the_cap_gives_the_tokens_of_fixed_steps(model: api.Model) -> None:
    fixed = generated(model, stopping="fixed")
    replayed = generated(model, stopping="replay", replay_steps_BC=torch.full((2, 2), 6))
    assert torch.equal(fixed.output_ids, replayed.output_ids)


def test_a_frozen_row_keeps_its_tokens_while_the_others_go_on(model: api.Model) -> None:
    """The first canvas of row 0 after two steps is the same whether row 1 takes two steps or six."""
    outs = [
        generated(model, stopping="replay", output_tokens=16, replay_steps_BC=torch.tensor([[2], [other]]))
        for other in (2, 6)
    ]
    assert torch.equal(outs[0].output_ids[0], outs[1].output_ids[0])
    assert not torch.equal(outs[0].output_ids[1], outs[1].output_ids[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stopping": "replay"}, "replay_steps_BC is None, but stopping is 'replay'"),
        ({"stopping": "fixed", "replay_steps_BC": torch.ones(2, 2, dtype=torch.long)}, "is given, but stopping"),
        ({"stopping": "replay", "replay_steps_BC": torch.ones(2, 3, dtype=torch.long)}, r"shape \(2, 3\), expected"),
        ({"stopping": "replay", "replay_steps_BC": torch.ones(2, 2)}, "float32 of shape"),
        ({"stopping": "replay", "replay_steps_BC": [[1, 2], [3, 4]]}, "list of shape"),
        ({"stopping": "replay", "replay_steps_BC": torch.zeros(2, 2, dtype=torch.long)}, "contains 0, expected"),
        ({"stopping": "sometimes"}, "'adaptive' or 'fixed' or 'replay'"),
    ],
)
def test_a_schedule_that_does_not_fit_is_refused(model: api.Model, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generated(model, **changes)
