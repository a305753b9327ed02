"""The launch's claims: the rule written out again, all four verdicts, and a real page that tests some of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from launched import RELEASED, released
from synthetic import Scenario, write_run
from whole import build_page

from engine.cost import Widths, parameters, pass_cost
from harness import cli
from harness.analysis.analyse import Analysis, analyse
from harness.analysis.claim_conditions import ValuedRow, unmet_by
from harness.analysis.claims import CONTRADICTED, NOT_TESTED, ONLY_IF, REPRODUCED, Judgement, judge_claims
from harness.analysis.metrics import METRICS
from harness.analysis.run_data import load_run
from harness.records.types import Cell
from harness.report import claims
from harness.report.wording import counted
from harness.spec.config import ConfigError
from harness.spec.published import Claim, load_published

PUBLISHED = load_published()
RECIPE = {"prompt_tokens": [1024], "output_tokens": [1024]}  # of the launch's chart
TOLERANCES = {"as it stands": 0.0, "or more": 0.0, "round number": 0.05, "up to": 0.05, "about": 0.1}


def fast(cell: Cell) -> float:
    return 0.0025 if cell.block_length is None else 0.010


def slow(cell: Cell) -> float:
    return 0.0025 if cell.block_length is None else 0.100


def experts(cell: Cell) -> float:
    return 8 if cell.block_length is None else 127.5


def judged(analysis: Analysis, name: str) -> Judgement:
    (found,) = (one for one in analysis.claims if one.claim.id == name)
    return found


def analysed(*runs: Path) -> Analysis:
    return analyse([load_run(run) for run in runs])


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    """An H100 on which 16 steps reach 1,000 tok/s, and 8 steps four times the autoregressive speed."""
    return analysed(released(tmp_path_factory.mktemp("runs"), pass_s=fast, experts=experts, axes=RECIPE))


@pytest.fixture(scope="module")
def missed(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    """A DGX Spark without float4, and an H100, both too slow for every claim of speed."""
    folder = tmp_path_factory.mktemp("runs")
    spark = released(folder, device="dgx_spark", pass_s=slow, experts=experts, axes={"num_steps": [48]})
    axes = {**RECIPE, "num_steps": [16, 48]}
    return analysed(spark, released(folder, pass_s=slow, experts=experts, axes=axes))


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
        tolerance = TOLERANCES[claim["reading"]]
        if claim["at_least"] is not None:
            is_enough = value >= claim["at_least"] * (1 - tolerance)
        else:
            is_enough = value <= claim["at_most"] * (1 + tolerance)
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
    assert verdicts["memory_bound"] == REPRODUCED  # the other half of the sentence about compute
    assert verdicts["h100"] == verdicts["canvas"] == verdicts["active"] == REPRODUCED
    assert verdicts["speedup"] == verdicts["fraction"] == ONLY_IF
    assert verdicts["compute_bound"] == CONTRADICTED
    assert verdicts["rtx5090"] == verdicts["memory"] == NOT_TESTED


def test_a_claim_that_a_formula_judges_is_not_said_to_be_measured(launched: Analysis) -> None:
    told = {one.claim.id: claims.measured(one) for one in launched.claims}
    assert told["compute_bound"].startswith("By formula, without a clock, at the data sheet's roofs: ")
    assert "Measured" not in told["compute_bound"]
    assert told["speedup"].startswith("Measured: ")


def test_autoregressive_rows_alone_do_not_reproduce_what_is_said_of_block_diffusion(tmp_path: Path) -> None:
    twins = analysed(released(tmp_path, pass_s=fast, experts=experts, axes={"decoding": ["autoregressive"]}))
    (fraction,) = (one for one in twins.claims if one.claim.id == "fraction")
    assert fraction.verdict == ONLY_IF
    assert "but it was not obtained as the claim was: no row has decoding block diffusion." in claims.measured(fraction)


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
    assert "Not tested: no row has weight dtype float4, and none" in claims.measured(judged["dgx_spark"])
    assert judged["h100"].verdict == CONTRADICTED


def test_only_if_names_what_the_rows_that_reach_it_have_and_the_others_lack(launched: Analysis) -> None:
    speedup = next(one for one in launched.claims if one.claim.id == "speedup")
    (steps,) = (one for one in speedup.differences if one.decides)
    assert (steps.names, steps.reached, steps.missed) == (("num_steps",), ((8,),), ((16,),))
    assert "only with steps 8, the others have 16" in claims.measured(speedup)


def test_what_the_floor_allows_of_a_step_is_recomputed_from_its_cost(launched: Analysis) -> None:
    """Compute-bound on an H100 in float8: FLOPs over the rates of their dtypes, against bytes over the bandwidth."""
    widths = Widths(weight=1, activation=1, kv=2, head=2)
    costs = pass_cost(RELEASED, "denoise", batch_size=1, tokens=256, context=1024, widths=widths)
    in_16_bits = ("lm_head", "soft_embedding", "sampler", "attention_core")
    computing = sum(one.flops / (989e12 if name in in_16_bits else 1978e12) for name, one in costs.items())
    moving = sum(one.bytes for one in costs.values()) / 3.35e12
    bound = next(one for one in launched.claims if one.claim.id == "compute_bound")
    assert bound.allowed == {"a denoise pass": pytest.approx(computing / moving)}


def test_the_measure_of_bound_is_computing_over_moving_of_denoise_or_of_decode_passes_alone(launched: Analysis) -> None:
    """bfloat16 activations and the counted experts, written out: means over four canvases, or over 1,023 tokens."""
    widths = Widths(weight=1, activation=2, kv=2, head=2)

    def bound(kind: Literal["denoise", "decode"], tokens: int, contexts: Iterable[int], hit: float) -> float:
        moving = computing = 0.0
        for context in contexts:
            costs = pass_cost(
                RELEASED, kind, batch_size=1, tokens=tokens, context=context, widths=widths, experts_hit=hit
            )
            moving += sum(one.bytes for one in costs.values()) / 3.35e12
            computing += sum(one.flops for one in costs.values()) / 989e12
        return computing / moving

    denoise = bound("denoise", 256, range(1024, 2048, 256), 127.5)
    decode = bound("decode", 1, range(1024, 2047), 8)
    for row in launched.rows:
        expected = decode if row.is_autoregressive else denoise
        assert row.value("computing_over_moving") == pytest.approx(expected)
    memory_bound = judged(launched, "memory_bound")
    assert memory_bound.highest is not None
    assert (memory_bound.rows.tested, memory_bound.highest.value) == (1, pytest.approx(decode))
    assert METRICS["computing_over_moving"].kind == "counter"


def test_a_made_up_time_tests_no_claim(tmp_path: Path) -> None:
    faked = Scenario(rename=lambda cell: replace(cell, backend="fake"))
    assert {one.verdict for one in analysed(write_run(tmp_path, faked)).claims} == {NOT_TESTED}


def test_the_page_says_every_verdict_and_whose_model_it_is_about(launched: Analysis) -> None:
    page = unescape(build_page(launched))
    for one in launched.claims:
        assert one.claim.claim in page
        assert one.reading.meaning in page
    assert claims.summary(launched.claims) in page
    assert all(rule in page for _, rule in claims.RULE)
    assert "not the launch's model" not in page  # the released shape, trained


def test_rows_of_another_model_are_said_to_be_about_that_model(tmp_path: Path) -> None:
    (speedup,) = (one for one in analysed(write_run(tmp_path, Scenario())).claims if one.claim.id == "speedup")
    assert not speedup.is_as_launched
    assert "mini on Made-up GPU 80 GB, not the launch's model." in claims.measured(speedup)


def test_of_several_runs_it_is_said_which_are_not_of_the_launchs_model(tmp_path: Path) -> None:
    runs = (released(tmp_path, pass_s=fast), write_run(tmp_path, Scenario(axes={"batch_size": [1]})))
    (speedup,) = (card for card in claims.cards(analysed(*runs).claims)[0] if card.claim.startswith("Up to 4x"))
    assert "6 rows of 2 runs, not all the launch's model." in speedup.measured
    gpus = "2 of diffusiongemma_26b_a4b on NVIDIA H100 SXM 80 GB; 4 of mini on Made-up GPU 80 GB"
    assert speedup.facts[0] == ("whose rows", f"{gpus} (not the launch's model)")


def test_a_value_chosen_among_several_runs_names_its_run_and_runs_can_tell_rows_apart(tmp_path: Path) -> None:
    quick, tardy = (released(tmp_path, pass_s=pass_s, axes={"num_steps": [8]}) for pass_s in (fast, slow))
    speedup = judged(analysed(quick, tardy), "speedup")
    assert [one.names for one in speedup.differences] == [("run",)]
    told = claims.measured(speedup)
    where = "NVIDIA H100 SXM 80 GB, run"
    assert f"x on {where} {tardy.name} to " in told
    assert f"x on {where} {quick.name}, 2 rows of 2 runs. " in told
    assert f"only with run {quick.name}, the others have {tardy.name}" in told
    (line,) = claims.lines([speedup])
    assert line.endswith(f", of 2 runs): reproduced only if run {quick.name}")


def test_two_conditions_that_only_together_tell_rows_apart_are_named_together(tmp_path: Path) -> None:
    def by_both(cell: Cell) -> float:
        return fast(cell) if cell.block_length is None or (cell.num_steps == 8) == (cell.prompt_tokens == 64) else 0.1

    axes = {"num_steps": [4, 8], "prompt_tokens": [64, 96, 128]}
    speedup = judged(analysed(released(tmp_path, pass_s=by_both, axes=axes)), "speedup")
    (pair,) = (one for one in speedup.differences if one.decides)
    assert pair.names == ("num_steps", "prompt_tokens")
    assert pair.reached == ((4, 96), (4, 128), (8, 64))
    told = "only with steps 4 and prompt tokens 96 or 128, or steps 8 and prompt tokens 64; the others have "
    assert f"{told}steps 4 and prompt tokens 64, or steps 8 and prompt tokens 96 or 128." in claims.measured(speedup)


@pytest.mark.parametrize(
    ("rows", "names", "together"),
    [
        ([(16, "fixed", 64)], ["prompt_tokens"], False),
        ([(8, "fixed", 64), (48, "adaptive", 64)], ["num_steps", "prompt_tokens"], False),
        ([(16, "adaptive", 1024), (8, "fixed", 1024)], ["num_steps", "stopping"], True),
        ([(16, "fixed", 1024), (8, "adaptive", 64)], [], False),
    ],
)
def test_of_the_conditions_of_a_claim_only_those_are_listed_that_no_row_meets(
    rows: list[tuple[int, str, int]], names: list[str], together: bool
) -> None:
    wanted = {"num_steps": [16], "stopping": ["fixed"], "prompt_tokens": [1024]}
    cells = [SimpleNamespace(**dict(zip(wanted, values, strict=True))) for values in rows]
    tested: list[Any] = [ValuedRow(SimpleNamespace(cell=cell), None, "", None, 1.0) for cell in cells]  # type: ignore[arg-type]
    unmet = unmet_by(wanted, tested)
    assert (list(unmet.wanted), unmet.together) == (names, together)


def test_a_claim_that_was_obtained_otherwise_lists_only_what_no_row_has(tmp_path: Path) -> None:
    """The H100's claim has six conditions; of these, rows of shorter requests lack two."""
    h100 = judged(analysed(released(tmp_path, pass_s=fast)), "h100")
    assert h100.verdict == ONLY_IF
    none = "but none was obtained as the claim was: no row has prompt tokens 1024 and output tokens 1024."
    assert claims.measured(h100).endswith(none)


@pytest.mark.parametrize(
    ("name", "reaching", "missing"),
    [
        ("h100", 987, 949),
        ("dgx_spark", 135, 134),
        ("rtx5090", 700, 699),
        ("dgx_station", 1900, 1899),
        ("speedup", 3.8, 3.79),
        ("active", 3.98e9, 4e9),
        ("memory", 18e9, 18.1e9),
        ("canvas", 1, 0.99),
    ],
)
def test_how_the_words_of_a_claim_are_read_is_data_and_makes_its_bar(
    name: str, reaching: float, missing: float
) -> None:
    (claim,) = (one for one in PUBLISHED.claims if one.id == name)
    tolerance = PUBLISHED.readings[claim.reading].tolerance
    assert tolerance == TOLERANCES[claim.reading]
    assert claim.is_reached_by(reaching, tolerance)
    assert not claim.is_reached_by(missing, tolerance)


def test_a_claim_that_is_reached_by_its_tolerance_alone_says_so(tmp_path: Path) -> None:
    """1,024 tokens in 4 canvases of 16 steps and 3 commits: 987 tok/s with this pass and the made-up prefill."""
    pass_s = (1024 / 987 / 1.01 - 0.02) / 67
    axes = {**RECIPE, "num_steps": [16]}
    run = released(tmp_path, pass_s=lambda cell: 0.01 if cell.block_length is None else pass_s, axes=axes)
    h100 = judged(analysed(run), "h100")
    assert h100.verdict == REPRODUCED
    told = "It reaches 950 tok/s. It was obtained as the claim was, with weight dtype float8_e4m3, steps 16, "
    assert told in claims.measured(h100)
    assert claims.measured(h100).endswith("It passes the bar by the tolerance of 5 % alone.")
    shown = next(card for card in claims.cards([h100])[0])
    assert shown.facts[0][1].startswith("at least 950 tok/s: 1,000 tok/s less 5 %, because a round number")


def test_rows_that_reach_a_claim_with_worse_answers_are_said_to(tmp_path: Path) -> None:
    graded = Scenario(quality=lambda cell: 0.0 if cell.block_length else 1.0, axes={"prompt_set": ["code"]})
    speedup = judged(analysed(write_run(tmp_path, graded)), "speedup")
    assert 1 < speedup.rows.reached == speedup.rows.worse_answers
    told = "All of those that pass it do so with fewer right answers than autoregressive decoding gives."
    assert told in claims.measured(speedup)


def test_rows_whose_interval_spans_the_bar_are_counted(tmp_path: Path) -> None:
    noisy = analysed(write_run(tmp_path, Scenario(wobble=0.3, axes={"batch_size": [1]})))
    intervals = [row.metrics["speedup_vs_ar"] for row in noisy.rows if not row.is_autoregressive]
    unclear = sum(one.low < 4 * 0.95 < one.high for one in intervals)
    assert 0 < unclear < len(intervals)
    told = f"In {counted(unclear, 'row')} the interval spans the bar, so that noise may decide."
    assert told in claims.measured(judged(noisy, "speedup"))


def test_a_value_just_short_of_the_bar_is_not_rounded_up_to_it() -> None:
    assert claims.amount(949.96, "tok/s", beside=950) == "949.96 tok/s"
    assert claims.amount(3.9949e9, "parameters", beside=3.99e9) == "3.9949 B"
    assert claims.amount(950, "tok/s", beside=950) == claims.amount(950, "tok/s") == "950 tok/s"


def test_rows_of_another_canvas_do_not_count_as_obtained_with_256_tokens(tmp_path: Path) -> None:
    half = analysed(released(tmp_path, pass_s=fast, axes={"block_length": [128]}))
    assert judged(half, "canvas").verdict == ONLY_IF
    both = judged(analysed(released(tmp_path, pass_s=fast, axes={"block_length": [128, 256]})), "canvas")
    assert (both.verdict, both.rows.tested, both.rows.as_obtained) == (REPRODUCED, 4, 2)
    assert "2 of the 4 were obtained as the claim was, with block length 256." in claims.measured(both)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"measure": "usefull_tok_s"}, "nearest valid: useful_tok_s"), ({"obtained_with": {"steps": [16]}}, "num_steps")],
)
def test_a_claim_that_nothing_can_measure_is_refused(changes: dict[str, Any], message: str) -> None:
    claim: Claim = replace(PUBLISHED.claims[0], **changes)
    with pytest.raises(ConfigError, match=message):
        judge_claims([], {}, replace(PUBLISHED, figures=(), claims=(claim,)))


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

    def whose(one: dict[str, Any]) -> list[tuple[str, str, bool]]:
        return [(subject["model"], subject["device"], subject["is_released_shape"]) for subject in one["subjects"]]

    assert cli.main(["run", *words]) == 0
    document = json.loads(capsys.readouterr().out)
    tested = {one["claim"]["id"]: one for one in document["claims"] if one["verdict"] != NOT_TESTED}
    assert {"canvas", "speedup", "fraction"} <= tested.keys()
    assert tested["fraction"]["verdict"] == ONLY_IF  # a token chooses 2 of 8 experts, a canvas of 32 nearly all
    assert all(whose(one) == [("mini", "CPU", False)] for one in tested.values())
    assert tested["canvas"]["unmet"] == {"wanted": {"block_length": [256]}, "together": False}
    assert "Do the launch" in (tmp_path / "smoke.html").read_text()
