"""Block-diffusion decoding gives the tokens of transformers' generate from equal seeds, and counts what it did."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch
from oracle import Pair, Setting, handed_on, ours, random_ids, theirs

from engine import api
from engine.choices import PLAIN, Choices, resolve

FAST = resolve(torch.device("cpu"), torch.float32)

COLD = Setting(batch=3, confidence=5.0, steps=20, t_min=0.05, t_max=0.1)
SETTINGS = {
    "the cap is reached in every canvas": Setting(),
    "a batch at the cap": Setting(batch=3),
    "stability 0 stops at once": Setting(batch=3, stability=0, confidence=5.0),
    "stability 1 stops rows at different steps": COLD,
    "stability 2 stops later": replace(COLD, stability=2),
    "a wide bound accepts most positions": replace(COLD, bound=50.0),
    "a wide bound with stability 2": replace(COLD, batch=2, bound=50.0, stability=2),
    "eos inside canvases, left padding, early stops": replace(
        COLD, pads=(0, 4, 8), eos=tuple(range(1, 12)), steps=10, seed=1
    ),
    "every row ends before the last canvas": replace(COLD, pads=(0, 4, 8), eos=tuple(range(1, 80)), stability=0),
    "one eos id in a batch": Setting(batch=2, length=3, output=11, eos=(5,), steps=5),
    "blocks longer than the context": Setting(length=16, output=30, steps=5),
    "blocks of one token": Setting(context=20, length=1, output=4, steps=5),
    "a context below the window": Setting(batch=2, context=3, steps=4),
    "one step a canvas": Setting(batch=2, steps=1),
}
STEP_BOUND = 5e-4  # of logits between -30 and 30, whose standard deviation is about 10


@pytest.fixture(scope="module")
def sharp(sharp: Pair) -> Pair:
    """With the plain implementations, which round as transformers does: one other draw changes all that follow."""
    return Pair(sharp.hf, api.load(sharp.directory, options=asdict(PLAIN)), sharp.directory)


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize(
    ("choices", "seed"), [(PLAIN, 0), (FAST, 0), (FAST, 1), (FAST, 2)], ids=["plain", "fast", "fast-1", "fast-2"]
)
def test_each_step_agrees_with_transformers_and_so_do_the_tokens_of_a_request(
    sharp: Pair, setting: Setting, choices: Choices, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharp.ours, "choices", choices)
    both = handed_on(sharp, replace(setting, seed=seed), monkeypatch, choices.sampler)
    assert torch.equal(both.ours.output_ids, both.theirs_BT)
    assert len(both.off) == both.ours.passes["denoise"]
    assert max(both.off) <= STEP_BOUND
    assert sum(both.exceptions) <= 1


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_tokens_and_steps_equal_those_of_transformers_from_the_same_seed(sharp: Pair, setting: Setting) -> None:
    expected = theirs(sharp, setting)
    got = ours(sharp, setting, torch.Generator().manual_seed(setting.seed))
    tokens = expected.sequences[:, setting.context :]
    assert torch.equal(got.output_ids, tokens)
    # transformers reports only non-pad tokens per denoising step of a row
    torch.testing.assert_close((tokens != 0).sum(1) / got.steps_per_canvas.sum(1), expected.tokens_per_forward)


def test_settings_cover_early_stops_the_cap_and_rows_that_end(sharp: Pair) -> None:
    runs = {name: ours(sharp, s, torch.Generator().manual_seed(s.seed)) for name, s in SETTINGS.items()}
    frozen = [r for r in runs.values() if len(set(r.steps_per_canvas.flatten().tolist())) > 2]
    ended = [r for r in runs.values() if r.stop_reason == "eos"]
    assert len(frozen) >= 4
    assert len(ended) >= 1
    assert any(0 in r.steps_per_canvas for r in runs.values())


def test_without_a_generator_the_global_one_gives_the_tokens_of_transformers(sharp: Pair) -> None:
    torch.manual_seed(0)
    got = ours(sharp, COLD, None)
    assert torch.equal(got.output_ids, theirs(sharp, COLD).sequences[:, COLD.context :])


def test_every_draw_comes_from_the_callers_generator(sharp: Pair) -> None:
    before = torch.random.get_rng_state()
    ours(sharp, COLD, torch.Generator().manual_seed(0))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_equal_generators_give_equal_tokens_and_others_do_not(sharp: Pair) -> None:
    runs = [ours(sharp, SETTINGS["a batch at the cap"], torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)]
    assert torch.equal(runs[0].output_ids, runs[1].output_ids)
    assert not torch.equal(runs[0].output_ids, runs[2].output_ids)


def test_fixed_stopping_runs_exactly_the_steps_asked_for(sharp: Pair) -> None:
    got = ours(sharp, COLD, None, stopping="fixed", num_steps=7)
    assert got.steps_per_canvas.tolist() == [[7, 7, 7]] * 3
    assert got.passes == {"prefill": 1, "denoise": 21, "commit": 2, "decode": 0}


def test_adaptive_passes_last_as_long_as_the_slowest_row_of_each_canvas(sharp: Pair) -> None:
    got = ours(sharp, COLD, torch.Generator().manual_seed(0))
    assert got.passes["denoise"] == got.steps_per_canvas.max(dim=0).values.sum()
    assert got.passes["denoise"] > got.steps_per_canvas.float().mean(dim=0).sum()


def test_whole_canvases_come_back_but_only_the_tokens_asked_for_count(sharp: Pair) -> None:
    got = ours(sharp, replace(COLD, output=13), None)
    assert got.output_ids.shape == (3, 18)
    assert got.useful_tokens.tolist() == [13, 13, 13]
    assert got.stop_reason == "length"


def test_ignored_eos_ids_are_plain_tokens(sharp: Pair) -> None:
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    plain = ours(sharp, COLD, generators[0])
    eos = tuple(plain.output_ids.unique().tolist())
    got = ours(sharp, replace(COLD, eos=eos), generators[1], eos="ignore")
    assert torch.equal(got.output_ids, plain.output_ids)
    assert got.useful_tokens.tolist() == [18, 18, 18]


def test_useful_tokens_run_up_to_the_first_eos_and_padding_follows(sharp: Pair) -> None:
    free = ours(sharp, Setting(steps=3), torch.Generator().manual_seed(0)).output_ids[0].tolist()
    eos = free[3]
    first = free.index(eos)
    got = ours(sharp, Setting(steps=3, eos=(eos,)), torch.Generator().manual_seed(0))
    assert got.output_ids[0].tolist() == free[: first + 1] + [0] * (6 - first - 1)
    assert got.useful_tokens.tolist() == [first + 1]
    assert got.stop_reason == "eos"
    assert got.passes["commit"] == 0


def test_a_pad_id_that_the_model_produced_counts_as_a_token(sharp: Pair) -> None:
    free = ours(sharp, Setting(steps=3), torch.Generator().manual_seed(0))
    produced = int(free.output_ids[0, 0])
    config = sharp.ours.config
    sharp.ours.config = config.with_generation(pad_id=produced)
    try:
        got = ours(sharp, Setting(steps=3, eos=(95,)), torch.Generator().manual_seed(0))
    finally:
        sharp.ours.config = config
    assert 95 not in free.output_ids
    assert got.useful_tokens.tolist() == [18]


def test_an_eos_beyond_the_tokens_asked_for_is_no_end(sharp: Pair) -> None:
    free = ours(sharp, Setting(steps=3), torch.Generator().manual_seed(0)).output_ids[0].tolist()
    beyond = next(i for i in range(1, 6) if free[i] not in free[:i])
    got = ours(sharp, Setting(steps=3, eos=(free[beyond],), output=beyond), torch.Generator().manual_seed(0))
    assert got.useful_tokens.tolist() == [beyond]
    assert got.stop_reason == "length"


def test_times_are_one_per_step_and_canvas_and_grow(sharp: Pair) -> None:
    got = ours(sharp, COLD, None)
    assert len(got.step_s) == got.passes["denoise"]
    assert len(got.block_s) == 3
    assert got.block_s == sorted(got.block_s)
    assert got.ttfb_s == got.block_s[0] > 0
    assert sum(got.step_s) < got.block_s[-1]


def test_the_checkpoints_own_values_are_used_where_the_caller_says_nothing(sharp: Pair) -> None:
    ids = random_ids(1, 9)
    got = api.generate(sharp.ours, ids, decoding="block_diffusion", output_tokens=6, stopping="fixed", eos="ignore")
    own = sharp.ours.config
    assert got.output_ids.shape == (1, own.canvas_length)
    assert got.steps_per_canvas.tolist() == [[own.generation.max_denoising_steps]] == [[48]]


@pytest.mark.parametrize("setting", list(SETTINGS.values())[:8:2], ids=list(SETTINGS)[:8:2])
def test_the_plain_sampler_draws_the_tokens_of_the_reference(sharp: Pair, setting: Setting) -> None:
    runs = [ours(sharp, setting, torch.Generator().manual_seed(7), sampler=name) for name in ("reference", "plain")]
    assert torch.equal(runs[0].output_ids, runs[1].output_ids)
