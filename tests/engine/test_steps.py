"""The step functions that CUDA graphs hold, without a graph: equal to the usual path, and without a read of the device.

The capture and the replay need a GPU and are not tested here.
"""

from __future__ import annotations

import weakref
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from oracle import random_ids
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton", reason="Triton has no build for this platform")
from engine import api, weights
from engine import steps as static_steps
from engine.choices import PLAIN, resolve
from engine.config import FULL, PRESETS, SLIDING
from engine.observe import observe
from engine.routing import Routing, drawn

KERNELS = replace(PLAIN, experts="kernel", attention="kernel", sampler="kernel")
STATIC = replace(KERNELS, graphs="static")
CPU = torch.device("cpu")
SHAPE = replace(
    PRESETS["tiny"],
    num_layers=2,
    layer_types=(SLIDING, FULL),
    hidden_size=32,
    intermediate_size=48,
    head_dim=16,
    global_head_dim=16,
    moe_intermediate_size=16,
    sliding_window=5,
    num_heads=2,
    num_kv_heads=1,
    num_experts=4,
    vocab_size=96,
    canvas_length=4,
)


@pytest.fixture
def model() -> api.Model:
    return weights.random_model(SHAPE, CPU, torch.float32, seed=0)


def generation(model: api.Model, choices: Any, decoding: str, seed: int = 0, **how: Any) -> api.Generation:
    model.choices = choices
    prompt, mask = random_ids(2, 7, 0, 96), torch.ones(2, 7, dtype=torch.long)
    mask[1, :3] = 0
    how = {"num_steps": 2, "stopping": "fixed", "eos": "ignore", "output_tokens": 8} | how
    how = {"generator": torch.Generator().manual_seed(seed)} | how
    return api.generate(model, prompt, decoding=decoding, attention_mask_BT=mask, **how)


def same(one: api.Generation, other: api.Generation) -> bool:
    return (
        torch.equal(one.output_ids, other.output_ids)
        and torch.equal(one.steps_per_canvas, other.steps_per_canvas)
        and one.passes == other.passes
        and len(one.step_s) == len(other.step_s)
    )


DIFFUSION = "block_diffusion"
REQUESTS = {
    "fixed": (DIFFUSION, {}),
    "adaptive": (
        DIFFUSION,
        {"stopping": "adaptive", "num_steps": 4, "confidence": 100.0, "t_max": 0.01, "t_min": 0.01},
    ),
    "replay": (DIFFUSION, {"stopping": "replay", "num_steps": 3, "replay_steps_BC": torch.tensor([[1, 3], [2, 1]])}),
    "ends": (DIFFUSION, {"eos": "respect", "eos_ids": list(range(48))}),
    "greedy": ("autoregressive", {}),
    "sampled": ("autoregressive", {"temperature": 0.8}),
    "greedy ends": ("autoregressive", {"eos": "respect", "eos_ids": list(range(24))}),
}


@cache  # interpreted kernels are slow, and two tests ask
def usual(name: str, seed: int) -> api.Generation:
    decoding, how = REQUESTS[name]
    return generation(weights.random_model(SHAPE, CPU, torch.float32, seed=0), KERNELS, decoding, seed, **how)


@pytest.mark.parametrize("name", REQUESTS)
def test_static_steps_give_the_tokens_and_counts_of_the_usual_path_request_after_request(
    model: api.Model, name: str
) -> None:
    decoding, how = REQUESTS[name]
    for seed in range(2):  # the second request finds the first one's tensors
        assert same(generation(model, STATIC, decoding, seed, **how), usual(name, seed))
    assert len(model.steps) == 1


def test_adaptive_stopping_stops_rows_before_the_cap(model: api.Model) -> None:
    """Otherwise the request above would say nothing about it."""
    steps = generation(model, STATIC, DIFFUSION, **REQUESTS["adaptive"][1]).steps_per_canvas
    assert steps.min() < 4


def test_decoding_over_static_buffers_gives_the_greedy_tokens_of_the_plain_path(model: api.Model) -> None:
    how: dict[str, Any] = {"output_tokens": 14}
    static = generation(model, STATIC, "autoregressive", **how)
    assert torch.equal(static.output_ids, generation(model, PLAIN, "autoregressive", **how).output_ids)


@pytest.mark.parametrize("decoding", [DIFFUSION, "autoregressive"])
def test_drawn_experts_go_on_from_step_to_step_as_on_the_usual_path(model: api.Model, decoding: str) -> None:
    def both(choices: Any, routing: Routing) -> list[torch.Tensor]:
        with drawn(model, routing):
            return [generation(model, choices, decoding).output_ids for _ in range(2)]

    def routing(seed: int) -> Routing:
        return Routing([[1.0, 2.0, 3.0, 4.0]], 2, seed, CPU)

    expected, static = (both(choices, routing(3)) for choices in (KERNELS, STATIC))
    assert all(torch.equal(a, b) for a, b in zip(expected, static, strict=True))
    other = both(KERNELS, routing(4))
    assert not all(torch.equal(a, b) for a, b in zip(expected, other, strict=True))


def test_an_observed_request_and_one_with_another_sampler_take_the_usual_path(model: api.Model) -> None:
    with observe(model) as seen:
        generation(model, STATIC, DIFFUSION)
    generation(model, STATIC, DIFFUSION, sampler="fast")
    assert len(seen.kinds) == 4
    assert not model.steps


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What graphs=on captures, which here runs as it is."""
    seen: list[Any] = []

    def captured(function: Any) -> Any:
        seen.append(function)
        return function

    monkeypatch.setattr(static_steps, "_captured", captured)
    return seen


@pytest.mark.parametrize("name", ["adaptive", "replay", "sampled"])
def test_a_rehearsal_captures_all_that_the_request_needs_and_draws_nothing_of_it(
    model: api.Model, captures: list[Any], name: str
) -> None:
    decoding, how = REQUESTS[name]
    graphs = replace(KERNELS, graphs="on")
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    empty = generation(model, graphs, decoding, rehearse=True, generator=generator, **how)
    assert empty.output_ids.shape == (2, 0) and sum(empty.passes.values()) == 0
    assert torch.equal(generator.get_state(), state)
    assert len(captures) == (2 if decoding == DIFFUSION else 1)
    assert same(generation(model, graphs, decoding, **how), usual(name, 0))
    assert len(captures) == (2 if decoding == DIFFUSION else 1)


def test_a_rehearsal_leaves_drawn_experts_where_they_are(model: api.Model, captures: list[Any]) -> None:
    routing = Routing([[1.0, 2.0, 3.0, 4.0]], 2, 3, CPU)
    with drawn(model, routing):
        generation(model, replace(KERNELS, graphs="on"), DIFFUSION, rehearse=True)
    assert routing.passes_L.tolist() == [0, 0]


def test_a_request_of_another_kind_replaces_the_steps_of_the_one_before_and_frees_its_buffers(
    model: api.Model, captures: list[Any]
) -> None:
    graphs = replace(KERNELS, graphs="on")
    generation(model, graphs, DIFFUSION, rehearse=True)
    (before,) = model.steps.values()
    assert isinstance(before, static_steps.DenoiseSteps)
    buffer = weakref.ref(before.cache.layers[0].k_BKSD)
    captures.clear()
    del before
    generation(model, graphs, "autoregressive")
    assert len(model.steps) == len(captures) == 1
    assert buffer() is None


class _NoReads(TorchDispatchMode):
    """Raises where an operation needs a number on the host. Triton's interpreter reads memory by pointers instead."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim"), name
        out = func(*args, **(kwargs or {}))
        return out


@pytest.fixture
def no_reads(monkeypatch: pytest.MonkeyPatch) -> TorchDispatchMode:
    for name in ("tolist", "item", "__bool__", "__int__", "__float__", "__index__"):

        def refuse(self: torch.Tensor, name: str = name) -> Any:
            raise AssertionError(f"{name} reads the device")

        monkeypatch.setattr(torch.Tensor, name, refuse)
    return _NoReads()


@pytest.mark.parametrize("experts", ["kernel", "gathered"])
@pytest.mark.parametrize("stopping", ["fixed", "adaptive"])
def test_a_denoising_step_reads_nothing_on_the_host(
    model: api.Model, request: pytest.FixtureRequest, stopping: str, experts: str
) -> None:
    generation(model, replace(STATIC, experts=experts, head="chunked"), DIFFUSION, stopping=stopping)
    (steps,) = model.steps.values()
    assert isinstance(steps, static_steps.DenoiseSteps)
    with torch.inference_mode(), request.getfixturevalue("no_reads"):
        steps.step(is_conditioned=False)
        steps.step(is_conditioned=True)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_decode_step_reads_nothing_on_the_host(
    model: api.Model, request: pytest.FixtureRequest, temperature: float
) -> None:
    generation(model, STATIC, "autoregressive", temperature=temperature)
    (steps,) = model.steps.values()
    assert isinstance(steps, static_steps.DecodeSteps)
    with torch.inference_mode(), request.getfixturevalue("no_reads"):
        steps.cache.reset()
        steps.step()


def test_what_the_watch_for_reads_is_for_it_finds(model: api.Model, request: pytest.FixtureRequest) -> None:
    """experts='loop' reads the row counts of every layer."""
    generation(model, STATIC, DIFFUSION)
    (steps,) = model.steps.values()
    assert isinstance(steps, static_steps.DenoiseSteps)
    model.choices = replace(STATIC, experts="loop")
    with torch.inference_mode(), request.getfixturevalue("no_reads"), pytest.raises(AssertionError, match="reads"):
        steps.step(is_conditioned=False)


def test_static_tensors_stay_where_they_are(model: api.Model) -> None:
    """A graph knows addresses."""
    generation(model, STATIC, DIFFUSION, stopping="adaptive")
    (steps,) = model.steps.values()
    assert isinstance(steps, static_steps.DenoiseSteps) and steps.stop is not None

    def addresses() -> list[int]:
        own = [t for t in vars(steps).values() if isinstance(t, torch.Tensor)]
        buffers = [t for layer in steps.cache.layers for t in (layer.k_BKSD, layer.v_BKSD)]
        cache = [steps.cache.start_B, steps.cache.length_1, *(t for pair in steps.cache._rope.values() for t in pair)]
        draws = [steps.draws.seed_1, steps.draws.noise_BL, steps.draws.draw_1, steps.stop.history_SBL]
        return [t.data_ptr() for t in (*own, *buffers, *cache, *draws) if t is not None]

    before = addresses()
    assert len(before) > 15
    generation(model, STATIC, DIFFUSION, seed=1, stopping="adaptive")
    assert addresses() == before


def test_static_steps_are_refused_with_parts_that_cannot_be_captured() -> None:
    parts = {"experts": "kernel", "attention": "kernel", "sampler": "kernel", "graphs": "static"}
    assert resolve(CPU, torch.float32, parts).graphs == "static"
    for name, value in (("experts", "tailored"), ("attention", "sdpa"), ("sampler", "fast"), ("compile", "on")):
        with pytest.raises(ValueError, match=f"graphs is 'static', but {name}|compile is 'on'"):
            resolve(CPU, torch.float32, {**parts, name: value})
    with pytest.raises(ValueError, match="graphs is 'on', which needs a CUDA GPU"):
        resolve(CPU, torch.float32, {**parts, "graphs": "on"})
