"""Joules and dollars of made-up records, recomputed here by plain arithmetic."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic import Scenario, plan_of, record_of, write_run
from whole import with_data

from harness.analysis.analyse import analyse
from harness.analysis.metrics import METRICS, Missing
from harness.analysis.metrics import energy as declared
from harness.analysis.run_data import CellPlan, load_run
from harness.records.types import AUTOREGRESSIVE, Record
from harness.report import frame

# Two requests in 10 s, 500 W, of which the idle machine takes 100 W; half of the computed positions are useful.
WINDOW: dict[str, Any] = {
    "window_s": 10.0, "energy_j": 5000.0, "idle_w": 100.0, "num_requests": 2, "useful_tokens": 400, "raw_tokens": 800,
    "missing": {},
}  # fmt: skip
ENERGY = [name for name, metric in METRICS.items() if metric.function.__module__ == declared.__name__]
OF_A_WINDOW = [name for name in ENERGY if name.startswith("energy_")]


def made(decoding: str = "block_diffusion", price: float | None = None, **changes: Any) -> tuple[Record, CellPlan]:
    scenario = Scenario(axes={"batch_size": [2], "block_length": [128], "num_steps": [8], "output_tokens": [256]})
    cell = next(one.cell for one in plan_of(scenario).cells if one.cell.decoding == decoding)
    record = replace(record_of(scenario, cell, 0, "r"), energy=WINDOW)
    plan = CellPlan(
        cell=cell, cell_id="", twin_id=None, floor_basis="exact", phases={}, missing={}, price_usd_per_hour=price
    )
    return replace(record, **changes), plan


def converging(settled_steps: list[Any]) -> Record:
    """Two canvases of 4 and 2 steps; a step takes a second, and the request 10 s."""
    record, _ = made()
    first = replace(record.rounds[0], steps_per_canvas=((4, 2), (3, 2)), step_s=(1.0,) * 6, wall_s=10.0)
    return replace(record, rounds=(first,), counters={"settled_steps": settled_steps})


def value(name: str, record: Record, plan: CellPlan | None = None) -> float:
    return METRICS[name].compute(record, plan or made()[1])


def test_energy_is_per_useful_token_with_and_without_what_the_idle_machine_takes() -> None:
    record, plan = made()
    assert value("energy_per_useful_token_j", record, plan) == 5000 / 400
    assert value("energy_above_idle_per_useful_token_j", record, plan) == (5000 - 100 * 10) / 400


def test_energy_behind_the_end_is_the_useless_positions_share_of_a_request() -> None:
    assert value("energy_after_eos_j", made()[0]) == 2500 / 2


def test_energy_behind_convergence_is_the_time_share_of_steps_after_the_last_change() -> None:
    """Canvas 0: rows settle at steps 2 and 3 of 4, so 1.5 s are behind. Canvas 1: one row at 1 of 2, so 1 s."""
    record = converging([[[1, 2], [3, 1]], [[1, 1], []]])
    assert value("energy_after_convergence_j", record) == pytest.approx(2500 * (1.5 + 1.0) / 10)


def test_a_canvas_that_changes_until_its_last_step_wastes_nothing() -> None:
    assert value("energy_after_convergence_j", converging([[[4], [4]], [[2], [2]]])) == 0


@pytest.mark.parametrize(
    ("record", "reason"),
    [(converging([]), "was not counted"), (converging([[[1], [1]]]), "do not belong together")],
)
def test_convergence_is_missing_where_steps_and_counts_do_not_fit(record: Record, reason: str) -> None:
    with pytest.raises(Missing, match=reason):
        value("energy_after_convergence_j", record)


def test_autoregressive_decoding_does_not_converge() -> None:
    record, plan = made(AUTOREGRESSIVE)
    with pytest.raises(Missing, match="no canvas"):
        value("energy_after_convergence_j", record, plan)


@pytest.mark.parametrize("name", OF_A_WINDOW)
@pytest.mark.parametrize(
    ("energy", "reason"),
    [
        ({}, "not asked for"),
        ({"reason": "no_nvml", "why": "no NVML: gone", "num_requests": 0}, "no_nvml: no NVML: gone"),
    ],
)
def test_where_there_is_no_energy_every_metric_of_it_says_why(name: str, energy: dict[str, Any], reason: str) -> None:
    record = replace(converging([[[1], [1]]] * 2), energy=energy)
    with pytest.raises(Missing, match=reason):
        value(name, record)


def test_without_an_idle_power_energy_above_it_is_missing_and_energy_is_not() -> None:
    window = {key: WINDOW[key] for key in WINDOW if key != "idle_w"} | {"missing": {"idle_w": "a foreign process"}}
    record, plan = made(energy=window)
    assert value("energy_per_useful_token_j", record, plan) == 12.5
    with pytest.raises(Missing, match="a foreign process"):
        value("energy_above_idle_per_useful_token_j", record, plan)


@pytest.mark.parametrize("name", OF_A_WINDOW)
@pytest.mark.parametrize("damage", [{"energy_j": "much"}, {"energy_j": None, "missing": "gone"}, {"num_requests": []}])
def test_a_damaged_window_is_missing_and_no_traceback(name: str, damage: dict[str, Any]) -> None:
    record = replace(converging([[[1], [1]]] * 2), energy={**dict.fromkeys(WINDOW, "much"), **damage})
    with pytest.raises(Missing, match="not recorded"):
        value(name, record)


def test_a_million_tokens_cost_the_hours_that_they_take() -> None:
    """500 tokens in 0.5 s are a million in 1000 s, or 0.2778 hours at 3.60 USD: 1 USD."""
    record, plan = made(price=3.6)
    round = replace(record.rounds[0], wall_s=0.5, useful_tokens=(200, 300))
    assert METRICS["usd_per_million_useful_tokens"].compute(round, plan) == pytest.approx(1.0)


def test_a_device_without_a_price_has_no_cost() -> None:
    record, plan = made()
    with pytest.raises(Missing, match="no price"):
        METRICS["usd_per_million_useful_tokens"].compute(record.rounds[0], plan)


def test_the_page_shows_energy_and_cost_and_the_prices_source_and_date(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path, Scenario(axes={"batch_size": [1], "num_steps": [8], "block_length": [128]}))
    plan = json.loads((run_dir / "plan.json").read_text())
    plan["device"]["price_usd_per_hour"] = {"value": 2.5, "source": "a price list, March 2026", "note": "spot is less"}
    (run_dir / "plan.json").write_text(json.dumps(plan))
    (path,) = run_dir.glob("records-*.jsonl")
    lines = [{**json.loads(line), "energy": WINDOW} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    analysis = analyse([load_run(run_dir)])
    for row in analysis.rows:
        assert row.value("energy_per_useful_token_j") == 12.5
        assert (row.value("usd_per_million_useful_tokens") or 0) > 0
    page = with_data(frame.build_page(analysis))
    assert "energy a useful token, J" in page
    assert "2.5 USD per hour (a price list, March 2026; spot is less)" in page[page.index('id="manifest"') :]


def test_a_price_that_is_no_number_is_none(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path)
    plan = json.loads((run_dir / "plan.json").read_text())
    for price in ("much", {"value": "much"}, None):
        plan["device"]["price_usd_per_hour"] = price
        (run_dir / "plan.json").write_text(json.dumps(plan))
        assert {planned.price_usd_per_hour for planned in load_run(run_dir).cells} == {None}


@pytest.mark.parametrize("name", [name for name in ENERGY if name.endswith(("convergence_j", "eos_j"))])
def test_what_is_estimated_is_called_an_estimate(name: str) -> None:
    assert METRICS[name].unit.endswith("estimate")
    assert METRICS[name].formula.startswith("An estimate: ")
