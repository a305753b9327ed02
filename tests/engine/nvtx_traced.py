"""Runs in a process of its own under the recorder, every scenario inside a range of its name. See test_ranges.py."""

from __future__ import annotations

import itertools

import torch

from engine import api, ranges
from engine.config import FULL, SLIDING, ModelConfig
from engine.weights import random_model

TWO_LAYERS = ModelConfig(
    hidden_size=16,
    intermediate_size=16,
    num_layers=2,
    layer_types=(SLIDING, FULL),
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    global_num_kv_heads=1,
    global_head_dim=16,
    sliding_window=4,
    num_experts=4,
    top_k_experts=2,
    moe_intermediate_size=8,
    vocab_size=16,
    canvas_length=3,
)


def run(scenario: str) -> None:
    model = random_model(TWO_LAYERS, torch.device("cpu"), torch.float32, seed=0)
    prompt = torch.ones(1, 5, dtype=torch.long)
    if scenario == "block_diffusion":  # two canvases of two steps; nothing stops early, but the check is made
        api.generate(model, prompt, decoding=scenario, output_tokens=6, num_steps=2, confidence=0.0, eos="ignore")
    elif scenario == "autoregressive":
        api.generate(model, prompt, decoding=scenario, output_tokens=3, eos_ids=15)
    elif scenario == "raises":
        model.layers[1].mlp.down_proj.weight = torch.nn.Parameter(torch.zeros(1, 1), requires_grad=False)
        try:
            api.generate(model, prompt, decoding="block_diffusion", output_tokens=6)
        except RuntimeError:
            return
        raise AssertionError("the broken model did not raise")
    elif scenario == "compiled":

        def layer(x: torch.Tensor) -> torch.Tensor:
            with ranges.LAYER(0), ranges.EMBED():
                return x * 2 + 1

        compiled = torch.compile(layer, backend="eager", fullgraph=True)
        assert torch.equal(compiled(torch.ones(3)), torch.full((3,), 3.0))


def main() -> None:
    assert ranges.is_live()
    for scenario, level in itertools.product(("block_diffusion", "autoregressive", "raises", "compiled"), range(4)):
        ranges.set_level(level)
        api._request_numbers = itertools.count()
        with ranges.Range(f"{scenario}.{level}", category="harness", level=0)():
            run(scenario)


if __name__ == "__main__":
    main()
