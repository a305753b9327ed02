"""On a CPU two clocks are compared, and the page says which is which; and what the cold request says."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

import pytest
from synthetic import Scenario, write_run
from whole import with_data

from harness.analysis.analyse import Analysis, analyse
from harness.analysis.run_data import load_run
from harness.report.frame import build_page
from harness.report.headlines import tiles, verdict
from harness.report.qualifiers import qualifiers

ON_CPU = Scenario(on_cpu=True, diffusion_cpu_share=0.1)


def analysed(folder: Path, scenario: Scenario) -> Analysis:
    return analyse([load_run(write_run(folder, scenario))])


def test_the_speed_up_in_cpu_time_is_that_of_tokens_per_cpu_second_round_by_round(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path, ON_CPU)
    (path,) = run_dir.glob("records-*.jsonl")
    rounds = {line["cell_id"]: line["rounds"] for line in map(json.loads, path.read_text().splitlines())}
    rows = [row for row in analyse([load_run(run_dir)]).rows if row.twin_id]
    assert rows
    for row in rows:
        pairs = zip(rounds[row.cell_id], rounds[str(row.twin_id)], strict=True)
        ratios = [
            sum(one["useful_tokens"]) / one["cpu_s"] / (sum(other["useful_tokens"]) / other["cpu_s"])
            for one, other in pairs
        ]
        assert row.metrics["cpu_speedup_vs_ar"].value == pytest.approx(median(ratios))


def test_with_a_device_cpu_time_is_not_compared(tmp_path: Path) -> None:
    analysis = analysed(tmp_path, Scenario())
    assert not any("cpu_speedup_vs_ar" in row.metrics for row in analysis.rows)
    assert "CPU time" not in verdict(analysis.headlines[0]) + " ".join(qualifiers(analysis))


def test_on_a_cpu_the_headline_names_both_clocks(tmp_path: Path) -> None:
    (headline,) = analysed(tmp_path, ON_CPU).headlines
    assert headline.diffusion is not None
    told = verdict(headline)
    assert "useful tok/s of wall time; by CPU time block diffusion is" in told
    in_cpu_time = headline.diffusion.metrics["cpu_speedup_vs_ar"].value
    assert in_cpu_time > 5 * headline.diffusion.metrics["speedup_vs_ar"].value
    assert f"{in_cpu_time:.0f}x faster" in told


def test_on_a_cpu_the_page_shows_both_columns_and_says_which_is_which(tmp_path: Path) -> None:
    analysis = analysed(tmp_path, ON_CPU)
    page = with_data(build_page(analysis))
    assert "speed-up in CPU time" in page
    assert "Two clocks: speed-ups and tok/s are of wall time" in page
    speedup = next(tile for tile in tiles(analysis.headlines[0], analysis) if tile.name.startswith("speed-up"))
    assert "by wall time" in speedup.notes
    assert any(note.startswith("by CPU time ") for note in speedup.notes)


def test_the_cold_request_is_a_metric_of_its_own(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path, Scenario())
    (path,) = run_dir.glob("records-*.jsonl")
    cold_s = {line["cell_id"]: line["course"]["cold_s"] for line in map(json.loads, path.read_text().splitlines())}
    for row in analyse([load_run(run_dir)]).rows:
        assert row.metrics["cold_s"].value == cold_s[row.cell_id]
