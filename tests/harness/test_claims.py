"""The launch's claims: the rule written out again, all four verdicts, and a real page that tests some of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from launched import RELEASED, released
from synthetic import Scenario, write_run
from whole import build_page

from engine.cost import Widths, parameters, pass_cost
from harness import cli
from harness.analysis.analyse import Analysis, analyse
from harness.analysis.claims import CONTRADICTED, NOT_TESTED, ONLY_IF, REPRODUCED, judge_claims
from harness.analysis.metrics import METRICS
from harness.analysis.run_data import load_run
from harness.records.types import Cell
from harness.report import claims
from harness.spec.config import ConfigError
from harness.spec.published import Claim, Published, load_published

PUBLISHED = load_published()


def fast(cell: Cell) -> float:
    return 0.0025 if cell.block_length is None else 0.010


def slow(cell: Cell) -> float:
    return 0.0025 if cell.block_length is None else 0.100


def experts(cell: Cell) -> float:
    return 8 if cell.block_length is None else 127.5


def analysed(*runs: Path) -> Analysis:
    return analyse([load_run(run) for run in runs])


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    """An H100 on which 16 steps reach 1,000 tok/s, and 8 steps four times the autoregressive speed."""
    return analysed(released(tmp_path_factory.mktemp("runs"), pass_s=fast, experts=experts))


@pytest.fixture(scope="module")
def missed(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    """A DGX Spark without float4, and an H100, both too slow for every claim of speed."""
    folder = tmp_path_factory.mktemp("runs")
    spark = released(folder, device="dgx_spark", pass_s=slow, experts=experts, axes={"num_steps": [48]})
    return analysed(spark, released(folder, pass_s=slow, experts=experts, axes={"num_steps": [16, 48]}))


def value_again(claim: dict[str, Any], cell: dict[str, Any], cells: dict[str, Any]) -> float | None:
    """What the claim is measured by, from the JSON document alone."""

    def metric(name: str, of: dict[str, Any]) -> float | None:
        return of["metrics"].get(name, {}).get("value")

    if claim["measure"] == "canvas_gain":
        twin = cells[cell["twin_id"]]
        return cell["cell"]["block_length"] * metric("step_s", twin) / metric("step_s", cell)
    if claim["measure"].startswith("parameters"):
        hits = experts(Cell(**cell["cell"]))
        of_part = parameters(RELEASED)
        rest = sum(of_part.values()) - of_part["experts"]
        read, token = (rest + of_part["experts"] * count / 128 for count in (hits, 8))
        return read / token if claim["measure"] == "parameters_over_token" else read
    return metric(claim["measure"], cell)


def verdict_again(claim: dict[str, Any], document: dict[str, Any]) -> str:
    """The rule of harness/analysis/claims.py in plain lines."""
    reached, missed = [], []
    every = {cell["cell_id"]: cell for cell in document["cells"]}
    for cell in document["cells"]:
        asked = cell["cell"]
        if claim["device"] not in ("", asked["device"]) or claim["decoding"] not in ("", asked["decoding"]):
            continue
        if claim["batch_size"] not in (None, asked["batch_size"]):
            continue
        value = value_again(claim, cell, every)
        if value is None:
            continue
        is_enough = value >= claim["at_least"] if claim["at_least"] is not None else value <= claim["at_most"]
        as_obtained = all(asked[key] in values for key, values in claim["obtained_with"].items())
        (reached if is_enough else missed).append(as_obtained)
    if reached:
        return "reproduced" if not missed and any(reached) else "reproduced only if"
    return "contradicted" if any(missed) else "not tested here"


@pytest.mark.parametrize("name", ["launched", "missed"])
def test_every_verdict_follows_from_the_rows_by_the_rule(name: str, request: pytest.FixtureRequest) -> None:
    document = json.loads(json.dumps(request.getfixturevalue(name).to_json(), allow_nan=False))
    assert len(document["claims"]) == len(PUBLISHED.claims)
    for one in document["claims"]:
        assert one["verdict"] == verdict_again(one["claim"], document), one["claim"]["id"]


def test_a_made_up_set_of_rows_reaches_all_four_verdicts(launched: Analysis) -> None:
    verdicts = {one.claim.id: one.verdict for one in launched.claims}
    assert verdicts["h100"] == verdicts["canvas"] == verdicts["active"] == REPRODUCED
    assert verdicts["speedup"] == verdicts["fraction"] == ONLY_IF
    assert verdicts["compute_bound"] == CONTRADICTED
    assert verdicts["rtx5090"] == verdicts["memory"] == NOT_TESTED


def test_a_claim_that_a_formula_judges_is_not_said_to_be_measured(launched: Analysis) -> None:
    told = {one.claim.id: claims.measured(one) for one in launched.claims}
    assert told["compute_bound"].startswith("By formula, without a clock: ")
    assert "Measured" not in told["compute_bound"]
    assert told["speedup"].startswith("Measured: ")


def test_autoregressive_rows_alone_do_not_reproduce_what_is_said_of_block_diffusion(tmp_path: Path) -> None:
    twins = analysed(released(tmp_path, pass_s=fast, experts=experts, axes={"decoding": ["autoregressive"]}))
    (fraction,) = (one for one in twins.claims if one.claim.id == "fraction")
    assert fraction.verdict == ONLY_IF
    assert "none was obtained as the claim was: with decoding block diffusion" in claims.measured(fraction)


def test_a_format_that_nothing_here_computes_in_is_said_to_be_so(launched: Analysis) -> None:
    told = {one.claim.id: claims.measured(one) for one in launched.claims}
    assert "no backend here computes in float4 yet" in told["dgx_spark"]


def test_a_record_in_a_format_without_a_known_size_has_no_floor_and_does_not_end_the_report(tmp_path: Path) -> None:
    strange = analysed(write_run(tmp_path, Scenario(rename=lambda cell: replace(cell, weight_dtype="float4"))))
    assert all("float4" in row.missing["floor_share"] for row in strange.rows)
    assert "float4" in build_page(strange)


def test_rows_that_miss_a_claim_under_other_conditions_say_nothing_against_it(missed: Analysis) -> None:
    """The DGX Spark's claim was obtained with float4 weights, which no row has; the H100's with what one row has."""
    judged = {one.claim.id: one for one in missed.claims}
    assert judged["dgx_spark"].verdict == NOT_TESTED
    assert "obtained with weight_dtype float4, and no row here was" in judged["dgx_spark"].why
    assert judged["h100"].verdict == CONTRADICTED


def test_only_if_names_what_the_rows_that_reach_it_have_and_the_others_lack(launched: Analysis) -> None:
    speedup = next(one for one in launched.claims if one.claim.id == "speedup")
    (steps,) = (one for one in speedup.differences if one.decides)
    assert (steps.name, steps.reached, steps.missed) == ("num_steps", (8,), (16,))
    assert "only with steps 8, the others have 16" in claims.measured(speedup)


def test_what_the_floor_allows_of_a_step_is_recomputed_from_its_cost(launched: Analysis) -> None:
    """Compute-bound on an H100 in float8: FLOPs over the rates of their dtypes, against bytes over the bandwidth."""
    widths = Widths(weight=1, activation=1, kv=2, head=2)
    costs = pass_cost(RELEASED, "denoise", batch_size=1, tokens=256, context=1024, widths=widths)
    in_16_bits = ("lm_head", "soft_embedding", "sampler", "attention_core")
    computing = sum(one.flops / (989e12 if name in in_16_bits else 1978e12) for name, one in costs.items())
    moving = sum(one.bytes for one in costs.values()) / 3.35e12
    bound = next(one for one in launched.claims if one.claim.id == "compute_bound")
    assert bound.allowed == {"by formula": pytest.approx(computing / moving)}


def test_the_measure_of_bound_is_computing_over_moving_of_the_denoise_passes_alone(launched: Analysis) -> None:
    """bfloat16 activations and 127.5 counted experts, written out; two canvases, so the mean of two contexts."""
    widths = Widths(weight=1, activation=2, kv=2, head=2)
    moving = computing = 0.0
    for context in (64, 64 + 256):
        costs = pass_cost(
            RELEASED, "denoise", batch_size=1, tokens=256, context=context, widths=widths, experts_hit=127.5
        )
        moving += sum(one.bytes for one in costs.values()) / 3.35e12
        computing += sum(one.flops for one in costs.values()) / 989e12
    for row in launched.rows:
        if row.is_autoregressive:
            assert "no denoise pass" in row.missing["computing_over_moving"]
        else:
            assert row.value("computing_over_moving") == pytest.approx(computing / moving)
    assert METRICS["computing_over_moving"].kind == "counter"


def test_a_made_up_time_tests_no_claim(tmp_path: Path) -> None:
    faked = Scenario(rename=lambda cell: replace(cell, backend="fake"))
    assert {one.verdict for one in analysed(write_run(tmp_path, faked)).claims} == {NOT_TESTED}


def test_the_page_says_every_verdict_and_whose_model_it_is_about(launched: Analysis) -> None:
    page = build_page(launched)
    for one in launched.claims:
        assert one.claim.claim.replace("'", "&#39;") in page
    assert claims.summary(launched.claims).replace("'", "&#39;") in page
    assert "not the launch&#39;s" not in page  # the released shape, trained


def test_rows_of_another_model_are_said_to_be_about_that_model(tmp_path: Path) -> None:
    (speedup,) = (one for one in analysed(write_run(tmp_path, Scenario())).claims if one.claim.id == "speedup")
    assert not speedup.is_as_launched
    assert "mini on Made-up GPU 80 GB: this model on this device, not the launch's" in claims.measured(speedup)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"measure": "usefull_tok_s"}, "nearest valid: useful_tok_s"), ({"obtained_with": {"steps": [16]}}, "num_steps")],
)
def test_a_claim_that_nothing_can_measure_is_refused(changes: dict[str, Any], message: str) -> None:
    claim: Claim = replace(PUBLISHED.claims[0], **changes)
    with pytest.raises(ConfigError, match=message):
        judge_claims([], {}, Published(formats=PUBLISHED.formats, figures=(), claims=(claim,)))


def test_the_mini_on_this_cpu_tests_at_least_three_claims_for_real(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "suite=smoke",
        "axes.batch_size=[1]",
        "axes.num_steps=[1,16]",
        "axes.stopping=[fixed]",
        "protocol.rounds=1",
    ]
    words += ["exclude=[]", f"results_dir={tmp_path}", f"reports_dir={tmp_path}", "--json"]
    assert cli.main(["run", *words]) == 0
    document = json.loads(capsys.readouterr().out)
    tested = {one["claim"]["id"]: one for one in document["claims"] if one["verdict"] != NOT_TESTED}
    assert {"canvas", "speedup", "fraction"} <= tested.keys()
    assert tested["fraction"]["verdict"] == ONLY_IF  # a token chooses 2 of 8 experts, a canvas of 32 nearly all
    assert all(one["about"] == ["mini on CPU"] for one in tested.values())
    assert "Do the launch" in (tmp_path / "smoke.html").read_text()
