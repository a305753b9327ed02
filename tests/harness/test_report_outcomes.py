"""What became of every cell, and how to repeat the run: all of it is on the page."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from pages import analysed, island_of, parsed
from synthetic import Scenario, write_run
from whole import build_page

from harness.analysis.analyse import Analysis, analyse
from harness.analysis.run_data import load_run
from harness.report import outcomes


def test_skips_are_listed_with_their_reasons(tmp_path: Path) -> None:
    scenario = Scenario(exclude=[{"batch_size": [4], "block_length": [256], "reason": "not <asked>"}])
    (one,) = outcomes.outcomes(analysed(tmp_path, scenario))
    assert (one.status, one.reason, one.count) == ("skipped", "excluded by the suite: not <asked>", 2)
    assert one.among == "batch 4; block 256"


def test_the_outcomes_count_every_cell_without_a_number_once(analysis: Analysis, frame: pd.DataFrame) -> None:
    shown = outcomes.outcomes(analysis)
    counts = frame.status[frame.status != "ok"].value_counts().to_dict()
    if analysis.skipped:
        counts["skipped"] = len(analysis.skipped)
    for status, count in counts.items():
        assert sum(one.count for one in shown if one.status == status) == count
    assert {one.status for one in shown} == set(counts)


def test_a_pruned_cell_is_not_shown_as_a_measured_out_of_memory(tmp_path: Path) -> None:
    found = {1: "ok", 4: "oom", 16: "pruned"}
    page = build_page(analysed(tmp_path, Scenario(outcome=lambda cell, _: found[cell.batch_size])))
    island = island_of(page)
    shown = pd.DataFrame(island["rows"], columns=[column["key"] for column in island["columns"]])
    assert {size: set(rows.status) for size, rows in shown.groupby("batch_size")} == {k: {v} for k, v in found.items()}
    assert "out of memory at batch 4, so batch 16 was not tried" in " ".join(parsed(page).texts)


def test_reasons_that_differ_in_numbers_alone_are_one_line(tmp_path: Path) -> None:
    runs = [
        load_run(write_run(tmp_path, Scenario(outcome=lambda cell, _: "oom", reason=f"needs {size} of 80 GB")))
        for size in ("1,200.5", "90")
    ]
    (one,) = outcomes.outcomes(analyse(runs))
    assert (one.count, one.reason) == (30, "needs 1,200.5 of 80 GB (and 1 reason like it with other numbers)")


def test_the_coverage_of_a_device_sums_its_runs(tmp_path: Path) -> None:
    scenarios = [Scenario(), Scenario(name="b"), Scenario(name="c", display_name="Other", outcome=lambda c, _: "oom")]
    columns, devices = outcomes.coverage_by_device(analyse([load_run(write_run(tmp_path, s)) for s in scenarios]))
    counts = {name: dict(zip(columns, values, strict=True)) for name, values in devices}
    assert (counts["Made-up GPU 80 GB"]["planned"], counts["Made-up GPU 80 GB"]["ok"]) == (30, 30)
    assert (counts["Other"]["planned"], counts["Other"]["oom"]) == (15, 15)


def test_a_status_leads_to_its_rows(page: str, frame: pd.DataFrame) -> None:
    links = {a["data-filter"] for _, a in parsed(page).tags if (a.get("data-filter") or "").startswith("status=")}
    assert links >= {f"status={status}" for status in set(frame.status) - {"ok"}}


def test_warnings_stand_on_the_page(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path, Scenario(outcome=lambda cell, _: "interrupted" if cell.batch_size == 4 else "ok"))
    (path,) = run_dir.glob("records-*.jsonl")
    path.write_bytes(path.read_bytes()[:-50])
    texts = " ".join(parsed(build_page(analyse([load_run(run_dir)]))).texts)
    assert "torn" in texts
    assert "attempts that were interrupted: 5; the rounds that they finished are kept and not counted: 10" in texts


def test_the_manifest_tells_how_to_repeat_the_run(tmp_path: Path) -> None:
    page = build_page(analysed(tmp_path, Scenario(discarded=("throttled",), warnings=("the clock fell",))))
    for said in (
        "python -m harness run suite=made_up",
        "0123abcd",
        "15 x throttled",
        "the clock fell",
        "seed",
        "driver",
    ):
        assert said in page
