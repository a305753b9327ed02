"""Predictions for devices: floors written out from the cost model, efficiencies from rows, and what the page says."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import pytest
import yaml
from launched import RELEASED, released
from synthetic import Scenario, write_run
from test_published import JUDGED, pass_s, table_of
from whole import build_page

from engine import cost
from engine.cost import Widths, kv_bytes, weight_bytes
from harness.analysis.analyse import Analysis, analyse
from harness.analysis.points import Curve, _of_cell
from harness.analysis.prediction import BATCHES, STATIC_REPLAY, DevicePrediction, Predictions
from harness.analysis.run_data import load_run
from harness.records.types import AUTOREGRESSIVE, BLOCK_DIFFUSION, Cell
from harness.report.figures.prediction_words import answer, short_name
from harness.report.wording import batch, percent, ratio, tok_s
from harness.spec.data import SUITES_DIR, devices


def usual(cell: Cell) -> float:
    return 0.006 if cell.block_length is None else 0.016


def slower(cell: Cell) -> float:
    return 2 * usual(cell)


@pytest.fixture(scope="module")
def unmeasured(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    """A run of another shape on a CPU: predictions are of the released one, and learn from published figures."""
    run_dir = write_run(tmp_path_factory.mktemp("runs"), plan_changes={"device": {"name": "cpu", "kind": "cpu"}})
    return analyse([load_run(run_dir)])


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    """The released shape on an H100 and, at half the speed, on an H200."""
    folder = tmp_path_factory.mktemp("runs")
    axes = {"num_steps": [16], "batch_size": [1, 4]}
    runs = [released(folder, pass_s=usual, axes=axes), released(folder, device="h200", pass_s=slower, axes=axes)]
    return analyse([load_run(run) for run in runs])


@pytest.fixture(scope="module")
def page(unmeasured: Analysis) -> str:
    return build_page(unmeasured)


def of(predictions: Predictions, device: str) -> DevicePrediction:
    return next(one for one in predictions.devices if one.device.name == device)


@pytest.mark.parametrize(
    ("device", "form"), [("h100", "fp8"), ("h200", "fp8"), ("rtx5090", "nvfp4"), ("dgx_spark", "nvfp4")]
)
def test_floors_at_16_steps_and_batch_1_are_written_out_again(unmeasured: Analysis, device: str, form: str) -> None:
    """1,024 tokens in, a canvas of 256 out, prefill in the clock."""
    found = of(unmeasured.predictions, device)
    prefill = pass_s(device, form, "prefill", 1024, 0)
    diffusion = 256 / (prefill + 16 * pass_s(device, form, "denoise", 256, 1024))
    head = pass_s(device, form, "decode", 1, 0) - pass_s(device, form, "commit", 1, 0)  # that a token takes besides
    twin = 256 / (prefill + head + sum(pass_s(device, form, "decode", 1, 1024 + i) for i in range(255)))
    assert found.form.name == form
    assert found.floors[BLOCK_DIFFUSION][0] == (1, pytest.approx(diffusion))
    assert found.floors[AUTOREGRESSIVE][0] == (1, pytest.approx(twin))


def test_every_device_file_with_roofs_is_predicted(unmeasured: Analysis) -> None:
    with_roofs = {name for name, device in devices().items() if device.bandwidth_bytes_s.value and device.flops_s}
    assert {one.device.name for one in unmeasured.predictions.devices} == with_roofs


def test_curves_end_where_weights_keys_and_values_fill_the_memory(unmeasured: Analysis) -> None:
    widths = Widths(weight=1, activation=1, kv=2, head=2)
    needed = {
        size: weight_bytes(RELEASED, widths) + kv_bytes(RELEASED, size, sliding=1024, full=1280, widths=widths)
        for size in BATCHES
    }
    fits = [size for size in BATCHES if needed[size] <= 85_899_345_920]
    h100 = of(unmeasured.predictions, "h100")
    assert [size for size, _ in h100.floors[BLOCK_DIFFUSION]] == fits
    assert 1 < len(fits) < len(BATCHES)


def test_a_device_whose_format_does_not_fit_gets_the_smallest_one(unmeasured: Analysis) -> None:
    """24 GB hold neither the 50 GB of bf16 nor the 26 of fp8."""
    assert {of(unmeasured.predictions, name).form.name for name in ("rtx3090", "rtx4090", "l4")} == {"nvfp4"}


def test_a_crossover_is_interpolated_on_logarithms(unmeasured: Analysis) -> None:
    one = of(unmeasured.predictions, "h200")
    ours, theirs = (dict(one.floors[decoding]) for decoding in (BLOCK_DIFFUSION, AUTOREGRESSIVE))
    after = next(size for size in ours if ours[size] < theirs[size])
    before = after // 2
    (place,) = one.crossings()
    share = (math.log(place) - math.log(before)) / (math.log(after) - math.log(before))
    assert 0 < share < 1
    log_ratio = [math.log(ours[size] / theirs[size]) for size in (before, after)]
    assert log_ratio[0] + share * (log_ratio[1] - log_ratio[0]) == pytest.approx(0, abs=1e-9)


def test_without_rows_of_the_shape_efficiency_comes_from_published_figures(unmeasured: Analysis) -> None:
    """Those of block diffusion whose steps, format and device are stated and whose number is not "up to"."""
    efficiency = unmeasured.predictions.efficiencies[BLOCK_DIFFUSION]
    names = ("vllm-h100-diffusion", "vllm-h200-diffusion", "vllm-h100-wall", "llamacpp-l4")
    shares = [JUDGED[name].figure.value / (JUDGED[name].floor_tok_s or 0) for name in names]
    assert (efficiency.source, efficiency.count) == ("published", len(names))
    assert (efficiency.median, efficiency.low, efficiency.high) == (median(shares), min(shares), max(shares))


def test_rows_of_the_shape_take_the_place_of_published_figures(measured: Analysis) -> None:
    rows = json.loads(json.dumps(measured.to_json(), allow_nan=False))["cells"]
    for decoding, efficiency in measured.predictions.efficiencies.items():
        shares = [row["metrics"]["floor_share"]["value"] for row in rows if row["cell"]["decoding"] == decoding]
        assert (efficiency.source, efficiency.count) == ("measured", len(shares))
        assert (efficiency.median, efficiency.low, efficiency.high) == (median(shares), min(shares), max(shares))


def test_one_device_predicted_from_the_other_is_off_by_the_ratio_of_their_shares(measured: Analysis) -> None:
    efficiency = measured.predictions.efficiencies[BLOCK_DIFFUSION]
    ours, theirs = efficiency.by_device["h100"], efficiency.by_device["h200"]
    assert efficiency.errors == {"h100": pytest.approx(theirs / ours - 1), "h200": pytest.approx(ours / theirs - 1)}
    assert efficiency.errors["h200"] > 0  # half as fast, on a device whose floor is higher


def test_a_row_of_another_shape_teaches_nothing(tmp_path: Path) -> None:
    runs = [released(tmp_path, pass_s=usual), write_run(tmp_path, Scenario(pass_s=lambda cell: 1e-4))]
    both, alone = (analyse([load_run(run) for run in some]).predictions for some in (runs, runs[:1]))
    assert both.efficiencies == alone.efficiencies


def test_a_shape_that_nobody_published_is_predicted_from_its_own_rows_alone(tmp_path: Path) -> None:
    found = analyse([load_run(write_run(tmp_path))]).predictions
    assert (found.is_released, found.model) == (False, "mini")
    assert {one.source for one in found.efficiencies.values()} == {"measured"}


def test_rows_faster_than_their_floor_teach_nothing_and_the_page_counts_them(tmp_path: Path) -> None:
    """Autoregressive rows alone are too fast here: published figures take their place."""
    run = released(tmp_path, pass_s=lambda cell: 1e-4 if cell.block_length is None else 0.016)
    analysis = analyse([load_run(run)])
    rows = pd.DataFrame(
        {"decoding": row["cell"]["decoding"], "share": row["metrics"]["floor_share"]["value"]}
        for row in analysis.to_json()["cells"]
    )
    above = rows[rows.share > 1]
    assert set(above.decoding) == {AUTOREGRESSIVE}
    found = analysis.predictions
    assert analysis.to_json()["predictions"]["rows_above_their_floor"] == {AUTOREGRESSIVE: len(above)}
    kept = rows[(rows.share <= 1) & (rows.decoding == BLOCK_DIFFUSION)].share
    assert (found.efficiencies[BLOCK_DIFFUSION].high, found.efficiencies[BLOCK_DIFFUSION].count) == (kept.max(), 2)
    assert found.efficiencies[AUTOREGRESSIVE].source == "published"
    assert f"Nothing is learnt from {len(above)} row of autoregressive decoding faster than the floor" in answer(found)


def test_the_better_diffusion_reaches_its_floor_the_later_it_loses_its_lead(unmeasured: Analysis) -> None:
    one = of(unmeasured.predictions, "h200")
    assert one.crossings(1.0) == one.crossings()
    assert one.crossings(1.2)[0] > one.crossings()[0]


def test_routing_and_published_steps_move_the_crossover_by_what_their_passes_read(unmeasured: Analysis) -> None:
    """Speed-ups of an H200 at batch 8, written out: zipf draws hit fewer experts, and replayed steps are more."""
    one = of(unmeasured.predictions, "h200")
    widths = Widths(weight=1, activation=1, kv=2, head=2, experts=1)
    include = cost.inclusion((cost.zipf_weights(RELEASED.num_experts, 1.0),), RELEASED.top_k_experts)

    def seconds(kind: str, tokens: int, context: int, *, samples: bool = False, is_zipf: bool = False) -> float:
        hits = cost.distinct_experts(RELEASED, 8 * tokens, include if is_zipf else None)
        costs = cost.pass_cost(RELEASED, kind, batch_size=8, tokens=tokens, context=context, widths=widths,
                               experts_hit=hits, samples=samples)  # fmt: skip
        in_16_bits = ("lm_head", "soft_embedding", "sampler", "attention_core")
        rates = {name: 989e12 if name in in_16_bits else 1978e12 for name in costs}
        return sum(max(c.bytes / 4800e9, c.flops / rates[name]) for name, c in costs.items())

    bins = yaml.safe_load((SUITES_DIR / "steps" / "diffusiongemma_evals.yaml").read_text())["bins"]
    shares = np.zeros(49)
    for bin_ in bins:
        shares[bin_["from"] : bin_["to"] + 1] += bin_["share"] / (bin_["to"] + 1 - bin_["from"])
    longest = 48 - np.sum(np.cumsum(shares)[:48] ** 8)
    for name, is_zipf, steps in (("zipf 1", True, 16), (STATIC_REPLAY, False, longest)):
        decoded = sum(seconds("decode", 1, 1024 + i, is_zipf=is_zipf) for i in range(255))
        twin = seconds("prefill", 1024, 0, samples=True, is_zipf=is_zipf) + decoded
        denoised = steps * seconds("denoise", 256, 1024, is_zipf=is_zipf)
        ours = seconds("prefill", 1024, 0, is_zipf=is_zipf) + denoised
        assert dict(one.others[name])[8] == pytest.approx(twin / ours)


def test_a_crossover_range_runs_from_the_first_to_the_last_batch_at_which_the_lead_is_lost(page: str,
    unmeasured: Analysis) -> None:  # fmt: skip
    """Interpolated again with numpy; of a lead that is never lost the range has no upper end."""
    found = json.loads(json.dumps(unmeasured.to_json(), allow_nan=False))["predictions"]
    rows = table_of(page, "PREDICTED")
    shares = {one["decoding"]: one["median"] for one in found["efficiencies"]}
    lows = []
    for one, row in zip(found["devices"], rows, strict=True):
        for key, column, gain in (
            ("crossover_range_at_floors", 7, 1.0),
            ("crossover_range_at_efficiencies", 9, shares[BLOCK_DIFFUSION] / shares[AUTOREGRESSIVE]),
        ):
            ends = []
            for line in one["crossover_range_at_floors"]["lines"]:
                sizes, values = np.array(line["speedups"]).T
                logs = np.log(values * gain)
                fallen = [] if logs[-1] > 0 else np.nonzero((logs[:-1] > 0) & (logs[1:] < 0))[0] + 1
                pair = [fallen[-1], fallen[-1] - 1] if len(fallen) else []
                ends.append(np.exp(np.interp(0, logs[pair], np.log(sizes[pair]))) if pair else np.inf)
            low, high = min(ends), max(ends)
            assert one[key]["low"] == pytest.approx(low)
            assert one[key]["high"] == (None if high == np.inf else pytest.approx(high))
            end = f"over {one[key]['to']}" if high == np.inf else batch(high)
            assert row[column] == f"{batch(low)} to {end}"
            lows += [low] if gain == 1.0 else []
    assert f"it loses it as early as at batch {batch(min(lows))} on" in page
    assert f" to {batch(max(lows))} on" in page


def test_the_page_says_of_each_device_why_its_curves_end(page: str, unmeasured: Analysis) -> None:
    """Twice the last batch does not fit, or the last batch is the largest that is evaluated."""
    found = json.loads(json.dumps(unmeasured.to_json(), allow_nan=False))["predictions"]
    ends = {one["device"]: one["ends_at"] for one in found["devices"]}
    assert (ends["h100"], ends["h200"]) == ("memory", "largest batch that is evaluated")
    leads = {True: 0, False: 0}
    for row, one in zip(table_of(page, "PREDICTED"), found["devices"], strict=True):
        sizes, ours = zip(*one["floor_tok_s"][BLOCK_DIFFUSION], strict=True)
        _, theirs = zip(*one["floor_tok_s"][AUTOREGRESSIVE], strict=True)
        is_full = sizes[-1] < max(BATCHES)
        assert row[5] == f"{sizes[-1]}, {'memory' if is_full else 'largest evaluated'}"
        leads[is_full] += ours[-1] > theirs[-1]
    assert f"on {leads[True]} devices it leads until the memory is full" in page
    assert f"on {leads[False]} device up to batch 512, the largest that is evaluated" in page


def test_points_of_another_format_length_or_clock_are_marked_and_of_other_steps_left_out(tmp_path: Path) -> None:
    """An A100 computes in bfloat16, so those rows are the curve's own; an H100's curve is of float8."""
    axes = {"num_steps": [8, 16], "weight_dtype": ["bfloat16"], "prompt_tokens": [1024], "output_tokens": [256]}
    runs = [
        released(tmp_path, device="a100", pass_s=usual, axes=axes),
        released(tmp_path, device="h100", pass_s=usual, axes={**axes, "output_tokens": [512]}),
    ]
    points = analyse([load_run(run) for run in runs]).predictions.points
    measured = {name: [p for p in points[name] if p.source == "measured"] for name in ("a100", "h100")}
    assert [(p.decoding, p.differs) for p in measured["a100"]] == [(AUTOREGRESSIVE, ()), (BLOCK_DIFFUSION, ())]
    wanted = ("bfloat16 weights and bfloat16 head", "bfloat16 activations", "1,024 -> 512 tokens")
    assert [p.differs for p in measured["h100"]] == [wanted, wanted]
    published = {p.tok_s: p.differs for p in points["h100"] if p.source == "published"}
    assert published[1008] == ("1,024 -> 1,024 tokens", "prefill not in the clock")
    assert "steps not stated" in published[763]


def test_a_row_in_a_format_of_unknown_size_is_no_point_of_the_curve(unmeasured: Analysis) -> None:
    form = of(unmeasured.predictions, "h100").form
    curve = Curve(form, RELEASED, 16, 256, 1024, 256)
    plain = next(iter(unmeasured.rows)).cell
    cell = replace(plain, weight_dtype="float3", prompt_tokens=1024, output_tokens=256, routing="uniform")
    assert _of_cell(cell, curve, is_trained=True)[0] == "float3 weights and bfloat16 head"


def test_the_pages_table_has_every_devices_numbers(unmeasured: Analysis, page: str) -> None:
    found = json.loads(json.dumps(unmeasured.to_json(), allow_nan=False))["predictions"]
    shares = {one["decoding"]: one["median"] for one in found["efficiencies"]}
    rows = table_of(page, "PREDICTED")
    assert len(rows) == len(found["devices"])
    for row, one in zip(rows, found["devices"], strict=True):
        diffusion, twin = (one["floor_tok_s"][decoding][0][1] for decoding in (BLOCK_DIFFUSION, AUTOREGRESSIVE))
        assert row[1] == one["format"]
        assert row[2] == f"{tok_s(diffusion)} | {tok_s(twin)}"
        assert row[3] == f"{tok_s(diffusion * shares[BLOCK_DIFFUSION])} | {tok_s(twin * shares[AUTOREGRESSIVE])}"
        assert row[4] == ratio(diffusion / twin)
        last = one["floor_tok_s"][BLOCK_DIFFUSION][-1][0]
        assert row[6] == (batch(one["crossings_at_floors"][0]) if one["crossings_at_floors"] else f"over {last}")
        price = devices()[one["device"]].price_usd_per_hour.value
        assert row[10] == (
            f"{price / 3.6 * 1e3 / diffusion:.2g} | {price / 3.6 * 1e3 / twin:.2g}" if price else "no price"
        )


def test_a_given_price_is_that_of_a_predicted_device_too(unmeasured: Analysis, page: str) -> None:
    given = replace(unmeasured, usd_per_hour={"h100": 7.2, "rtx5090": 0.36})
    before, after = ({one.device.name: one for one in each.predictions.devices} for each in (unmeasured, given))
    for name, one in after.items():
        price = {"h100": 7.2, "rtx5090": 0.36}.get(name, devices()[name].price_usd_per_hour.value)
        for decoding, points in one.floors.items():
            expected = None if price is None else pytest.approx(price / 3600 / points[0][1] * 1e6)
            assert one.usd_per_million(decoding) == expected
        assert one.floors == before[name].floors
    own = build_page(given)
    assert "but for H100 SXM and RTX 5090 what was given with --usd-per-hour" in own
    assert "given with" not in page


def test_the_sentence_names_the_ends_of_the_devices(unmeasured: Analysis, page: str) -> None:
    found = json.loads(json.dumps(unmeasured.to_json(), allow_nan=False))["predictions"]
    speeds = {one["device"]: one["floor_tok_s"][BLOCK_DIFFUSION][0][1] for one in found["devices"]}
    slowest, fastest = min(speeds, key=speeds.get), max(speeds, key=speeds.get)  # type: ignore[arg-type]
    names = {one.device.name: short_name(one) for one in unmeasured.predictions.devices}
    ends = [f"{tok_s(speeds[one])} tok/s on {names[one]}" for one in (slowest, fastest)]
    assert " to ".join(ends) in page
    places = sorted(one["crossings_at_floors"][-1] for one in found["devices"] if one["crossings_at_floors"])
    assert f"it loses its lead at batch {batch(places[0])} on" in page
    assert f"to {batch(places[-1])} on" in page
    for one in found["efficiencies"]:
        assert f"{percent(one['median'])} of the floor for" in page


def test_predictions_say_that_they_are_predicted_and_from_which_rows(measured: Analysis, page: str) -> None:
    assert "PREDICTED: diffusiongemma_26b_a4b, 16 steps" in page
    assert "published figures of" in page


def test_the_page_tells_runs_from_devices(measured: Analysis, tmp_path: Path) -> None:
    """Two runs on one H100, and then one more on an H200."""
    axes = {"num_steps": [16], "batch_size": [1, 4]}
    again = load_run(released(tmp_path, pass_s=slower, axes=axes))
    of_both = [*measured.runs.values(), again]
    assert "over 4 measured rows of 2 runs on 2 devices" in answer(measured.predictions)
    assert "over 4 measured rows of 2 runs on 1 device)" in answer(analyse([of_both[0], again]).predictions)
    assert "over 6 measured rows of 3 runs on 2 devices" in answer(analyse(of_both).predictions)
