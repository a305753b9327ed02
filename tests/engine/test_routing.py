"""Drawn routing against its own law: enumeration, the published table, and the draws themselves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch

from engine import api, cost
from engine.config import PRESETS
from engine.cost.popularity import inclusion_of
from engine.observe import observe
from engine.routing import Routing, drawn

RELEASED = PRESETS["diffusiongemma_26b_a4b"]


def enumerated(weights: Sequence[float], k: int) -> list[float]:
    """Inclusion probabilities by walking every ordered draw without replacement."""
    found = [0.0] * len(weights)
    for order in itertools.permutations(range(len(weights)), k):
        probability, left = 1.0, sum(weights)
        for expert in order:
            probability *= weights[expert] / left
            left -= weights[expert]
        for expert in order:
            found[expert] += probability
    return found


@pytest.mark.parametrize(
    ("weights", "k"),
    [((0.5, 0.3, 0.1, 0.05, 0.05), 2), ((0.9, 0.05, 0.03, 0.02), 3), ((0.25,) * 4, 1), ((0.6, 0.2, 0.1, 0.1, 0.0), 2)],
)
def test_inclusion_is_that_of_drawing_without_replacement(weights: tuple[float, ...], k: int) -> None:
    assert inclusion_of(weights, k) == pytest.approx(enumerated(weights, k), abs=1e-9)


@pytest.mark.parametrize(
    ("exponent", "table"),
    [
        (0.0, {1: 8, 2: 15.5, 4: 29.1, 8: 51.6, 16: 82.4, 32: 111.8, 64: 125.9}),
        (0.5, {8: 48, 16: 76, 32: 104, 64: 122}),
        (1.0, {8: 38, 16: 58, 32: 82, 64: 106, 256: 127}),
    ],
)
def test_expected_distinct_experts_are_those_of_the_table(exponent: float, table: dict[int, float]) -> None:
    inclusion = cost.inclusion([cost.zipf_weights(128, exponent)], 8)
    for rows, distinct in table.items():
        digits = 0.06 if isinstance(distinct, float) or exponent == 0 else 0.5
        assert cost.distinct_experts(RELEASED, rows, inclusion) == pytest.approx(distinct, abs=digits)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("rows", [1, 8, 64])
def test_the_draws_hit_as_many_distinct_experts_as_expected(exponent: float, rows: int) -> None:
    weights = [cost.zipf_weights(128, exponent)]
    routing = Routing(weights, 30, 5, "cpu")
    chosen = torch.zeros(rows, 8, dtype=torch.long)
    hits = torch.tensor([float(routing.draw(i % 30, chosen).unique().numel()) for i in range(900)])
    expected = cost.distinct_experts(RELEASED, rows, cost.inclusion(weights, 8))
    assert hits.mean().item() == pytest.approx(expected, abs=5 * hits.std().item() / math.sqrt(len(hits)) + 1e-3)


def test_every_row_gets_different_experts_and_no_row_is_like_the_next() -> None:
    draws = Routing([cost.zipf_weights(16, 1.0)], 2, 0, "cpu").draw(0, torch.zeros(64, 4, dtype=torch.long))
    assert all(len(set(row)) == 4 for row in draws.tolist())
    assert len({tuple(row) for row in draws.tolist()}) > 32


def test_draws_repeat_with_their_seed_and_differ_by_seed_layer_and_pass() -> None:
    def two(seed: int, layer: int) -> list[list[list[int]]]:
        routing = Routing([cost.zipf_weights(32, 0.5)], 4, seed, "cpu")
        return [routing.draw(layer, torch.zeros(6, 2, dtype=torch.long)).tolist() for _ in range(2)]

    assert two(1, 0) == two(1, 0)
    first, second = two(1, 0)
    assert first != second
    assert two(2, 0)[0] != first
    assert two(1, 1)[0] != first


def test_replayed_weights_include_experts_as_often_as_measured() -> None:
    counts = [18744, 7521, 8342, 18581, 37951, 28556, 17812, 0]
    inclusion = inclusion_of(cost.replayed_weights(counts, 2), 2)
    assert inclusion == pytest.approx([2 * count / sum(counts) for count in counts], abs=2e-4)


@pytest.mark.parametrize("counts", [[1, 0, 0, 0], [9, 1, 1, 1], [-1, 2, 2, 2], [math.nan, 1, 1, 1]])
def test_counts_that_no_two_choices_give_are_refused(counts: list[float]) -> None:
    with pytest.raises(ValueError, match=r"expected frequencies|more than 1/2"):
        cost.replayed_weights(counts, 2)


@pytest.mark.parametrize("decoding", ["block_diffusion", "autoregressive"])
def test_a_request_reads_the_drawn_experts_and_the_next_one_its_own(decoding: str) -> None:
    """All weight on the first k experts: every layer of every pass reads these and no others."""
    model = api.load("tiny")
    config = model.config
    only = [[1.0] * config.top_k_experts + [0.0] * (config.num_experts - config.top_k_experts)]
    prompt = torch.arange(10).view(1, 10)

    def hits(routing: Routing | None) -> list[list[int]]:
        with drawn(model, routing), observe(model) as seen:
            api.generate(
                model, prompt, decoding=decoding, output_tokens=16, block_length=16, num_steps=2, stopping="fixed",
                eos="ignore", generator=torch.Generator().manual_seed(0),
            )  # fmt: skip
        return seen.expert_hits

    free = hits(None)
    fixed = hits(Routing(only, config.num_layers, 0, "cpu"))
    assert {count for layers in fixed for count in layers} == {config.top_k_experts}
    assert hits(None) == free
    uniform = Routing([cost.zipf_weights(config.num_experts, 0.0)], config.num_layers, 0, "cpu")
    assert hits(uniform) != fixed or decoding == "autoregressive"  # one row always hits k experts


def test_weights_of_another_number_of_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="weights are of 3 layers, expected 1 or 4"):
        Routing([[1.0, 1.0]] * 3, 4, 0, "cpu")
