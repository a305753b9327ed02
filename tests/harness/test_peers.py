"""A suite's peer: the same cells on another backend, interleaved in one process, with ratios in both directions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from synthetic import Scenario, plan_of, usual_pass_s, write_run
from test_session import Notes

from harness.analysis.analyse import Analysis, analyse
from harness.analysis.run_data import load_run
from harness.analysis.values import PEER_KEYS, differing_keys
from harness.measuring.jobs import due_jobs, of_one_process
from harness.measuring.session import Session
from harness.records import store
from harness.records.journal import RoundJournal
from harness.records.types import Cell
from harness.report.frame import build_page
from harness.report.terminal import result_text
from harness.spec.config import ConfigError
from harness.spec.plan import build, identified
from harness.spec.suite import compose

AXES: dict[str, list[Any]] = {"batch_size": [1, 4], "block_length": [16], "num_steps": [4], "output_tokens": [32]}


def slow_peer(cell: Cell) -> float:
    """The peer takes three times as long in a denoise step and half as long in a decoded token."""
    factor = 1.0 if cell.backend == "reference" else 3.0 if cell.block_length else 0.5
    return factor * usual_pass_s(cell)


def scenario(**changes: Any) -> Scenario:
    return Scenario(axes=AXES, peer="transformers", pass_s=slow_peer, **changes)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("peers"), scenario())


@pytest.fixture(scope="module")
def analysis(run_dir: Path) -> Analysis:
    return analyse([load_run(run_dir)])


def test_every_cell_has_the_same_cell_on_the_peer_and_both_are_in_one_group() -> None:
    plan = plan_of(scenario())
    by_id = {p.cell_id: p for p in plan.cells}
    ours = [p for p in plan.cells if p.cell.backend == "reference"]
    assert len(plan.cells) == 2 * len(ours) == 8
    for planned in ours:
        peer = by_id[str(planned.peer_id)]
        assert replace(peer.cell, backend="reference", options=planned.cell.options) == planned.cell
        assert peer.group_id == planned.group_id
        assert peer.peer_id is None
        assert peer.twin_id is None or by_id[peer.twin_id].cell.backend == "transformers"
    assert [len(group) for group in plan.groups.values()] == [4, 4]


def test_without_a_peer_nothing_changes() -> None:
    plan = plan_of(Scenario(axes=AXES))
    assert len(plan.cells) == 4
    assert all(p.peer_id is None and p.group_id == (p.twin_id or p.cell_id) for p in plan.cells)


def test_ratios_divide_rounds_of_one_index_of_both_backends(run_dir: Path, analysis: Analysis) -> None:
    lines = [json.loads(line) for path in run_dir.glob("records-*.jsonl") for line in path.read_text().splitlines()]
    rounds = {line["cell_id"]: line["rounds"] for line in lines}
    ours = [row for row in analysis.rows if row.peer_id]
    assert len(ours) == 4
    for row in ours:
        pairs = list(zip(rounds[row.cell_id], rounds[str(row.peer_id)], strict=True))
        steps = [median(theirs["step_s"]) / median(own["step_s"]) for own, theirs in pairs]
        whole = [theirs["wall_s"] / own["wall_s"] for own, theirs in pairs]  # with eos ignored, of equal tokens
        assert row.metrics["peer_step_speedup"].value == pytest.approx(median(steps))
        assert row.metrics["peer_speedup"].value == pytest.approx(median(whole))


def test_the_peers_own_cells_have_no_ratio(analysis: Analysis) -> None:
    for row in analysis.rows:
        if row.cell.backend == "transformers":
            assert row.missing["peer_step_speedup"] == "it is the peer itself"
            assert row.is_autoregressive or "speedup_vs_ar" in row.metrics


def test_the_headline_speaks_of_the_suites_own_backend(tmp_path: Path) -> None:
    faster = Scenario(axes=AXES, peer="transformers", pass_s=lambda c: 0.1 if c.backend == "reference" else 0.01)
    headline = analyse([load_run(write_run(tmp_path, faster))]).headlines[0]
    assert headline.diffusion is not None and headline.diffusion.cell.backend == "reference"


def test_page_and_terminal_say_both_directions(analysis: Analysis) -> None:
    told = "a denoise step 3.0"
    for text in (result_text(analysis), build_page(analysis)):
        assert told in text or "a denoise step 2.9" in text
        assert "a decoded token 0." in text
        assert "below 1 it is slower" in text
    assert "Is this engine faster than its peer?" in build_page(analysis)


def test_with_a_process_for_each_backend_times_stand_side_by_side_without_a_ratio(tmp_path: Path) -> None:
    analysis = analyse([load_run(write_run(tmp_path, scenario(isolation="backend")))])
    for row in analysis.rows:
        assert "peer_speedup" not in row.metrics
        assert row.is_autoregressive or "speedup_vs_ar" in row.metrics
        if row.peer_id:
            assert "isolation=backend" in row.missing["peer_speedup"]
    assert "no ratio: not of one process" in build_page(analysis)


def test_backends_that_may_share_no_process_get_one_each() -> None:
    plan = plan_of(scenario(isolation="backend"))
    jobs = due_jobs(plan, {})
    first = of_one_process(jobs, plan)
    assert {p.cell.backend for job in first for p, _ in job.members} == {first[0].backend}
    assert len(first) == 2 and len(jobs) == 4


def test_peers_may_differ_in_backend_and_own_options_alone() -> None:
    plan = plan_of(scenario())
    cell = plan.cells[0].cell
    peer = replace(cell, backend="transformers", options={"synthetic": True, "window": "sdpa", "cache": "dynamic"})
    assert differing_keys(cell, peer, PEER_KEYS) == []
    other = replace(peer, kv_dtype="float32", options={"window": "symmetric"})
    assert differing_keys(cell, other, PEER_KEYS) == ["kv_dtype", "options.window"]


def test_a_cell_that_goes_on_is_measured_with_its_peer_and_its_twin_again(run_dir: Path) -> None:
    plan = plan_of(scenario())
    final = store.read_records(run_dir).final
    due = next(p for p in plan.cells if p.peer_id and p.twin_id)
    left = {key: record for key, record in final.items() if record.cell_id != due.cell_id}
    (job,) = due_jobs(plan, left)
    assert {p.cell_id for p, _ in job.members} == {p.cell_id for p in plan.groups[due.group_id]}


def test_rounds_of_both_backends_take_turns(tmp_path: Path) -> None:
    config = compose(
        ["backend=fake", "peer=other", "axes.batch_size=[1]", "axes.block_length=[16]", "axes.num_steps=[2]"],
        backends=["fake", "other"],
    )
    plan = identified(build(config), {})
    backends = {"fake": Notes(), "other": Notes()}
    backends["other"].calls = backends["fake"].calls  # one list, in the order of time
    writer, journal = store.RecordWriter(tmp_path, "w"), RoundJournal(tmp_path, "w")
    session = Session(
        plan=plan, run_id="r", worker="w", environment_id="e", backends=backends, writer=writer, journal=journal,
        tell=lambda event: None,
    )  # fmt: skip
    for job in due_jobs(plan, {}):
        session.measure(job)
    writer.close()
    journal.close()
    measured = [(cell_id, seed) for stage, cell_id, seed in backends["fake"].calls if stage == "measure"]
    everyone = {p.cell_id for p in plan.cells}
    for index in range(3):
        assert {cell_id for cell_id, seed in measured[4 * index : 4 * index + 4] if seed == index} == everyone
    assert (backends["fake"].loads, backends["other"].loads) == (1, 1)


@pytest.mark.parametrize(("peer", "message"), [("fake", "is the backend itself"), ("transformer", "transformers")])
def test_a_peer_that_is_none_is_refused(peer: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose(["backend=fake", f"peer={peer}"], backends=["fake", "transformers"])


def test_two_models_that_do_not_fit_one_device_are_skipped_with_the_way_out() -> None:
    words = ["suite=peers_h100", "isolation=launch"]
    plan = build(compose(words, backends=["reference", "transformers"]))
    assert not plan.cells
    assert all("isolation=backend" in skipped.reason for skipped in plan.skipped)
