"""The cost model's FLOPs against those that torch counts while the engine runs, exactly, pass by pass.

torch.utils.flop_counter counts matrix products. Two that the engine uses have no formula there and would count as
nothing: grouped_mm, and the CPU's fused attention; both get theirs here. What is no matrix product is not counted by it
and left out of the comparison: norms, activations, softmax, rope, softcap, and the whole sampler, which
the cost model charges with 12 FLOPs a logit. It charges two passes for a little more than the engine does, which the
comparison adds by formula: a pass that only fills the cache skips all of its last layer but keys and values.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from engine import api
from engine.choices import PLAIN
from engine.config import FULL, PRESETS, ModelConfig
from engine.cost import Widths, pass_cost

WIDTHS = Widths(weight=4, activation=4, kv=4, head=4)
SHAPES = [(1, 8, 5), (3, 16, 40), (2, 1, 130)]  # batch, new tokens, cached tokens: within and beyond the window


def attention(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Scores and their product with the values: every query with every key that it is given."""
    batch, heads, queries, size = query
    return 2 * batch * heads * queries * key[2] * (size + value[3])


def grouped(rows: Any, weights: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Every row with the matrix of its own group alone."""
    return int(2 * rows[0] * rows[1] * weights[2])


FORMULAS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention,
    torch.ops.aten._grouped_mm: grouped,
}


def counted(run: Any) -> int:
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        run()
    return int(counter.get_total_flops())


def formula(config: ModelConfig, kind: str, batch: int, tokens: int, context: int, **more: Any) -> float:
    costs = pass_cost(config, kind, batch_size=batch, tokens=tokens, context=context, widths=WIDTHS, **more)
    return sum(one.flops for name, one in costs.items() if name != "sampler")


def skipped_last_layer(config: ModelConfig, batch: int, tokens: int, context: int) -> int:
    """Of a full layer, all but its keys, which its values share."""
    assert config.layer_types[-1] == FULL
    rows, hidden, width = batch * tokens, config.hidden_size, config.num_heads * config.global_head_dim
    projections = 2 * 2 * rows * hidden * width  # queries and output
    scores = 4 * rows * width * (context + tokens)
    dense = 2 * rows * 3 * hidden * config.intermediate_size
    experts = 2 * rows * config.top_k_experts * 3 * hidden * config.moe_intermediate_size
    return projections + scores + dense + experts + 2 * rows * hidden * config.num_experts


@pytest.fixture(params=["loop", "grouped"])
def model(request: pytest.FixtureRequest) -> api.Model:
    """In the plain form, as the formulas have it: the CPU's fast one has products that torch counts as nothing."""
    model = api.load("tiny", dtype="bfloat16" if request.param == "grouped" else "float32")
    model.choices = replace(PLAIN, experts=request.param)
    return model


def ids(batch: int, tokens: int) -> torch.Tensor:
    return torch.randint(4, 200, (batch, tokens), generator=torch.Generator().manual_seed(0))


def cached(model: api.Model, batch: int, context: int) -> api.KVCache:
    return api.encode(model, ids(batch, context))


@pytest.mark.parametrize(("batch", "tokens", "context"), SHAPES)
def test_a_denoise_pass_has_the_flops_of_the_formula(model: api.Model, batch: int, tokens: int, context: int) -> None:
    cache = cached(model, batch, context)
    before = torch.randn(batch, tokens, model.config.vocab_size)
    found = counted(lambda: api.denoise_logits(model, ids(batch, tokens), cache, self_conditioning_BLV=before))
    assert found == formula(model.config, "denoise", batch, tokens, context)


def test_a_canvass_first_step_has_no_soft_embedding_and_no_self_conditioning(model: api.Model) -> None:
    costs = pass_cost(model.config, "denoise", batch_size=2, tokens=16, context=20, widths=WIDTHS)
    left_out = costs["soft_embedding"].flops + costs["selfcond_mlp"].flops
    cache = cached(model, 2, 20)
    found = counted(lambda: api.denoise_logits(model, ids(2, 16), cache))
    assert found == formula(model.config, "denoise", 2, 16, 20) - left_out


@pytest.mark.parametrize(("batch", "tokens", "context"), SHAPES)
def test_a_commit_has_the_flops_of_the_formula_but_for_its_last_layer(
    model: api.Model, batch: int, tokens: int, context: int
) -> None:
    cache = cached(model, batch, context)
    found = counted(lambda: api.encode(model, ids(batch, tokens), cache=cache))
    skipped = skipped_last_layer(model.config, batch, tokens, context)
    assert found + skipped == formula(model.config, "commit", batch, tokens, context)


@pytest.mark.parametrize(("batch", "tokens"), [(1, 12), (2, 80)])
def test_a_prefill_has_the_flops_of_the_formula_but_for_its_last_layer(
    model: api.Model, batch: int, tokens: int
) -> None:
    found = counted(lambda: api.encode(model, ids(batch, tokens)))
    skipped = skipped_last_layer(model.config, batch, tokens, 0)
    assert found + skipped == formula(model.config, "prefill", batch, tokens, 0)


@pytest.mark.parametrize(("batch", "context"), [(1, 5), (4, 130)])
def test_a_decode_pass_has_the_flops_of_the_formula(model: api.Model, batch: int, context: int) -> None:
    cache = cached(model, batch, context)
    found = counted(lambda: api.causal_logits(model, ids(batch, 1), cache=cache))
    assert found == formula(model.config, "decode", batch, 1, context)


def test_the_first_token_of_autoregressive_decoding_comes_with_one_row_of_logits(model: api.Model) -> None:
    def first_token() -> None:
        api.generate(model, ids(2, 12), decoding="autoregressive", output_tokens=1, eos="ignore")

    assert counted(first_token) == formula(model.config, "prefill", 2, 12, 0, samples=True)


def test_the_registered_formulas_are_needed() -> None:
    """Without them torch counts nothing for either; once it has its own, these can go."""
    q = torch.randn(2, 3, 8, 16)
    with FlopCounterMode(display=False) as counter:
        torch.nn.functional.scaled_dot_product_attention(q, q, q)
        torch.nn.functional.grouped_mm(
            torch.randn(8, 16, dtype=torch.bfloat16), torch.randn(2, 16, 8, dtype=torch.bfloat16),
            offs=torch.tensor([4, 8], dtype=torch.int32),
        )  # fmt: skip
    assert counter.get_total_flops() == 0
    assert PRESETS["tiny"].sliding_window < 130  # the longest context above lies beyond it
