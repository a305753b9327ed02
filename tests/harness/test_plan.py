"""The grid, its twins, its skips, and the name of its run."""

from __future__ import annotations

import dataclasses
import json

import pytest

from harness.records.types import AUTOREGRESSIVE
from harness.report.plan_text import plan_text
from harness.spec.config import SuiteConfig
from harness.spec.plan import Plan, build, identified
from harness.spec.plan_json import to_json
from harness.spec.suite import compose


def planned(*words: str) -> Plan:
    return build(compose(list(words), backends=["reference", "fake"]))


def test_every_combination_of_the_axes_is_a_cell_with_one_twin_a_group() -> None:
    plan = planned("axes.batch_size=[1,2]", "axes.block_length=[8,16]", "axes.num_steps=[2,4,8]")
    diffusion = [p for p in plan.cells if p.twin_id]
    assert len(diffusion) == 2 * 2 * 3
    assert len(plan.groups) == len(plan.cells) - len(diffusion) == 2


def test_a_groups_first_cell_is_its_anchor_and_the_twin_of_all_others() -> None:
    for group in planned().groups.values():
        anchor, *others = group
        assert anchor.cell.decoding == AUTOREGRESSIVE
        for other in others:
            same = dataclasses.asdict(anchor.cell) | {"decoding": 0, "block_length": 0, "num_steps": 0, "stopping": 0}
            assert (
                dataclasses.asdict(other.cell) | {"decoding": 0, "block_length": 0, "num_steps": 0, "stopping": 0}
                == same
            )
            assert other.twin_id == anchor.cell.cell_id


def test_autoregressive_cells_alone_can_be_asked_for() -> None:
    plan = planned("axes.decoding=[autoregressive]")
    assert {p.cell.decoding for p in plan.cells} == {AUTOREGRESSIVE}
    assert all(p.cell.num_steps is None and p.twin_id is None for p in plan.cells)


def test_a_cells_id_depends_on_every_field() -> None:
    cell = planned().cells[1].cell
    for field in dataclasses.fields(cell):
        changed = dataclasses.replace(cell, **{field.name: "another" if field.name != "options" else {"a": 1}})
        assert changed.cell_id != cell.cell_id, field.name


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["axes.batch_size=[129]"], "needs more than the"),
        (["axes.prompt_tokens=[9000]"], "positions, the model has 8192"),
        (["suite=h100", "axes.batch_size=[64]", "axes.block_length=[512]"], "GB (predicted), h100 has"),
        (["exclude=[{batch_size: [1], reason: too slow}]", "axes.batch_size=[1]"], "excluded by the suite: too slow"),
    ],
)
def test_a_cell_that_cannot_run_is_skipped_with_its_reason(words: list[str], reason: str) -> None:
    assert any(reason in skipped.reason for skipped in planned(*words).skipped)


def test_repeat_prompts_allows_batches_larger_than_the_prompt_set() -> None:
    assert planned("axes.batch_size=[129]", "repeat_prompts=true").cells


def test_the_run_id_is_the_same_for_the_same_question_on_the_same_machine() -> None:
    assert (
        identified(planned(), {"identity": {"cpu": "x"}}).run_id
        == identified(planned(), {"identity": {"cpu": "x"}}).run_id
    )


@pytest.mark.parametrize("word", ["seed=1", "axes.batch_size=[1]", "protocol.rounds=9", "model.window=symmetric"])
def test_the_run_id_changes_with_what_is_measured(word: str) -> None:
    assert identified(planned(word), {}).run_id != identified(planned(), {}).run_id


def test_the_run_id_changes_with_the_words_of_the_prompts() -> None:
    plan = planned("axes.prompt_set=[code]", "model=mini", "axes.prompt_tokens=[16]")
    reworded = {name: dataclasses.replace(prompts, content_hash="other") for name, prompts in plan.prompts.items()}
    assert identified(dataclasses.replace(plan, prompts=reworded), {}).run_id != identified(plan, {}).run_id


@pytest.mark.parametrize("word", ["reports_dir=elsewhere", "results_dir=elsewhere", "fresh=true", "retry_failed=true"])
def test_the_run_id_does_not_change_with_where_results_go(word: str) -> None:
    assert identified(planned(word), {}).run_id == identified(planned(), {}).run_id


def test_the_run_id_changes_with_the_machine() -> None:
    assert (
        identified(planned(), {"identity": {"cpu": "x"}}).run_id
        != identified(planned(), {"identity": {"cpu": "y"}}).run_id
    )


def test_plan_json_has_the_documented_keys() -> None:
    document = json.loads(json.dumps(to_json(planned("suite=h100")), allow_nan=False))
    assert {"plan_schema", "suite", "run_id", "cells", "skipped"} <= set(document)
    wanted = {
        "cell_id",
        "cell",
        "twin_id",
        "predicted_s",
        "memory_bytes",
        "floor_s",
        "bound_s",
        "floor_basis",
        "passes",
        "phases",
    }
    for cell in document["cells"]:
        assert wanted <= set(cell)
        assert set(cell["phases"]) == {"prefill", "denoise", "commit", "decode"}
        for phase in cell["phases"].values():
            assert set(phase) == {"count", "bytes", "flops", "floor_s", "operations"}
        assert sum(p["floor_s"] for p in cell["phases"].values()) == pytest.approx(cell["floor_s"])
    assert all(set(s) == {"cell_id", "cell", "reason"} for s in document["skipped"])


def test_suite_h100_sweeps_what_it_promises() -> None:
    plan = planned("suite=h100")
    cells = [p.cell for p in plan.cells] + [s.cell for s in plan.skipped]
    assert {c.batch_size for c in cells} == {1, 2, 4, 8, 16, 32, 64}
    assert {c.block_length for c in cells if c.block_length} == {32, 64, 128, 256, 512}
    assert {min(c.num_steps for c in cells if c.num_steps), max(c.num_steps for c in cells if c.num_steps)} == {4, 48}
    assert plan.shape.hidden_size == 2816


def test_adaptive_cells_say_that_their_floor_is_counted_at_the_cap() -> None:
    config = compose(["axes.stopping=[adaptive]", "model.trained=true"], backends=["reference"])
    assert isinstance(config, SuiteConfig)
    assert {p.floor_basis for p in build(config).cells if p.twin_id} == {"cap"}


@pytest.mark.parametrize(("words", "said"), [((), "time: 0"), (("protocol.max_rounds=9",), "time: at least 0")])
def test_a_prediction_says_that_it_is_for_the_least_number_of_rounds(words: tuple[str, ...], said: str) -> None:
    plan = planned("suite=h100", "protocol=quick", "axes.batch_size=[1]", "axes.num_steps=[4]", *words)
    assert f"predicted {said}" in plan_text(plan)
    assert ("least warm-up and rounds" in plan_text(plan)) == bool(words)
