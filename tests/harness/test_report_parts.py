"""Where a step's time goes: what records and page say of it, recomputed from the record lines."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic import Scenario, plan_of, records_of, write_run

from engine import split
from harness.analysis.analyse import Analysis, analyse
from harness.analysis.parts import step_parts
from harness.analysis.run_data import load_run
from harness.records.types import Record
from harness.report.figures import parts
from harness.report.figures.base import NotDrawn
from harness.report.frame import build_page
from harness.report.slices import slices_of

SCENARIO = Scenario(observed=True, axes={"batch_size": [1, 4, 16], "prompt_set": ["code"]})


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("split"), SCENARIO)


@pytest.fixture(scope="module")
def analysis(run_dir: Path) -> Analysis:
    return analyse([load_run(run_dir)])


@pytest.fixture(scope="module")
def answer(analysis: Analysis) -> str:
    (part,) = slices_of(analysis)
    return parts.parts(part, "x").answer


def one_record() -> Record:
    plan = plan_of(SCENARIO)
    return next(r for r in records_of(SCENARIO, plan, "r") if r.cell.decoding == "block_diffusion")


def test_a_step_is_the_mean_of_all_launches_steps() -> None:
    first = one_record()
    counters = {"phase_s": {"denoise": {"experts": 6.0, "other": 3.0}}, "phase_passes": {"denoise": 3}}
    second = {"phase_s": {"denoise": {"experts": 1.0, "sampler": 2.0}}, "phase_passes": {"denoise": 1}}
    found = step_parts([replace(first, counters=counters), replace(first, launch=1, counters=second)])
    assert found is not None
    assert found.seconds == pytest.approx({"experts": 7 / 4, "other": 3 / 4, "sampler": 2 / 4})
    assert found.num_steps == 4
    mean_s = sum(first.rounds[0].step_s) / len(first.rounds[0].step_s)
    assert found.ratio == pytest.approx(3.0 / mean_s)


def test_a_cell_whose_steps_were_not_split_has_none() -> None:
    assert step_parts([replace(one_record(), counters={})]) is None
    assert step_parts([]) is None


def test_the_document_has_the_parts_of_every_cell_and_how_far_their_sum_is_from_a_timed_step(
    analysis: Analysis, run_dir: Path
) -> None:
    lines = [json.loads(line) for path in run_dir.glob("records-*.jsonl") for line in path.read_text().splitlines()]
    cells = {cell["cell_id"]: cell["step_parts"] for cell in analysis.to_json()["cells"]}
    assert len(lines) == len(cells)
    for line in lines:
        kind = "denoise" if line["cell"]["block_length"] else "decode"
        told: dict[str, Any] = cells[line["cell_id"]]
        assert sum(told["seconds"].values()) == pytest.approx(
            sum(line["counters"]["phase_s"][kind].values()) / line["counters"]["phase_passes"][kind]
        )
        assert told["ratio"] == pytest.approx(1.25)


def test_the_answer_tells_both_decoders_at_the_smallest_and_the_largest_batch(answer: str) -> None:
    told = re.findall(r"[Aa]t batch (\d+) a (denoise step|decode pass).*?: (.*?)(?:;|\. )", answer)
    assert [(batch, kind) for batch, kind, _ in told] == [
        ("1", "denoise step"), ("1", "decode pass"), ("16", "denoise step"), ("16", "decode pass"),
    ]  # fmt: skip
    assert told[0][2] == "head 39 %, experts 31 % and attention 20 %"
    assert told[3][2] == "experts 46 %, head 24 % and attention 20 %"


def test_the_answer_says_what_taking_the_times_cost(answer: str) -> None:
    assert "steps of an untimed request" in answer
    assert "they took 1.25 times as long" in answer  # all four bars, said once
    assert "they took 0.54 to 0.68 times as long" in parts._how_far([0.56, None, 0.68, 0.54])


def test_the_page_shows_the_figure_with_its_question(analysis: Analysis) -> None:
    page = build_page(analysis)
    assert f'<title id="parts-0-title">{parts.QUESTION}</title>'.replace("'", "&#x27;") in page
    assert "whose parts were timed" in page


def test_without_split_steps_it_says_what_is_lacking(tmp_path: Path) -> None:
    (part,) = slices_of(analyse([load_run(write_run(tmp_path, replace(SCENARIO, observed=False)))]))
    with pytest.raises(NotDrawn, match="did not take the times"):
        parts.parts(part, "x")


def test_the_engines_parts_have_a_name_and_a_colour_of_their_own() -> None:
    assert {*split.PARTS.values(), split.OTHER} == parts._PARTS.keys()
    assert len({colour for _, colour in parts._PARTS.values()}) == len(parts._PARTS)


def test_a_part_that_has_no_name_here_is_with_the_rest() -> None:
    record = replace(
        one_record(),
        counters={"phase_s": {"denoise": {"experts": 1.0, "fused": 2.0, "other": 1.0}}, "phase_passes": {"denoise": 1}},
    )
    found = step_parts([record])
    assert found is not None
    assert parts._shares(found)["other"] == 0.75
