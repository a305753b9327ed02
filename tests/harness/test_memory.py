"""Predicted memory against the allocator's own account of a request, on models that a CPU can run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from test_cost_and_floor import RELEASED, cell
from torch.profiler import ProfilerActivity, profile

from engine import api
from engine.config import PRESETS, ModelConfig
from engine.weights import random_model
from harness.spec import memory
from harness.spec.floor import widths_of

TOLERANCE = 0.05
SHAPES: dict[str, ModelConfig] = {
    "tiny": PRESETS["tiny"],
    "small": PRESETS["small"],
    "large vocabulary": replace(PRESETS["tiny"], vocab_size=16_384),
    "many experts": replace(PRESETS["tiny"], num_experts=32, top_k_experts=8, hidden_size=64),
}
REQUESTS: dict[str, dict[str, Any]] = {
    "one canvas": {"batch_size": 1, "prompt_tokens": 32, "output_tokens": 32, "block_length": 32, "num_steps": 3},
    "a batch of canvases": {
        "batch_size": 4, "prompt_tokens": 16, "output_tokens": 64, "block_length": 32, "num_steps": 2,
    },
    "a long prompt": {"batch_size": 2, "prompt_tokens": 400, "output_tokens": 16, "block_length": 16, "num_steps": 2},
    "tokens": {"batch_size": 8, "prompt_tokens": 32, "output_tokens": 6},
    "tokens behind a long prompt": {"batch_size": 2, "prompt_tokens": 512, "output_tokens": 4},
}  # fmt: skip


def allocated_bytes(model: api.Model, asked: dict[str, Any], decoding: str) -> int:
    """Most bytes that the request had allocated at once, by torch's profiler, beside the weights."""
    prompt = torch.randint(4, 200, (asked["batch_size"], asked["prompt_tokens"]))

    def run() -> None:
        api.generate(
            model, prompt, decoding=decoding, output_tokens=asked["output_tokens"], eos="ignore", stopping="fixed",
            block_length=asked.get("block_length"), num_steps=asked.get("num_steps"),
        )  # fmt: skip

    run()  # what the first request leaves behind is not the request's
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    assert profiler.profiler is not None
    events = [one for one in profiler.profiler.kineto_results.events() if one.name() == "[memory]"]
    assert len(events) > 100
    live = most = 0
    for one in sorted(events, key=lambda one: one.start_ns()):
        live += one.nbytes()
        most = max(most, live)
    return most


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_predicted_memory_is_within_five_per_cent_of_the_measured_peak(shape: str, dtype: str) -> None:
    model = random_model(SHAPES[shape], torch.device("cpu"), getattr(torch, dtype), 0)
    weights = sum(one.numel() * one.element_size() for one in model.parameters())
    dtypes = dict.fromkeys(("weight_dtype", "activation_dtype", "kv_dtype", "head_dtype"), dtype)
    for name, asked in REQUESTS.items():
        decoding = "block_diffusion" if "block_length" in asked else "autoregressive"
        one = cell(**{"block_length": None, "num_steps": None, **asked, **dtypes}, decoding=decoding)
        measured = weights + allocated_bytes(model, asked, decoding)
        predicted = memory.predicted_bytes(one, SHAPES[shape], widths_of(one))
        assert predicted == pytest.approx(measured, rel=TOLERANCE), name


def test_a_sliding_layer_keeps_its_window_and_some_slack_of_a_long_prompt() -> None:
    """At 100,000 positions the 25 sliding layers would need 41 GB; they have room for 1,279."""
    one = cell(prompt_tokens=100_000, batch_size=1)
    widths = widths_of(one)
    _, behind = memory._cache(RELEASED, 1, 100_000, 100_512, widths)
    assert behind == 2 * (25 * 2048 * 1279 + 5 * 1024 * 100_512) * 2
