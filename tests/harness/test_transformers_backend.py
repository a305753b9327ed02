"""The transformers backend answers what the reference engine answers, counts what ran, refuses what would be wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.measuring import self_check
from harness.measuring.backends import registry
from harness.measuring.backends.base import Answer, Unsupported
from harness.measuring.cell import _timed_round
from harness.records.types import AUTOREGRESSIVE, Cell
from harness.spec.config import ConfigError, DeviceConfig, ModelSource
from harness.spec.floor import shape_of

pytest.importorskip("transformers", reason="transformers is not installed; it is in the hf extra")
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning"),
]

CPU = DeviceConfig(name="cpu", kind="cpu")
WINDOW = 64  # of the tiny model


def cell_of(**changes: Any) -> Cell:
    settings: dict[str, Any] = {
        "backend": "transformers", "model": "tiny", "decoding": "block_diffusion", "batch_size": 2,
        "prompt_set": "random", "prompt_tokens": 70, "output_tokens": 40, "eos": "ignore", "block_length": 16,
        "num_steps": 3, "stopping": "fixed", "weight_dtype": "float32", "activation_dtype": "float32",
        "kv_dtype": "float32", "head_dtype": "float32", "routing": "model", "device": "cpu", "protocol": "quick",
        "options": {"window": "sdpa"},
    }  # fmt: skip
    return Cell(**settings | changes)


@pytest.fixture(scope="module")
def backends() -> dict[str, Any]:
    """Both backends with the same random weights."""
    source = ModelSource(name="tiny", preset="tiny")
    made = {name: registry.create(name) for name in ("reference", "transformers")}
    for backend in made.values():
        backend.load(source, shape_of(source), CPU, cell_of(), 0)
    return made


def answer(backend: Any, cell: Cell, texts: tuple[str, ...] = (), seed: int = 5) -> Answer:
    given: Answer = backend.generate(cell, backend.prepare(cell, texts, seed))
    return given


def rows(given: Answer) -> list[list[int]]:
    assert given.output_ids is not None
    return [[int(one) for one in row] for row in given.output_ids]


CELLS = {
    "fixed steps": cell_of(),
    "one canvas of the trained length": cell_of(block_length=32, output_tokens=32, batch_size=1),
    "eos respected": cell_of(eos="respect", batch_size=3),
    "autoregressive": cell_of().twin,
    "autoregressive, eos respected": cell_of(eos="respect", batch_size=3).twin,
}


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_tokens_and_counts_are_those_of_the_reference_engine(backends: dict[str, Any], cell: Cell) -> None:
    ours = answer(backends["reference"], replace(cell, options={"sampler": "reference"}))
    theirs = answer(backends["transformers"], cell)
    assert rows(theirs) == rows(ours)
    for name in ("passes", "steps_per_canvas", "useful_tokens", "raw_tokens", "stop_reason"):
        assert getattr(theirs, name) == getattr(ours, name), name
    assert len(theirs.step_s) == len(ours.step_s)
    assert len(theirs.block_s) == len(ours.block_s)


@pytest.mark.parametrize("cell", [cell_of(), cell_of().twin], ids=["diffusion", "autoregressive"])
def test_prompts_of_different_lengths_are_padded_and_masked_alike(backends: dict[str, Any], cell: Cell) -> None:
    texts = ("a short one", "a prompt that is a good deal longer than the other one is")
    ours = answer(backends["reference"], replace(cell, options={"sampler": "reference"}), texts)
    assert rows(answer(backends["transformers"], cell, texts)) == rows(ours)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_every_identity_of_the_self_check_holds(backends: dict[str, Any], cell: Cell) -> None:
    backend = backends["transformers"]
    round, _ = _timed_round(backend, cell, backend.prepare(cell, (), 5), 0, 5, True)
    assert self_check.broken(round, cell) == []


def test_fixed_stopping_takes_every_step_even_of_a_model_that_is_certain(backends: dict[str, Any]) -> None:
    parts = backends["transformers"]._diffusion.model
    calls: list[str] = []
    handle = parts.decoder.register_forward_hook(lambda *_: calls.append("decoder"))
    try:
        given = answer(backends["transformers"], cell_of(num_steps=7))
    finally:
        handle.remove()
    assert given.passes == {"prefill": 1, "denoise": 21, "commit": 2, "decode": 0}
    assert len(calls) == 21


def test_adaptive_stopping_leaves_the_steps_of_a_batch_out_and_says_why(backends: dict[str, Any]) -> None:
    given = answer(backends["transformers"], cell_of(stopping="adaptive"))
    assert given.steps_per_canvas == ()
    assert "row of a batch" in given.missing["steps_per_canvas"]
    alone = answer(backends["transformers"], cell_of(stopping="adaptive", batch_size=1))
    assert sum(alone.steps_per_canvas[0]) == alone.passes["denoise"]


def test_the_twin_has_the_very_tensors_of_the_diffusion_model(backends: dict[str, Any]) -> None:
    backend = backends["transformers"]
    own = {p.data_ptr() for p in backend._diffusion.parameters()}
    assert {p.data_ptr() for p in backend._causal.parameters()} <= own


def test_what_really_ran_is_read_from_the_model(backends: dict[str, Any]) -> None:
    resolved = answer(backends["transformers"], cell_of()).resolved
    assert resolved["expert_gemm"] == "grouped_mm"
    assert resolved["attention"] == "transformers sdpa"
    assert resolved["cache"] == "dynamic"
    assert resolved["transformers"][0].isdigit()


def static(prompt_tokens: int, **changes: Any) -> Cell:
    return cell_of(prompt_tokens=prompt_tokens, options={"cache": "static"}, **changes)


def test_a_static_cache_gives_the_same_tokens_below_the_window_and_is_refused_from_it_on(
    backends: dict[str, Any],
) -> None:
    backend = backends["transformers"]
    below = static(WINDOW - 33)  # the last of three canvases follows 63 tokens
    assert rows(answer(backend, below)) == rows(answer(backend, replace(below, options={})))
    with pytest.raises(Unsupported, match="window of 64"):
        answer(backend, static(WINDOW - 32))


REFUSED: dict[str, dict[str, Any]] = {
    "compiled sampler": {"options": {"cache": "static", "compile": True}},
    "has no option": {"options": {"sampler": "fast"}},
    "whose window is 'sdpa'": {"options": {"window": "symmetric"}},
    "no cache='paged'": {"options": {"cache": "paged"}},
    "no experts='loop'": {"options": {"experts": "loop"}},
    "expected a number above 0": {"options": {"entropy_bound": 0}},
    "one dtype for all parts": {"weight_dtype": "bfloat16"},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_it_cannot_do_is_refused_in_words(message: str) -> None:
    source = ModelSource(name="tiny", preset="tiny")
    with pytest.raises(Unsupported, match=message):
        registry.create("transformers").load(source, shape_of(source), CPU, cell_of(**REFUSED[message]), 0)


def test_a_directory_is_used_as_it_is(tmp_path: Path) -> None:
    from engine import api

    api.save(api.load("tiny", seed=3), tmp_path)
    source = ModelSource(name="dir", path=str(tmp_path))
    made = {name: registry.create(name) for name in ("reference", "transformers")}
    for backend in made.values():
        backend.load(source, shape_of(source), CPU, cell_of(), 0)
    cell = cell_of(batch_size=1).twin
    assert cell.decoding == AUTOREGRESSIVE
    assert rows(answer(made["transformers"], cell)) == rows(answer(made["reference"], replace(cell, options={})))


def test_without_the_extra_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.BACKENDS, "lacking", ("no_such_module_of_ours", "Backend", "hf"))
    with pytest.raises(ConfigError, match=r"is not installed\nin the project's folder: pip install .*\[hf\]'"):
        registry.create("lacking")
