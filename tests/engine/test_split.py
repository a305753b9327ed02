"""The split of a pass's time into parts: exclusive, complete, and free of any effect on the answer."""

from __future__ import annotations

import time

import pytest
import torch
from nvtx_traced import TWO_LAYERS

from engine import api, ranges
from engine.split import OTHER, PARTS, PASSES, Split, listening
from engine.weights import random_model

CPU = torch.device("cpu")
DECODINGS = ["block_diffusion", "autoregressive"]


def generate(decoding: str) -> api.Generation:
    model = random_model(TWO_LAYERS, CPU, torch.float32, seed=0)
    prompt = torch.ones(1, 5, dtype=torch.long)
    return api.generate(model, prompt, decoding=decoding, output_tokens=6, num_steps=2, stopping="fixed", eos="ignore")


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that nothing moves but the test: [now]."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_what_a_part_contains_is_counted_once_and_the_rest_of_a_pass_is_other(ticks: list[float]) -> None:
    with listening(CPU) as split:
        ticks[0] += 100  # before any pass
        with ranges.DENOISE_STEP(0):
            ticks[0] += 1
            with ranges.LAYER(0):
                ticks[0] += 2
                with ranges.EXPERTS(0):
                    ticks[0] += 4
                    with ranges.EXPERTS_GEMM(0):
                        ticks[0] += 8
                ticks[0] += 16
            with ranges.LM_HEAD():
                ticks[0] += 32
        ticks[0] += 100
    assert split.seconds == {"denoise": {OTHER: 19, "experts": 12, "lm_head": 32}}
    assert split.passes == {"denoise": 1}


def test_parts_of_passes_of_one_kind_add_up_and_kinds_stay_apart(ticks: list[float]) -> None:
    with listening(CPU) as split:
        for index in range(3):
            with ranges.DECODE_STEP(index), ranges.MLP(0):
                ticks[0] += 1
        with ranges.COMMIT(4), ranges.MLP(0):
            ticks[0] += 5
    assert split.seconds["decode"]["dense_mlp"] == 3
    assert split.seconds["commit"]["dense_mlp"] == 5
    assert split.passes == {"decode": 3, "commit": 1}


def test_marks_that_are_read_on_the_way_lose_nothing(ticks: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.split._MOST_MARKS", 3)
    with listening(CPU) as split:
        for index in range(10):
            with ranges.DECODE_STEP(index), ranges.MLP(0):
                ticks[0] += 1
            assert len(split._marks) <= 3 + 4
    assert sum(split.seconds["decode"].values()) == 10


@pytest.mark.parametrize("decoding", DECODINGS)
def test_every_pass_of_a_request_is_split_into_all_parts_that_it_has(decoding: str) -> None:
    with listening(CPU) as split:
        out = generate(decoding)
    assert split.passes == {kind: count for kind, count in out.passes.items() if count}
    main = "denoise" if decoding == "block_diffusion" else "decode"
    only_diffusion = set() if main == "denoise" else {"self_conditioning"}
    assert split.seconds[main].keys() == {OTHER, *PARTS.values()} - only_diffusion


@pytest.mark.parametrize("decoding", DECODINGS)
def test_the_parts_of_all_steps_are_the_steps_of_the_same_request(decoding: str) -> None:
    with listening(CPU) as split:
        out = generate(decoding)
    main = "denoise" if decoding == "block_diffusion" else "decode"
    assert sum(out.step_s) == pytest.approx(sum(split.seconds[main].values()), rel=0.2)


@pytest.mark.parametrize("decoding", DECODINGS)
def test_listening_changes_no_token(decoding: str) -> None:
    torch.manual_seed(0)
    plain = generate(decoding)
    torch.manual_seed(0)
    with listening(CPU):
        heard = generate(decoding)
    assert torch.equal(plain.output_ids, heard.output_ids)


def test_a_request_that_raises_leaves_nobody_listening() -> None:
    with pytest.raises(RuntimeError, match="on purpose"), listening(CPU), ranges.DECODE_STEP(1):
        raise RuntimeError("on purpose")
    assert ranges._listener is None


def test_two_listeners_at_once_are_refused() -> None:
    with listening(CPU), pytest.raises(ValueError, match="listened to already"), ranges.heard_by(Split(CPU)):
        pass


def test_every_range_that_the_split_names_exists() -> None:
    names = {one.name for one in vars(ranges).values() if isinstance(one, ranges.Range)}
    assert PASSES.keys() | PARTS.keys() <= names


class Event:
    """A CUDA event without a device: it knows when it was recorded, and refuses to be read before it was waited for."""

    now = 0.0
    waited_until = -1.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = Event.now

    def synchronize(self) -> None:
        Event.waited_until = self.at

    def elapsed_time(self, end: Event) -> float:
        assert end.at <= Event.waited_until
        return 1e3 * (end.at - self.at)


def test_on_cuda_events_are_read_only_after_the_last_one_was_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    with listening(torch.device("cuda")) as split, ranges.DENOISE_STEP(0):
        Event.now += 1
        with ranges.EXPERTS(0):
            Event.now += 2
        assert Event.waited_until == -1.0
    assert split.seconds == {"denoise": {OTHER: 1.0, "experts": 2.0}}
