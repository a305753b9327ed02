"""Floors of what really ran: the probe's roofs, the experts that were read, and the metrics that come of both."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from synthetic import ENVIRONMENT, Scenario, write_run
from test_cost_and_floor import RELEASED, K, cell, device, table

from harness.analysis.analyse import analyse
from harness.analysis.floors import Floors, PassFloor, experts_hit_of, floors_of
from harness.analysis.metrics import METRICS, Missing
from harness.analysis.rows import BELOW_FLOOR, UNBALANCED
from harness.analysis.run_data import load_run
from harness.measuring import roof
from harness.spec import floor

Json = dict[str, Any]
BANDWIDTH, RATE = 2e9, 3e12


def document(rates: dict[str, float], bandwidth: float | None = BANDWIDTH) -> str:
    return json.dumps({"roof_schema": 1, "bandwidth_bytes_s": bandwidth, "flops_s": rates, "missing": {}})


def cells_of(run_dir: Path) -> dict[str, Json]:
    found = analyse([load_run(run_dir)]).to_json()["cells"]
    return {one["cell_id"]: one for one in json.loads(json.dumps(found, allow_nan=False))}


@pytest.fixture(scope="module")
def without_datasheet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a device without roofs, whose machine was probed."""
    run_dir = write_run(tmp_path_factory.mktemp("run"), Scenario(roofs=False))
    (run_dir / f"roof-{ENVIRONMENT.environment_id}.json").write_text(document({"bfloat16": RATE}))
    return run_dir


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a device with roofs, whose machine was probed: the probe found twice of everything."""
    run_dir = write_run(tmp_path_factory.mktemp("run"))
    (run_dir / f"roof-{ENVIRONMENT.environment_id}.json").write_text(document({"bfloat16": 4e12}, 2e9))
    return run_dir


def seconds_of(entry: Json, executed: dict[str, int], bandwidth: float, rate: float) -> tuple[float, float]:
    """Moving and computing seconds of the executed passes, from the plan's own bytes and FLOPs."""
    moving = computing = 0.0
    for kind, count in executed.items():
        if count:
            phase = entry["phases"][kind]
            moving += phase["bytes"] / phase["count"] * count / bandwidth
            computing += phase["flops"] / phase["count"] * count / rate
    return moving, computing


@pytest.mark.parametrize("metric", ["bound_share", "mbu", "mfu"])
def test_shares_of_the_roofs_are_bytes_and_flops_over_time(without_datasheet: Path, metric: str) -> None:
    entries = {one["cell_id"]: one for one in json.loads((without_datasheet / "plan.json").read_text())["cells"]}
    rows = cells_of(without_datasheet)
    for record in load_run(without_datasheet).final.values():
        values = []
        for round in record.rounds:
            moving, computing = seconds_of(entries[record.cell_id], round.passes, BANDWIDTH, RATE)
            share = {"mbu": moving, "mfu": computing, "bound_share": max(moving, computing)}[metric]
            values.append(share / round.wall_s)
        assert rows[record.cell_id]["metrics"][metric]["value"] == pytest.approx(sorted(values)[len(values) // 2])


def test_a_device_without_roofs_gets_its_floors_from_the_probe_and_says_so(without_datasheet: Path) -> None:
    for row in cells_of(without_datasheet).values():
        assert (row["floor_roof"], row["floor_experts"]) == ("measured", "uniform")
        assert row["metrics"]["floor_share"] == row["metrics"]["measured_floor_share"]
        assert row["metrics"]["bound_share"]["value"] <= row["metrics"]["floor_share"]["value"] * (1 + 1e-9)


def test_the_datasheet_comes_first_and_the_measured_roof_stands_beside_it(both: Path) -> None:
    for row in cells_of(both).values():
        assert row["floor_roof"] == "datasheet"
        twice = 2 * row["metrics"]["measured_floor_share"]["value"]
        assert row["metrics"]["floor_share"]["value"] == pytest.approx(twice)


def test_without_a_probe_the_reason_stands_where_the_share_would(tmp_path: Path) -> None:
    for row in cells_of(write_run(tmp_path, Scenario(roofs=False))).values():
        assert "no roof: bandwidth, bfloat16 rate, and none was measured" in row["missing"]["floor_share"]
        assert row["floor_roof"] is None


def test_a_probe_in_another_dtype_gives_no_floor(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path, Scenario(roofs=False))
    (run_dir / f"roof-{ENVIRONMENT.environment_id}.json").write_text(document({"float32": RATE}))
    for row in cells_of(run_dir).values():
        assert row["missing"]["floor_share"] == "device as measured has no roof: bfloat16 rate"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"bandwidth_bytes_s": "fast", "flops_s": [1]}'])
def test_a_damaged_probe_costs_the_floors_and_nothing_else(tmp_path: Path, text: str) -> None:
    run_dir = write_run(tmp_path, Scenario(roofs=False))
    (run_dir / f"roof-{ENVIRONMENT.environment_id}.json").write_text(text)
    for row in cells_of(run_dir).values():
        assert "useful_tok_s" in row["metrics"]
        assert row["missing"]["floor_share"]


def test_the_speedup_at_the_floors_times_the_ratio_of_floor_shares_is_the_measured_one(both: Path) -> None:
    run = load_run(both)
    for planned in run.cells:
        if planned.twin_id is None:
            continue
        records = run.final[planned.cell_id, 0], run.final[planned.twin_id, 0]
        floors = [floors_of(record, run.planned[record.cell_id], run) for record in records]
        for round, twin in zip(records[0].rounds, records[1].rounds, strict=True):
            own, other = (METRICS["floor_share"].compute(*pair) for pair in zip((round, twin), floors, strict=True))
            limit = METRICS["limit_speedup_vs_ar"].compute(round, floors[0], twin, floors[1])
            assert limit * own / other == pytest.approx(METRICS["speedup_vs_ar"].compute(round, twin))


def test_twins_are_marked_unbalanced_by_measured_roofs_too(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path, Scenario(roofs=False, pass_s=lambda c: 0.01 if c.block_length else 0.5))
    (run_dir / f"roof-{ENVIRONMENT.environment_id}.json").write_text(document({"bfloat16": RATE}))
    assert any(UNBALANCED in row["marks"] for row in cells_of(run_dir).values())


def test_what_beats_its_floor_is_marked(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path, Scenario(roofs=False))
    (run_dir / f"roof-{ENVIRONMENT.environment_id}.json").write_text(document({"bfloat16": 1e3}, 1e3))
    assert all(BELOW_FLOOR in row["marks"] for row in cells_of(run_dir).values())


def test_measured_experts_take_the_place_of_the_expectation() -> None:
    """At batch 1 uniform routing reads all 128 experts for a canvas of 256; a record that saw 32 moves a quarter."""
    one = cell(output_tokens=256)
    usual, seen = (floor.one_step_of(one, RELEASED, device(), hits) for hits in ({}, {"denoise": 32.0}))
    moved = [phases["denoise"].operations["experts"].bytes for phases in (usual, seen)]
    rows = 30 * 256 * K * (2 * 2816 + 3 * 704) * 2
    assert (moved[1] - rows) == pytest.approx((moved[0] - rows) / 4, rel=1e-6)
    assert moved[0] == pytest.approx(table("denoise", 1, 256, 1024, 2)["experts"][0], rel=1e-9)
    assert usual["prefill"].operations == seen["prefill"].operations


def test_experts_of_a_record_are_the_mean_over_passes_and_layers_by_kind(both: Path) -> None:
    record = next(iter(load_run(both).final.values()))
    counters = {"kinds": ["denoise", "denoise", "decode"], "expert_hits": [[4, 6], [8, 5], [2, 2]]}
    assert experts_hit_of(dataclasses.replace(record, counters=counters)) == {"denoise": 5.75, "decode": 2.0}
    assert experts_hit_of(dataclasses.replace(record, counters={})) == {}


def test_a_record_with_counted_experts_says_that_its_floor_uses_them(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path)
    (path,) = run_dir.glob("records-*.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line["counters"]["kinds"] = ["decode" if line["cell"]["block_length"] is None else "denoise"] * 2
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for row in cells_of(run_dir).values():
        assert row["floor_experts"] == "measured"
        assert row["metrics"]["floor_share"]["value"] > 0


def test_a_plan_of_an_earlier_version_keeps_its_floors(tmp_path: Path) -> None:
    """Such a plan holds no shape: floors are the plan's own, and what needs bytes is missing."""
    before = cells_of(write_run(tmp_path / "now"))
    run_dir = write_run(tmp_path / "then")
    plan = json.loads((run_dir / "plan.json").read_text())
    del plan["model"]["shape"]
    (run_dir / "plan.json").write_text(json.dumps(plan))
    for cell_id, row in cells_of(run_dir).items():
        then, now = (one["metrics"]["floor_share"]["value"] for one in (row, before[cell_id]))
        assert then == pytest.approx(now, rel=1e-12)
        assert "earlier version" in row["missing"]["mbu"]


def test_a_pass_that_the_plan_does_not_hold_has_no_floor() -> None:
    floors = Floors("datasheet", "uniform", {"denoise": PassFloor(1.0, 1.0, 1.0)})
    with pytest.raises(Missing, match="no verify pass"):
        floors.floor_s({"denoise": 2, "verify": 3})
    with pytest.raises(Missing, match="counted no passes"):
        floors.floor_s({})


def test_the_probe_is_short_and_finds_rates_that_a_plain_product_does_not_beat() -> None:
    begun = time.perf_counter()
    found = roof.probe("cpu", ["float32", "float8_e4m3"])
    spent_s = time.perf_counter() - begun
    assert spent_s < 10  # two seconds on a quiet machine
    assert "float8_e4m3" in found["missing"]["flops_s.float8_e4m3"]
    a = torch.randn(512, 512)
    begun = time.perf_counter()
    a @ a
    assert 2 * 512**3 / (time.perf_counter() - begun) < 3 * found["flops_s"]["float32"]
    big = torch.ones(found["buffer_bytes"] // 4)
    begun = time.perf_counter()
    big.sum()
    assert big.nbytes / (time.perf_counter() - begun) < 3 * found["bandwidth_bytes_s"]


def test_a_machine_is_probed_once_and_only_with_a_backend_that_computes_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probes: list[str] = []
    monkeypatch.setattr(roof, "probe", lambda device, dtypes: probes.append(device) or {"device": device})
    roof.keep(tmp_path, "e1", "cpu", ["float32"])
    roof.keep(tmp_path, "e1", "cpu", ["float32"])
    roof.keep(tmp_path, "e2", "cpu", ["float32"])
    monkeypatch.delitem(roof.sys.modules, "torch")
    roof.keep(tmp_path, "e3", "cpu", ["float32"])
    assert probes == ["cpu", "cpu"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["roof-e1.json", "roof-e2.json"]
