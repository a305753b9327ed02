"""What one request asks of torch: counts that repeat, and that one forward, copy or byte more changes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_proxy_counters import TEXTS, cell_of

from engine.model import Model
from harness.measuring.backends import operations, reference
from harness.measuring.backends.base import Answer
from harness.records.types import Cell
from harness.spec.config import DeviceConfig, ModelSource


def answer_of(work: Callable[[], Any], ids: list[list[int]] | None = None) -> Callable[[], Answer]:
    def request() -> Answer:
        work()
        return Answer(
            device_s=None, ttfb_s=0, block_s=(), step_s=(), passes={}, steps_per_canvas=(), useful_tokens=(),
            raw_tokens=0, stop_reason="", resolved={}, output_ids=ids,
        )  # fmt: skip

    return request


def test_operations_are_counted_one_by_one() -> None:
    x = torch.ones(4)
    assert operations.counted(answer_of(lambda: x.add(1).mul(2).relu()))["torch_operations"] == 3


def test_flops_are_two_for_each_multiplication_of_a_matrix_product() -> None:
    a, b = torch.ones(8, 16), torch.ones(16, 4)
    assert operations.counted(answer_of(lambda: a @ b))["torch_flops"] == 2 * 8 * 16 * 4


def test_bytes_are_each_input_read_and_each_output_written_once() -> None:
    x = torch.ones(1000)
    assert operations.counted(answer_of(lambda: x.add(1)))["torch_bytes"] == 2 * 4000
    assert operations.counted(answer_of(lambda: x.view(10, 100)[0]))["torch_bytes"] == 0


def test_the_peak_is_what_lived_at_once() -> None:
    x = torch.ones(1000)  # 4,000 bytes, made before the request

    def one_after_the_other() -> None:
        for _ in range(5):
            x.add(1)

    def together() -> list[torch.Tensor]:
        return [x.add(1) for _ in range(5)]

    assert operations.counted(answer_of(one_after_the_other))["peak_tensor_bytes"] == 4000
    assert operations.counted(answer_of(together))["peak_tensor_bytes"] == 5 * 4000


def test_views_and_changes_in_place_make_no_bytes() -> None:
    x = torch.ones(1000)
    assert operations.counted(answer_of(lambda: x.view(10, 100)[0].mul_(2)))["peak_tensor_bytes"] == 0


def test_each_row_has_the_hash_of_its_ids_and_the_first_eight_rows_their_ids() -> None:
    rows = [[number, 5] for number in range(9)]
    counted = operations.counted(answer_of(lambda: None, rows))
    assert counted["output_hashes"][1] == hashlib.sha256(b"[1, 5]").hexdigest()[:16]
    assert len(set(counted["output_hashes"])) == 9
    assert counted["output_ids"] == rows[:8]


@pytest.fixture(scope="module")
def backend() -> reference.ReferenceBackend:
    made = reference.ReferenceBackend()
    made.load(ModelSource(preset="tiny"), None, DeviceConfig(kind="cpu"), cell_of(), 0)  # type: ignore[arg-type]
    return made


def counted(backend: reference.ReferenceBackend, cell: Cell) -> dict[str, Any]:
    backend.generate(cell, backend.prepare(cell, TEXTS, 5))  # as after a warm-up: what a model makes once is there
    prepared = backend.prepare(cell, TEXTS, 5)
    return operations.counted(lambda: backend.generate(cell, prepared))


@pytest.mark.parametrize("decoding", ["block_diffusion", "autoregressive"])
def test_a_request_of_the_engine_counts_alike_each_time(backend: reference.ReferenceBackend, decoding: str) -> None:
    cell = cell_of(decoding)
    assert counted(backend, cell) == counted(backend, cell)


@pytest.mark.parametrize("decoding", ["block_diffusion", "autoregressive"])
def test_forwards_are_the_passes_that_the_engine_reports(backend: reference.ReferenceBackend, decoding: str) -> None:
    cell = cell_of(decoding)
    passes = backend.generate(cell, backend.prepare(cell, TEXTS, 5)).passes
    assert counted(backend, cell)["forwards"] == sum(passes.values())


def test_a_forward_that_the_engine_does_not_report_is_seen(
    backend: reference.ReferenceBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = cell_of()
    before, denoised = counted(backend, cell), Model.denoised

    def twice(self: Model, *args: Any, **kwargs: Any) -> Any:
        denoised(self, *args, **kwargs)
        return denoised(self, *args, **kwargs)

    monkeypatch.setattr(Model, "denoised", twice)
    after = counted(backend, cell)
    steps = 3 * 2  # of two canvases
    assert after["forwards"] == before["forwards"] + steps
    for name in ("torch_operations", "torch_flops", "torch_bytes"):
        assert after[name] > before[name]
    assert after["output_hashes"] == before["output_hashes"]


def test_a_protocol_asks_for_them_and_others_do_not(tmp_path: Path) -> None:
    from harness.spec.suite import compose

    asks = {name: compose([f"protocol={name}"], backends=["reference"]).protocol.operations for name in ("gate", "ci")}
    assert asks == {"gate": True, "ci": False}
