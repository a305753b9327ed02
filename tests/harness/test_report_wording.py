"""How leads and intervals are told, and where labels are placed."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from pages import analysed
from synthetic import Scenario

from harness.report.svg import spread
from harness.report.wording import interval, is_clear, lead, price, ratio, steps_in_short


@pytest.mark.parametrize(
    ("speedup", "words"),
    [
        (2.31, "block diffusion is 2.3x faster"),
        (0.41, "autoregressive decoding is 2.4x faster"),
        (1.5, "block diffusion is 1.50x faster"),
        (1.04, "block diffusion is 4.0 % faster"),
        (1 / 1.04, "autoregressive decoding is 4.0 % faster"),
        (1.0, "both are equally fast"),
        (0.01, "autoregressive decoding is 100x faster"),
    ],
)
def test_a_lead_is_told_in_the_same_words_in_both_directions(speedup: float, words: str) -> None:
    assert lead(speedup) == words


def test_one_step_is_no_steps(tmp_path: Path) -> None:
    rows = analysed(tmp_path, Scenario(axes={"num_steps": [1, 8], "stopping": ["fixed", "adaptive"]})).rows
    said = {steps_in_short(row.cell) for row in rows if not row.is_autoregressive}
    assert said == {"1 step", "8 steps", "<=1 step", "<=8 steps"}


def test_a_price_says_where_it_is_from_or_that_nobody_says() -> None:
    assert price({"value": 2.0, "source": ""}) == "2.0 USD per hour (no source given), taken as used without a pause"
    assert price({"value": 2.0, "source": "a list", "recalled": True}).startswith("2.0 USD per hour (a list; recalled)")


def test_one_round_claims_no_interval(tmp_path: Path) -> None:
    scenario = Scenario(axes={"batch_size": [1], "block_length": [256], "num_steps": [8]}, rounds=1)
    summary = analysed(tmp_path, scenario).rows[1].metrics["speedup_vs_ar"]
    assert interval(summary, ratio) == "one round, so no interval"
    assert is_clear(summary)
    assert not is_clear(summary._replace(low=0.9, high=1.1))


def test_labels_keep_their_order_and_their_distance() -> None:
    placed = spread([0.5, 0.52, 0.1, 0.51, 0.9], 0.1)
    assert sorted(range(5), key=lambda i: placed[i]) == [2, 0, 3, 1, 4]
    ordered = sorted(placed)
    assert min(b - a for a, b in pairwise(ordered)) == pytest.approx(0.1)
    assert (placed[2], placed[4]) == (0.1, 0.9)


def test_labels_stay_inside_the_figure() -> None:
    placed = spread([0.97, 0.98, 0.99, 1.0, 0.01, 0.0], 0.1)
    assert placed == pytest.approx([0.7, 0.8, 0.9, 1.0, 0.1, 0.0])
