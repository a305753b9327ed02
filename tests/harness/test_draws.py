"""Steps and experts that are drawn: the files, their statistics, the plan's expectations, and what a suite may ask."""

from __future__ import annotations

import random
import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_cost_and_floor import RELEASED, cell, device

from harness.spec import draws, plan, suite
from harness.spec.config import ConfigError
from harness.spec.data import SUITES_DIR
from harness.spec.floor import predict
from harness.spec.plan_json import to_json

STEPS = sorted((SUITES_DIR / "steps").glob("*.yaml"))
EVALS = "diffusiongemma_evals"


def replayed(**changes: Any) -> Any:
    options = {"replay_steps": EVALS, **changes.pop("options", {})}
    return cell(stopping="replay", num_steps=48, options=options, **changes)


@pytest.mark.parametrize("path", STEPS, ids=lambda path: path.stem)
def test_a_step_file_has_the_statistics_that_its_source_prints(path: Path) -> None:
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    histogram = draws.steps_of(cell(options={"replay_steps": path.stem}))
    said, cap = document["published"], document["published"]["cap"]
    shares = dict(enumerate(histogram.shares, 1))
    assert sum(shares.values()) == pytest.approx(1)
    assert sum(n * share for n, share in shares.items()) == pytest.approx(said["mean"], abs=0.05)
    assert shares[cap] == pytest.approx(said["cap_share"], abs=1e-9)
    assert cap * shares[cap] / said["mean"] == pytest.approx(said["capped_step_share"], abs=0.01)
    for name, part in (("p10", 0.1), ("p50", 0.5), ("p90", 0.9)):
        below = [n for n in shares if sum(share for m, share in shares.items() if m <= n) >= part - 1e-9]
        assert min(below) == said[name]
    assert document["source"].startswith("https://")
    assert document["basis"]


def test_drawn_steps_follow_the_histogram_up_to_the_cap() -> None:
    histogram = draws.steps_of(replayed())
    drawn = [n for seed in range(40) for row in histogram.draw(50, 4, 32, seed) for n in row]
    assert statistics.mean(drawn) == pytest.approx(histogram.mean(32), abs=0.5)
    assert max(drawn) == 32
    assert drawn.count(32) / len(drawn) == pytest.approx(sum(histogram.shares[31:]), abs=0.02)


def test_draws_repeat_with_their_seed_and_a_larger_batch_has_the_rows_of_a_smaller_one() -> None:
    histogram = draws.steps_of(replayed())
    assert histogram.draw(8, 3, 48, 1)[:4] == histogram.draw(4, 3, 48, 1)
    assert histogram.draw(4, 3, 48, 1) != histogram.draw(4, 3, 48, 2)


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_the_plan_expects_the_longest_row_of_a_batch(batch_size: int) -> None:
    """Against plain sampling of the file's bins."""
    bins = yaml.safe_load((SUITES_DIR / "steps" / f"{EVALS}.yaml").read_text(encoding="utf-8"))["bins"]
    dice = random.Random(0)

    def one() -> int:
        chosen = dice.choices(bins, [b["share"] for b in bins])[0]
        return dice.randint(chosen["from"], chosen["to"])

    longest = statistics.mean(max(one() for _ in range(batch_size)) for _ in range(4000 if batch_size < 9 else 400))
    prediction = predict(replayed(batch_size=batch_size), RELEASED, device())
    assert prediction.num_steps == pytest.approx(longest, abs=1.0)
    assert prediction.passes["denoise"] == pytest.approx(2 * prediction.num_steps)


def test_what_a_static_batch_loses_to_stragglers_is_one_minus_mean_over_longest() -> None:
    histogram = draws.StepHistogram((0.5, 0.0, 0.0, 0.5))  # one step or four
    assert histogram.mean(4) == 2.5
    assert histogram.longest(2, 4) == pytest.approx(0.25 * 1 + 0.75 * 4)
    assert histogram.straggler_share(2, 4) == pytest.approx(1 - 2.5 / 3.25)
    assert histogram.straggler_share(1, 4) == 0


def config_of(*words: str) -> Any:
    base = ["suite=h100", "axes.batch_size=[1,4]", "axes.block_length=[256]", "axes.num_steps=[16]"]
    return suite.compose([*base, *words], backends=["reference"])


def test_the_drawn_defaults_stand_in_every_cell_and_in_the_runs_identity() -> None:
    built = plan.build(config_of("axes.stopping=[fixed,replay]", "routing=zipf"))
    assert {planned.cell.options["replay_steps"] for planned in built.cells} == {EVALS}
    assert {planned.cell.options["zipf_exponent"] for planned in built.cells} == {1.0}
    assert to_json(built)["drawn_from"].keys() == {"replay_steps"}
    assert {p.floor_basis for p in built.cells} == {"exact", "expected"}
    twins = {p.twin_id for p in built.cells if p.twin_id}
    assert len(twins) == 2  # fixed and replayed cells share their anchors


def test_a_suite_that_draws_nothing_has_no_option_and_no_hash_of_it() -> None:
    built = plan.build(config_of())
    assert all(planned.cell.options == {"window": "sdpa"} for planned in built.cells)
    assert "drawn_from" not in to_json(built)


def test_skewed_routing_makes_autoregressive_batches_cheaper_and_a_canvas_hardly() -> None:
    def floor_s(routing: str, **changes: Any) -> float:
        one = cell(routing=routing, options={"zipf_exponent": 1.0}, output_tokens=256, batch_size=8, **changes)
        found = predict(one, RELEASED, device()).floor_s
        assert found is not None
        return found

    anchor: dict[str, Any] = {"decoding": "autoregressive", "block_length": None, "num_steps": None, "stopping": None}
    assert floor_s("zipf", **anchor) < 0.9 * floor_s("uniform", **anchor)
    assert floor_s("zipf") == pytest.approx(floor_s("uniform"), rel=0.01)
    assert floor_s("uniform") == floor_s("model")


def test_replayed_routing_expects_the_experts_that_the_file_says() -> None:
    mini = suite_shape()
    one = cell(routing="replay", options={"expert_popularity": "mini"})
    inclusion = draws.inclusion_of(one, mini)
    counts = yaml.safe_load((SUITES_DIR / "experts" / "mini.yaml").read_text(encoding="utf-8"))["layers"]
    assert inclusion is not None
    for found, layer in zip(inclusion, counts, strict=True):
        assert found == pytest.approx([2 * count / sum(layer) for count in layer], abs=2e-4)


def suite_shape() -> Any:
    return plan.build(suite.compose(["suite=smoke"], backends=["reference"])).shape


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["axes.stopping=[replay]", "options.replay_steps=nothing"], "'nothing' is no file; expected"),
        (["axes.stopping=[replay]", "options.replay_steps=diffusiongemma_eval"], "nearest valid: diffusiongemma_evals"),
        (["routing=replay"], "expert_popularity: is not set; expected"),
        (["routing=replay", "options.expert_popularity=mini"], "mini has 4 layers of 8 experts, the model has 30 of"),
        (["routing=zipf", "options.zipf_exponent=-1"], "-1 is no number from 0 to 4"),
        (["routing=zipf", "options.zipf_exponent=steep"], "'steep' is no number"),
        (["routing=zip"], "nearest valid: zipf"),
        (["axes.stopping=[replay]", "axes.prompt_set=[random]"], "random token ids never converge"),
        (["axes.stopping=[adaptive]", "model.trained=true", "routing=uniform"], "uniform draws the experts"),
    ],
)
def test_a_draw_that_cannot_be_made_is_refused_in_one_message(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan.build(config_of(*words))


@pytest.mark.parametrize(
    "text",
    ["", "bins: 3", "bins: [{from: 0, to: 3, share: 1}]", "bins: [{from: 1, to: 3, share: 0.5}]", "bins: [", "[]"],
)
def test_a_file_that_is_no_histogram_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        plan.build(config_of("axes.stopping=[replay]", f"options.replay_steps={path}"))


@pytest.mark.parametrize("text", ["", "layers: []", "layers: [[a]]", "layers: 3"])
def test_a_file_that_is_no_popularity_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        plan.build(config_of("routing=replay", f"options.expert_popularity={path}"))
