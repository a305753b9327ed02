"""When positions of a canvas settle: against a plain search through every step's likeliest tokens."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import Pair, random_ids

from engine import api, sampling
from engine.observe import MOST_ROWS, Seen, observe

Steps = list[list[list[int]]]  # [step][row][position] likeliest token


def settled(steps: Steps) -> list[list[int]]:
    """[row][position]: the earliest step, counted from 1, from which on nothing differs from the last."""
    last = steps[-1]
    return [
        [
            next(n for n in range(1, len(steps) + 1) if all(step[b][i] == last[b][i] for step in steps[n - 1 :]))
            for i in range(len(last[b]))
        ]
        for b in range(len(last))
    ]


@given(st.lists(st.lists(st.lists(st.integers(0, 2), min_size=4, max_size=4), min_size=2, max_size=2), min_size=1))
def test_a_position_settles_at_the_first_step_from_which_it_never_changes(steps: Steps) -> None:
    seen = Seen()
    for canvas in (steps, steps[:1], steps[::-1]):
        for step, argmax in enumerate(canvas):
            seen.argmax(step, torch.tensor(argmax))
    assert seen.settled_steps == [settled(steps), settled(steps[:1]), settled(steps[::-1])]


def test_no_more_rows_are_kept_than_stated() -> None:
    seen = Seen()
    seen.argmax(0, torch.zeros(MOST_ROWS + 3, 2, dtype=torch.long))
    assert len(seen.settled_steps[0]) == MOST_ROWS


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """Every step's likeliest tokens, written down by a sampler of its own."""
    steps: Steps = []

    def spying(*arguments: Any) -> sampling.Denoised:
        decided = sampling.reference(*arguments)
        steps.append(decided.argmax_BL.tolist())
        return decided

    monkeypatch.setitem(sampling.SAMPLERS, "spy", spying)
    return steps


def test_every_canvas_of_a_request_is_observed(sharp: Pair, spy: Steps) -> None:
    with observe(sharp.ours) as seen:
        api.generate(
            sharp.ours, random_ids(2, 9), decoding="block_diffusion", output_tokens=12, num_steps=7, stopping="fixed",
            eos="ignore", sampler="spy", generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
    assert seen.settled_steps == [settled(spy[:7]), settled(spy[7:])]
    assert len({n for canvas in seen.settled_steps for row in canvas for n in row}) > 1


def test_a_row_that_has_stopped_settles_no_later_than_it_stopped(sharp: Pair) -> None:
    with observe(sharp.ours) as seen:
        out = api.generate(
            sharp.ours, random_ids(3, 9), decoding="block_diffusion", output_tokens=18, num_steps=20, eos="ignore",
            confidence=5.0, t_min=0.05, t_max=0.1, generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
    steps = out.steps_per_canvas.tolist()
    assert len({n for row in steps for n in row}) > 1
    assert all(max(seen.settled_steps[c][b]) <= steps[b][c] for b in range(3) for c in range(3))


def test_autoregressive_decoding_settles_nothing(pair: Pair) -> None:
    with observe(pair.ours) as seen:
        api.generate(pair.ours, random_ids(1, 9), decoding="autoregressive", output_tokens=4, eos="ignore")
    assert dataclasses.asdict(seen)["_settled_BL"] == seen.settled_steps == []
