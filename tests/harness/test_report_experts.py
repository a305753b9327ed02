"""Experts that passes read: the sentence, recomputed from the counters in the record lines."""

from __future__ import annotations

import random
import re
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from altered import alter, alter_plan, lines_of, share
from synthetic import Scenario, write_run

from harness.analysis.analyse import analyse
from harness.analysis.experts import expected_share, experts_read
from harness.analysis.run_data import load_run
from harness.report.figures.base import Figure, NotDrawn
from harness.report.figures.experts import experts
from harness.report.slices import slices_of

Json = dict[str, Any]
AXES = {"batch_size": [1, 4, 16], "block_length": [2, 8], "num_steps": [8], "stopping": ["fixed", "adaptive"]}
NUM_EXPERTS, TOP_K = 8, 2  # of the mini


def counted(line: Json) -> None:
    """Three denoise or decode passes of two layers; what other passes read is not to be counted."""
    dice = random.Random(line["cell_id"])
    kind = "denoise" if line["cell"]["block_length"] else "decode"
    tokens = line["cell"]["batch_size"] * (line["cell"]["block_length"] or 1)
    most = min(NUM_EXPERTS, TOP_K * tokens)
    line["counters"] = {
        "kinds": [kind, kind, "prefill", kind],
        "expert_hits": [[dice.randint(max(1, most - 3), most), most] for _ in range(4)],
    }


def shares_of(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """Decoding -> (tokens in flight, share of the experts), fewest of both first."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in lines_of(run_dir):
        cell, counters = line["cell"], line["counters"]
        own = [hits for kind, hits in zip(counters["kinds"], counters["expert_hits"], strict=True) if kind != "prefill"]
        tokens = cell["batch_size"] * (cell["block_length"] or 1)
        found.setdefault(cell["decoding"], []).append((tokens, mean(n for hits in own for n in hits) / NUM_EXPERTS))
    return {decoding: sorted(points) for decoding, points in found.items()}


def draw(run_dir: Path) -> Figure:
    (part,) = slices_of(analyse([load_run(run_dir)]), is_wide=True)
    return experts(part, "x")


def test_the_answer_gives_both_decoders_at_their_fewest_and_most_tokens(tmp_path: Path) -> None:
    run_dir = alter(write_run(tmp_path, Scenario(axes=AXES)), counted)
    answer, shares = draw(run_dir).answer, shares_of(run_dir)
    for name, decoding in (("block diffusion", "block_diffusion"), ("autoregressive decoding", "autoregressive")):
        (few, low), (many, high) = shares[decoding][0], shares[decoding][-1]
        said = (
            f"a pass of {name} reads {share(low)} with {few} token{'s' if few > 1 else ''} in flight (expected "
            f"{share(1 - (1 - 2 / 8) ** few)}) and {share(high)} with {many} tokens in flight (expected "
            f"{share(1 - (1 - 2 / 8) ** many)})"
        )
        assert said in answer, (said, answer)
    assert answer.startswith("A layer has 8 experts, of which a token takes 2: ")


def test_the_answer_says_from_how_many_tokens_on_nearly_all_are_read(tmp_path: Path) -> None:
    run_dir = alter(write_run(tmp_path, Scenario(axes=AXES)), counted)
    points = sorted(point for points in shares_of(run_dir).values() for point in points)
    last_short = max(tokens for tokens, value in points if value < 0.9)
    beyond = [tokens for tokens, _ in points if tokens > last_short]
    expected = f"from {beyond[0]} tokens on" if beyond else "at no measured number of tokens"
    assert draw(run_dir).answer.endswith(f"90 % of them are read {expected}.")


def test_the_mean_is_over_own_passes_and_the_spread_over_layers(tmp_path: Path) -> None:
    run = load_run(alter(write_run(tmp_path, Scenario(axes={"batch_size": [1], "block_length": [8]})), counted))
    for record in run.final.values():
        read = experts_read([record])
        own = [
            h for k, h in zip(record.counters["kinds"], record.counters["expert_hits"], strict=True) if k != "prefill"
        ]
        layers = [mean(hits[layer] for hits in own) for layer in (0, 1)]
        assert read is not None
        assert (read.fewest, read.most) == (min(layers), max(layers))
        assert read.mean == pytest.approx(mean(layers))


def test_the_expected_share_is_that_of_independent_draws() -> None:
    dice = random.Random(0)
    for tokens in (1, 5, 20):
        drawn = [len({e for _ in range(tokens) for e in dice.sample(range(16), 3)}) / 16 for _ in range(4000)]
        assert expected_share(16, 3, tokens) == pytest.approx(mean(drawn), abs=0.01)


def test_experts_that_were_drawn_are_no_router_of_a_model(tmp_path: Path) -> None:
    scenario = Scenario(axes=AXES, routing="uniform")
    assert "were drawn, not chosen" in draw(alter(write_run(tmp_path, scenario), counted)).next_step


@pytest.mark.parametrize(
    ("kept", "other"), [("block_diffusion", "autoregressive decoding"), ("autoregressive", "block diffusion")]
)
def test_the_decoder_that_was_not_counted_is_named(tmp_path: Path, kept: str, other: str) -> None:
    def only(line: Json) -> None:
        counted(line)
        line["counters"] = line["counters"] if line["cell"]["decoding"] == kept else {}

    assert f"a pass of {other} was not counted" in draw(alter(write_run(tmp_path, Scenario(axes=AXES)), only)).answer


def test_one_cell_of_each_is_told_once(tmp_path: Path) -> None:
    axes = {"batch_size": [4], "block_length": [8], "num_steps": [8]}
    answer = draw(alter(write_run(tmp_path, Scenario(axes=axes)), counted)).answer
    assert len(re.findall(r"\(expected", answer)) == 2


@pytest.mark.parametrize("status", ["error", "ok"])
def test_without_counted_experts_it_says_what_counts_them(tmp_path: Path, status: str) -> None:
    with pytest.raises(NotDrawn, match="counted no experts"):
        draw(write_run(tmp_path, Scenario(outcome=lambda cell, _: status)))


def test_a_plan_without_the_models_shape_says_so(tmp_path: Path) -> None:
    run_dir = alter_plan(write_run(tmp_path, Scenario(axes=AXES)), lambda plan: plan["model"].pop("shape"))
    with pytest.raises(NotDrawn, match="does not hold the model's shape"):
        draw(run_dir)
