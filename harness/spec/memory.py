"""What a request needs at its peak: weights, keys and values, and the largest transient of any of its passes.

Transients are those of the reference engine, tensor by tensor, as its code holds them at once: where the engine
changes, a constant here does, and tests/harness/test_memory.py measures them. What a library keeps for itself (CUDA's
context, workspaces, an allocator's unused blocks) is not counted.

Legend: N = B * T rows of a pass, S = N * k pairs of row and expert, H hidden, V vocabulary.
"""

from __future__ import annotations

from engine import cost
from engine.config import ModelConfig
from harness.records.types import Cell

FLOAT32_BYTES = 4
# Sampling a canvas (engine/sampling.py), in [B * L, V]: logits, those over the temperature, probabilities, and in the
# entropy logarithms, a softmax and their product; beside them what the step before hands on.
SAMPLER_FLOAT32_PLANES, SAMPLER_ACTIVATION_PLANES = 6, 1
DENOISE_ACTIVATION_PLANES = 1  # in the layers of a denoise pass: what the step before hands on
DECODE_FLOAT32_PLANES = 3  # choosing a token, in [B, V]: the product, its softcap, and the capped one
# Combining the experts' outputs (engine/moe.py), in [S, H]: first inputs, outputs, weighted ones, and where the outputs
# are not float32 a copy of them that is; then inputs, and weighted outputs sorted and in order, while they are summed.
WEIGHING_ACTIVATION_PLANES, SUMMING_ACTIVATION_PLANES, COMBINE_FLOAT32_PLANES = 2, 1, 2
PAIR_BYTES = 4 * 8 + 4  # and of each pair: its expert twice, its place sorted and in order, its weight
# Meanwhile in the layer (engine/model.py), in [N, H]: the pass's input, attention's output, the residual, the dense
# branch, and the experts' input; and at last the sum over experts.
LAYER_ACTIVATION_PLANES, SUM_FLOAT32_PLANES = 5, 1
# Or in attention, in [N, all query heads]: queries, and three float32 ones of their norm; beside them, in [N, H], the
# pass's input and its norm. It is the wider of the two where tokens choose few experts.
ATTENTION_ACTIVATION_PLANES, ATTENTION_FLOAT32_PLANES, ATTENTION_INPUT_PLANES = 1, 3, 2
CACHE_SLACK = 256  # slots of a sliding layer beside its window (engine/kv_cache.py)


def predicted_bytes(cell: Cell, shape: ModelConfig, widths: cost.Widths) -> int:
    """Peak of one request of the cell's batch."""
    B, block = cell.batch_size, cell.block_length or 1
    positions = cell.prompt_tokens + -(-cell.output_tokens // block) * block
    in_prefill, cached = _cache(shape, B, cell.prompt_tokens, positions, widths)
    passes = [in_prefill + _layers(shape, B, cell.prompt_tokens, widths)]
    plane = B * block * shape.vocab_size
    if cell.block_length is None:
        passes.append(cached + plane * DECODE_FLOAT32_PLANES * FLOAT32_BYTES)
    else:
        handed_on = int(plane * widths.activation)
        sampler = plane * SAMPLER_FLOAT32_PLANES * FLOAT32_BYTES + SAMPLER_ACTIVATION_PLANES * handed_on
        layers = _layers(shape, B, block, widths) + DENOISE_ACTIVATION_PLANES * handed_on
        passes.append(cached + max(sampler, layers))
    return cost.weight_bytes(shape, widths) + max(passes)


def _cache(shape: ModelConfig, batch_size: int, prompt: int, positions: int, widths: cost.Widths) -> tuple[int, int]:
    """Bytes of keys and values in the prefill, and behind it, when sliding layers have given back a long prompt's."""
    window = shape.sliding_window - 1 + CACHE_SLACK
    in_prefill = max(min(positions, window), prompt)
    behind = window if in_prefill > 2 * window else in_prefill
    first, later = (
        cost.kv_bytes(shape, batch_size, sliding=slots, full=positions, widths=widths) for slots in (in_prefill, behind)
    )
    return first, later


def _layers(shape: ModelConfig, batch_size: int, tokens: int, widths: cost.Widths) -> int:
    """Bytes of a layer at its widest, with the rotary tables and the mask that all layers share."""
    rows, H, act = batch_size * tokens, shape.hidden_size, widths.activation
    attention = ATTENTION_ACTIVATION_PLANES * act + ATTENTION_FLOAT32_PLANES * FLOAT32_BYTES
    queries = shape.num_heads * max(shape.head_dim, shape.global_head_dim)
    cast = COMBINE_FLOAT32_PLANES * FLOAT32_BYTES if act < FLOAT32_BYTES else FLOAT32_BYTES
    weighing = shape.top_k_experts * (WEIGHING_ACTIVATION_PLANES * act + cast)
    summing = shape.top_k_experts * (SUMMING_ACTIVATION_PLANES * act + COMBINE_FLOAT32_PLANES * FLOAT32_BYTES)
    experts = max(weighing, summing + SUM_FLOAT32_PLANES * FLOAT32_BYTES) + LAYER_ACTIVATION_PLANES * act
    experts_bytes = H * experts + shape.top_k_experts * PAIR_BYTES
    widest = max(experts_bytes, queries * attention + H * ATTENTION_INPUT_PLANES * act)
    rope = 2 * tokens * (shape.head_dim + shape.global_head_dim) * act
    mask = tokens * tokens if tokens > shape.sliding_window else 0
    return int(rows * widest + rope) + mask
