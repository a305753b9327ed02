"""CUDA graphs are captured while the reference backend prepares, before the request that is timed. No GPU takes part.

`graphs=static` makes in `prepare` what a graph would be captured of; the capture itself needs a GPU.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton has no build for this platform")
from engine import steps, weights
from engine.config import FULL, PRESETS, SLIDING
from harness.measuring.backends.reference import ReferenceBackend
from harness.records.types import Cell
from harness.spec.plan import build
from harness.spec.suite import compose

SHAPE = replace(
    PRESETS["tiny"], num_layers=2, layer_types=(SLIDING, FULL), hidden_size=32, intermediate_size=48, head_dim=16,
    global_head_dim=16, moe_intermediate_size=16, num_heads=2, num_kv_heads=1, num_experts=4, vocab_size=96,
    canvas_length=4,
)  # fmt: skip
PARTS = {"experts": "kernel", "attention": "kernel", "sampler": "kernel"}


@pytest.fixture
def backend() -> ReferenceBackend:
    made = ReferenceBackend()
    made._device, made._model = torch.device("cpu"), weights.random_model(SHAPE, torch.device("cpu"), torch.float32, 0)
    return made


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The steps that are made, by class."""
    names: list[str] = []
    first = steps._Static.__init__

    def noted(self: Any, *args: Any) -> None:
        names.append(type(self).__name__)
        first(self, *args)

    monkeypatch.setattr(steps._Static, "__init__", noted)
    return names


def cells(graphs: str) -> list[Cell]:
    """The autoregressive cell and its twin."""
    words = ["axes.block_length=[4]", "axes.num_steps=[2]", "axes.output_tokens=[8]", "axes.prompt_tokens=[6]"]
    words += ["axes.batch_size=[2]", "axes.prompt_set=[random]", "axes.stopping=[fixed]", "eos=ignore", "suite=cpu"]
    both = [planned.cell for planned in build(compose(words, backends=["reference"])).cells]
    both.sort(key=lambda cell: cell.decoding)
    return [replace(cell, options={**PARTS, "graphs": graphs}) for cell in both]


def test_prepare_makes_the_steps_and_the_request_finds_them(backend: ReferenceBackend, made: list[str]) -> None:
    for cell, name in zip(cells("static"), ("DecodeSteps", "DenoiseSteps"), strict=True):
        prepared = backend.prepare(cell, (), 0)
        assert made[-1] == name
        count = len(made)
        answer = backend.generate(cell, prepared)
        assert (answer.useful_tokens, len(made)) == ((8, 8), count)
    assert len(made) == 2


def test_a_cell_without_graphs_does_not_carry_the_buffers_of_another(
    backend: ReferenceBackend, made: list[str]
) -> None:
    (_, with_graphs), (_, without) = cells("static"), cells("off")
    backend.prepare(with_graphs, (), 0)
    assert len(backend._model.steps) == 1
    backend.prepare(without, (), 0)
    assert not backend._model.steps
