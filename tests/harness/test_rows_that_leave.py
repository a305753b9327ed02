"""What a round of the reference engine says where rows leave the batch when they are done, beside a static batch."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from synthetic import Scenario, write_run

from harness.analysis.analyse import analyse
from harness.analysis.floors import Floors, PassFloor
from harness.analysis.metrics import METRICS, Missing
from harness.analysis.run_data import CellPlan, load_run
from harness.measuring import self_check
from harness.measuring.backends.reference import ReferenceBackend
from harness.measuring.cell import _timed_round
from harness.records.types import Cell, Round
from harness.report.slices import conditions, slices_of
from harness.spec.config import DeviceConfig, ModelSource
from harness.spec.plan import build
from harness.spec.suite import compose

L, TEXTS = 16, ("1+1=", "Count to twenty.", "abc", "Say yes.")
# So that some rows of random weights end early: a canvas's tokens are spread, greedy ones repeat each other.
ENDS = {"block_diffusion": tuple(range(1, 20)), "autoregressive": tuple(range(1, 512, 12))}
ONE_S = Floors("measured", "uniform", {kind: PassFloor(1.0, 1.0, 1.0) for kind in ("prefill", "denoise", "commit")})


def cell_of(decoding: str) -> Cell:
    words = [f"axes.block_length=[{L}]", "axes.num_steps=[4]", "axes.output_tokens=[64]", "axes.prompt_tokens=[24]"]
    words += ["eos=respect", f"axes.batch_size=[{len(TEXTS)}]"]
    return next(p.cell for p in build(compose(words, backends=["reference"])).cells if p.cell.decoding == decoding)


@pytest.fixture(scope="module")
def backend() -> ReferenceBackend:
    made = ReferenceBackend()
    made.load(ModelSource(preset="tiny"), None, DeviceConfig(kind="cpu"), cell_of("block_diffusion"), 0)  # type: ignore[arg-type]
    return made


def rounds(backend: ReferenceBackend, decoding: str) -> dict[str, tuple[Round, list[list[int]]]]:
    """compaction -> a round, and each row's useful tokens."""
    config = backend._model.config
    generation = dataclasses.replace(config.generation, eos_ids=ENDS[decoding])
    backend._model.config = dataclasses.replace(config, generation=generation)
    found = {}
    for compaction in ("off", "on"):
        cell = dataclasses.replace(cell_of(decoding), options={"compaction": compaction})
        round, answer = _timed_round(backend, cell, backend.prepare(cell, TEXTS, 3), 0, 3, on_cpu=True)
        assert self_check.broken(round, cell) == []
        assert round.resolved["compaction"] == compaction
        found[compaction] = (round, [[int(one) for one in row] for row in answer.output_ids or ()])
    assert len(set(found["off"][0].useful_tokens)) > 1  # so that some row has nothing left to do
    return found


def value(name: str, round: Round, decoding: str) -> float:
    planned = CellPlan(cell=cell_of(decoding), cell_id="", twin_id=None, floor_basis="exact", phases={}, missing={})
    return METRICS[name].compute(round, planned)


@pytest.mark.parametrize("decoding", ["block_diffusion", "autoregressive"])
def test_the_answers_are_the_same_and_every_round_is_sound(backend: ReferenceBackend, decoding: str) -> None:
    found = rounds(backend, decoding)
    assert found["on"][1] == found["off"][1]
    assert found["on"][0].passes == found["off"][0].passes


def test_a_row_that_left_has_no_waste_but_the_rest_of_its_last_canvas(backend: ReferenceBackend) -> None:
    found = rounds(backend, "block_diffusion")
    useful = found["off"][0].useful_tokens
    own, longest = (sum(-(-n // L) * L for n in useful), -(-max(useful) // L) * L * len(useful))
    steps = 4 * own // L
    for compaction, positions in (("off", longest), ("on", own)):
        round, _ = found[compaction]
        assert round.row_passes["denoise"] == 4 * positions // L
        assert value("post_eos_waste", round, "block_diffusion") == 1 - sum(useful) / positions
        assert value("straggler_share", round, "block_diffusion") == 1 - steps / (4 * positions // L)
    assert value("straggler_share", found["on"][0], "block_diffusion") == 0


def test_autoregressive_rows_that_left_waste_nothing(backend: ReferenceBackend) -> None:
    found = rounds(backend, "autoregressive")
    useful = found["off"][0].useful_tokens
    for name in ("straggler_share", "post_eos_waste"):
        static = 1 - sum(useful) / (len(useful) * max(useful))
        assert value(name, found["off"][0], "autoregressive") == static
        assert value(name, found["on"][0], "autoregressive") == 0


def test_a_round_in_which_a_row_left_has_no_floor(backend: ReferenceBackend) -> None:
    found = {compaction: round for compaction, (round, _) in rounds(backend, "block_diffusion").items()}
    assert (
        METRICS["floor_share"].compute(found["off"], ONE_S) == sum(found["off"].passes.values()) / found["off"].wall_s
    )
    with pytest.raises(Missing, match="rows left the batch"):
        METRICS["floor_share"].compute(found["on"], ONE_S)


def test_pictures_say_whether_rows_that_are_done_wait(tmp_path: Any) -> None:
    said = {}
    for compaction in ("off", "on"):
        scenario = Scenario(axes={"batch_size": [2], "options": [{"compaction": compaction}]})
        (part, *_) = slices_of(analyse([load_run(write_run(tmp_path / compaction, scenario))]))
        said[compaction] = conditions(part, "")
    assert "static batch" in said["off"]
    assert "rows that are done leave the batch" in said["on"]
    assert "static batch" not in said["on"]
