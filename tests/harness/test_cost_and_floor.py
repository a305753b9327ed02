"""Costs against the published formula table written out once more, with the released sizes as literal numbers."""

from __future__ import annotations

import pytest

from engine.config import PRESETS
from engine.cost import Widths, distinct_experts, parameters, pass_cost, weight_bytes
from harness.records.types import Cell
from harness.spec.config import DeviceConfig, Figure
from harness.spec.floor import predict

RELEASED = PRESETS["diffusiongemma_26b_a4b"]
V, H, L, E, K, I, D, W = 262_144, 2816, 30, 128, 8, 704, 2112, 1024  # noqa: E741
ATTENTION = 403_701_760 * 2 + 158_597_120 + 144_179_200  # q and o, k, v of the released checkpoint


def table(kind: str, B: int, T: int, C: int, w: int) -> dict[str, tuple[float, float]]:
    """(bytes, FLOPs) by operation, from the formulas: M = B*T rows, C cached, w bytes per weight, activations 2."""
    M = B * T
    hit = E * (1 - (1 - K / E) ** M)
    # every matrix product's input once and output once: q, k, v share an input; v exists in the 25 sliding layers
    act = M * 2 * (25 * (H + 16 * 256 + 2 * 8 * 256 + 16 * 256 + H) + 5 * (H + 16 * 512 + 2 * 512 + 16 * 512 + H))
    rows = {
        "attention_projections": (ATTENTION * w + act, 2 * M * ATTENTION),
        "attention_core": (
            2 * B * (25 * 2048 * (min(C, W - 1) + T) * 2 + 5 * 1024 * (C + T) * 2),
            4 * M * 16 * (25 * 256 * (min(C, W - 1) + T) + 5 * 512 * (C + T)),
        ),
        "dense_mlp": (535_265_280 * w + L * M * (2 * H + 3 * D) * 2, 2 * M * 535_265_280),
        "experts": (L * hit * 3 * H * I * w + L * M * K * (2 * H + 3 * I) * 2, 2 * M * K * L * 3 * H * I),
        "router": (L * (H * E + 14 * M * H) * 2, 2 * M * L * H * E),
    }
    if kind == "denoise":
        rows["soft_embedding"] = (V * H * 2 + 2 * M * V, 2 * M * V * H)
        rows["selfcond_mlp"] = (3 * H * 2112 * w, 2 * M * 3 * H * 2112)
        rows["lm_head"] = (V * H * 2 + 4 * M * V, 2 * M * V * H)
        rows["sampler"] = (10 * M * V, 12 * M * V)
    if kind == "decode":
        rows["lm_head"] = (V * H * 2 + 4 * M * V, 2 * M * V * H)
    return rows


@pytest.mark.parametrize("weight", [2, 1])
@pytest.mark.parametrize(
    ("kind", "batch", "tokens", "context"),
    [
        ("denoise", 1, 256, 1024),
        ("denoise", 8, 64, 40),
        ("commit", 4, 512, 9000),
        ("prefill", 2, 1024, 0),
        ("decode", 64, 1, 5000),
    ],
)
def test_every_operation_costs_what_the_formula_table_says(
    kind: str, batch: int, tokens: int, context: int, weight: int
) -> None:
    widths = Widths(weight=weight, activation=2, kv=2, head=2)
    ours = pass_cost(RELEASED, kind, batch_size=batch, tokens=tokens, context=context, widths=widths)
    for name, (bytes_, flops) in table(kind, batch, tokens, context, weight).items():
        assert ours[name].bytes == pytest.approx(bytes_, rel=1e-9), name
        assert ours[name].flops == pytest.approx(flops, rel=1e-9), name
    assert set(ours) - set(table(kind, batch, tokens, context, weight)) <= {"sampler"}


def test_the_released_shape_has_the_published_number_of_parameters() -> None:
    parts = parameters(RELEASED)
    assert parts["experts"] == 15_225_323_520 + 7_612_661_760
    assert parts["attention"] == ATTENTION
    assert parts["router"] + 30 * (H + E) == 10_813_440 + 30 * (H + E)
    assert sum(parts.values()) == pytest.approx(25_250_986_752, rel=1e-4)
    assert weight_bytes(RELEASED, Widths(weight=2, activation=2, kv=2, head=2)) == pytest.approx(50.5e9, rel=1e-3)


@pytest.mark.parametrize(
    ("rows", "hit"), [(1, 8), (2, 15.5), (4, 29.1), (8, 51.6), (16, 82.4), (32, 111.8), (64, 125.9)]
)
def test_distinct_experts_follow_the_uniform_expectation(rows: int, hit: float) -> None:
    assert distinct_experts(RELEASED, rows) == pytest.approx(hit, abs=0.06)


def cell(**changes: object) -> Cell:
    given = {
        "backend": "reference", "model": "m", "decoding": "block_diffusion", "batch_size": 1, "prompt_set": "code",
        "prompt_tokens": 1024, "output_tokens": 512, "eos": "ignore", "block_length": 256, "num_steps": 16,
        "stopping": "fixed", "weight_dtype": "bfloat16", "activation_dtype": "bfloat16", "kv_dtype": "bfloat16",
        "head_dtype": "bfloat16", "routing": "model", "device": "d", "protocol": "p",
    }  # fmt: skip
    return Cell(**{**given, **changes})  # type: ignore[arg-type]


def device(bandwidth: float | None = 3.35e12, rate: float | None = 989e12) -> DeviceConfig:
    return DeviceConfig(
        name="d", bandwidth_bytes_s=Figure(value=bandwidth), flops_s={"bfloat16": Figure(value=rate)} if rate else {}
    )


def test_a_request_is_one_prefill_all_steps_and_one_commit_fewer_than_canvases() -> None:
    passes = predict(cell(output_tokens=600), RELEASED, device()).passes
    assert passes == {"prefill": 1, "denoise": 48, "commit": 2, "decode": 0}


def test_cells_that_differ_in_steps_alone_share_what_one_step_costs() -> None:
    few, many = (predict(cell(num_steps=steps), RELEASED, device()) for steps in (2, 48))
    assert few.one_step is many.one_step
    assert (few.phases["denoise"].count, many.phases["denoise"].count) == (4, 96)


def test_an_autoregressive_request_takes_its_first_token_from_the_prefill() -> None:
    anchor = cell().twin
    prediction = predict(anchor, RELEASED, device())
    assert prediction.passes == {"prefill": 1, "denoise": 0, "commit": 0, "decode": 511}
    assert "lm_head" in prediction.phases["prefill"].operations


def test_the_floor_sums_over_operations_and_the_bound_over_the_whole_request() -> None:
    prediction = predict(cell(), RELEASED, device())
    floor = moved = computed = 0.0
    for kind, count, context in [("prefill", 1, 0), ("denoise", 16, 1024), ("commit", 1, 1024), ("denoise", 16, 1280)]:
        for bytes_, flops in table(kind, 1, 1024 if kind == "prefill" else 256, context, 2).values():
            floor += count * max(bytes_ / 3.35e12, flops / 989e12)
            moved, computed = moved + count * bytes_, computed + count * flops
    assert prediction.floor_s == pytest.approx(floor, rel=1e-9)
    assert prediction.bound_s == pytest.approx(max(moved / 3.35e12, computed / 989e12), rel=1e-9)
    assert prediction.bound_s <= prediction.floor_s  # type: ignore[operator]


def test_a_denoise_step_of_the_released_shape_is_memory_bound_at_16_6_ms_on_an_h100() -> None:
    phase = predict(cell(output_tokens=256, num_steps=1), RELEASED, device()).phases["denoise"]
    assert phase.floor_s == pytest.approx(16.6e-3, rel=0.01)


@pytest.mark.parametrize("without", [device(bandwidth=None), device(rate=None)])
def test_a_device_without_roofs_predicts_nothing_and_says_why(without: DeviceConfig) -> None:
    prediction = predict(cell(), RELEASED, without)
    assert prediction.floor_s is None
    assert prediction.bound_s is None
    assert set(prediction.missing) == {"floor_s", "bound_s", "predicted_s"}
    assert prediction.phases["denoise"].operations["experts"].bytes > 0


def test_memory_grows_with_the_canvas_times_the_vocabulary() -> None:
    small, large = (predict(cell(batch_size=b), RELEASED, device()).memory_bytes for b in (1, 9))
    assert large - small >= 8 * 256 * V * 4
