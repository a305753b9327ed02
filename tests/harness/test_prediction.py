"""Predictions for devices: floors written out from the cost model, efficiencies from rows, and what the page says."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
from launched import RELEASED, released
from synthetic import Scenario, write_run
from test_published import JUDGED, pass_s, table_of
from whole import build_page

from engine.cost import Widths, kv_bytes, weight_bytes
from harness.analysis.analyse import Analysis, analyse
from harness.analysis.prediction import BATCHES, DevicePrediction, Efficiency, Predictions, crossings_expected
from harness.analysis.run_data import load_run
from harness.records.types import AUTOREGRESSIVE, BLOCK_DIFFUSION, Cell
from harness.report.figures.prediction import short_name
from harness.report.wording import batch, percent, ratio, tok_s
from harness.spec.data import devices


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
    h100, h200 = (devices()[name].display_name for name in ("h100", "h200"))
    ours, theirs = efficiency.by_device[h100], efficiency.by_device[h200]
    assert efficiency.errors == {h100: pytest.approx(theirs / ours - 1), h200: pytest.approx(ours / theirs - 1)}
    assert efficiency.errors[h200] > 0  # half as fast, on a device whose floor is higher


def test_a_row_of_another_shape_teaches_nothing(tmp_path: Path) -> None:
    runs = [released(tmp_path, pass_s=usual), write_run(tmp_path, Scenario(pass_s=lambda cell: 1e-4))]
    both, alone = (analyse([load_run(run) for run in some]).predictions for some in (runs, runs[:1]))
    assert both.efficiencies == alone.efficiencies


def test_a_shape_that_nobody_published_is_predicted_from_its_own_rows_alone(tmp_path: Path) -> None:
    found = analyse([load_run(write_run(tmp_path))]).predictions
    assert (found.is_released, found.model) == (False, "mini")
    assert {one.source for one in found.efficiencies.values()} == {"measured"}


def test_efficiencies_move_the_crossover(unmeasured: Analysis) -> None:
    """With both at one share it is that of the floors; the better diffusion is, the later it comes."""

    def shares(diffusion: float) -> dict[str, Efficiency]:
        plain = {"source": "measured", "low": 0.1, "high": 0.9, "count": 1, "by_device": {}, "errors": {}}
        return {
            BLOCK_DIFFUSION: Efficiency(decoding=BLOCK_DIFFUSION, median=diffusion, **plain),  # type: ignore[arg-type]
            AUTOREGRESSIVE: Efficiency(decoding=AUTOREGRESSIVE, median=0.5, **plain),  # type: ignore[arg-type]
        }

    one = of(unmeasured.predictions, "h200")
    assert crossings_expected(one, shares(0.5)) == one.crossings()
    assert (crossings_expected(one, shares(0.6)) or [0])[0] > one.crossings()[0]
    assert crossings_expected(one, {}) is None


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
        assert row[5] == (batch(one["crossings_at_floors"][0]) if one["crossings_at_floors"] else f"none to {last}")
        price = devices()[one["device"]].price_usd_per_hour.value
        assert row[7] == (
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
    said = f"{tok_s(speeds[slowest])} on {names[slowest]} to {tok_s(speeds[fastest])} on {names[fastest]} (tok/s)"
    assert said in page
    places = sorted(one["crossings_at_floors"][-1] for one in found["devices"] if one["crossings_at_floors"])
    assert f"the lead changes at batch {batch(places[0])} on" in page
    assert f"to {batch(places[-1])} on" in page
    for one in found["efficiencies"]:
        assert f"{percent(one['median'])} of the floor for" in page


def test_predictions_say_that_they_are_predicted_and_from_which_rows(measured: Analysis, page: str) -> None:
    assert "PREDICTED: diffusiongemma_26b_a4b, 16 steps" in page
    assert "figures published" in page
    own = build_page(measured)
    assert "rows measured, 2 devices" in own
    assert "measured here" in own
