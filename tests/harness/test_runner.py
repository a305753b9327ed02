"""The order in which a plan is measured, and what happens when a cell fails. The backend is a fake that takes notes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.measuring import runner
from harness.measuring.backends.base import Answer, OutOfMemory, Unsupported
from harness.measuring.backends.fake import FakeBackend
from harness.records import store
from harness.records.types import AUTOREGRESSIVE, Cell, Environment, Record
from harness.spec.config import ConfigError
from harness.spec.plan import Plan, PlannedCell, build, identified
from harness.spec.suite import compose

HERE = Environment(identity={"cpu": "test"}, stack={}, circumstance={})


class Notes(FakeBackend):
    """Writes down every call; fails where it is told to."""

    def __init__(self, failures: dict[tuple[int, str], Exception] | None = None) -> None:
        self.calls: list[tuple[str, str, int]] = []
        self.loads = 0
        self.failures = failures or {}
        self.stage = ""

    def load(self, *args: Any) -> None:
        self.loads += 1
        super().load(*args)

    def prepare(self, cell: Cell, texts: tuple[str, ...], seed: int) -> int:
        self.seed, self.texts = seed, texts
        return seed

    def mark(self, stage: str, index: int) -> Any:
        self.stage = stage
        return super().mark(stage, index)

    def generate(self, cell: Cell, prepared: int) -> Answer:
        self.calls.append((self.stage, cell.cell_id, prepared))
        if error := self.failures.get((cell.batch_size, cell.decoding)):
            raise error
        return super().generate(cell, prepared)

    def count(self, cell: Cell, prepared: int) -> dict[str, Any]:
        self.calls.append(("count", cell.cell_id, prepared))
        return super().count(cell, prepared)


class Watcher:
    """A progress that can pull the plug."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.records: list[Record] = []
        self.stop_after = stop_after

    def start(self, plan: Plan, todo: int) -> None:
        self.todo = todo

    def round_done(self, planned: PlannedCell, launch: int) -> None: ...

    def cell_done(self, planned: PlannedCell, record: Record) -> None:
        self.records.append(record)
        if len(self.records) == self.stop_after:
            raise KeyboardInterrupt

    def stop(self) -> None: ...


def plan_of(*words: str) -> Plan:
    words = ("backend=fake", "axes.batch_size=[1,2]", "axes.block_length=[16]", "axes.num_steps=[2,4]", *words)
    return identified(build(compose(list(words), backends=["fake"])), {})


def run(plan: Plan, folder: Path, backend: Notes | None = None, watcher: Watcher | None = None) -> Notes:
    backend = backend or Notes()
    runner.run(plan, folder, HERE, backend, watcher or Watcher())
    return backend


def test_a_group_warms_up_then_takes_each_round_of_all_its_cells_then_counts(tmp_path: Path) -> None:
    plan = plan_of("axes.batch_size=[1]", "protocol.warmup_rounds=2", "protocol.rounds=3")
    stages = [stage for stage, _, _ in run(plan, tmp_path).calls]
    assert stages == ["warmup"] * 3 * 2 + ["measure"] * 3 * 3 + ["count"] * 3


def test_round_r_uses_seed_plus_r_in_every_cell(tmp_path: Path) -> None:
    calls = run(plan_of("seed=40", "protocol.rounds=3"), tmp_path).calls
    by_cell: dict[str, list[int]] = {}
    for stage, cell_id, seed in calls:
        if stage == "measure":
            by_cell.setdefault(cell_id, []).append(seed)
    assert set(map(tuple, by_cell.values())) == {(40, 41, 42)}


def test_rounds_of_twins_are_interleaved(tmp_path: Path) -> None:
    calls = run(plan_of("axes.batch_size=[1]", "protocol.rounds=4"), tmp_path).calls
    measured = [cell_id for stage, cell_id, _ in calls if stage == "measure"]
    rounds = [set(measured[i : i + 3]) for i in range(0, len(measured), 3)]
    assert all(len(cells) == 3 for cells in rounds)


def test_the_order_within_a_round_is_random_but_the_same_for_a_seed(tmp_path: Path) -> None:
    words = ("axes.batch_size=[1]", "axes.num_steps=[2,3,4,5,6,7]", "protocol.rounds=4")
    orders = [[c for s, c, _ in run(plan_of(*words), tmp_path / str(i)).calls if s == "measure"] for i in range(2)]
    assert orders[0] == orders[1]
    assert orders[0][:7] != orders[0][7:14]


def test_equal_weights_are_loaded_once(tmp_path: Path) -> None:
    assert run(plan_of(), tmp_path).loads == 1


def test_every_dtype_is_loaded_once(tmp_path: Path) -> None:
    assert run(plan_of("axes.weight_dtype=[float32,bfloat16]"), tmp_path).loads == 2


def test_twins_answer_the_same_prompts(tmp_path: Path) -> None:
    seen: dict[tuple[int, int], set[tuple[str, ...]]] = {}

    class Listener(Notes):
        def generate(self, cell: Cell, prepared: int) -> Answer:
            seen.setdefault((cell.batch_size, prepared), set()).add(self.texts)
            return super().generate(cell, prepared)

    run(plan_of(), tmp_path, Listener())
    assert all(len(texts) == 1 for texts in seen.values())
    assert all(len(next(iter(texts))) == batch for (batch, _), texts in seen.items())


def test_every_planned_cell_and_launch_has_one_record(tmp_path: Path) -> None:
    plan = plan_of("protocol.launches=2")
    run(plan, tmp_path)
    records = store.read_records(tmp_path).records
    assert sorted(r.key for r in records) == sorted((p.cell.cell_id, launch) for p in plan.cells for launch in (0, 1))
    assert all(r.status == "ok" and len(r.rounds) == plan.config.protocol.rounds for r in records)


def test_the_same_command_again_measures_nothing(tmp_path: Path) -> None:
    run(plan_of(), tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert run(plan_of(), tmp_path).calls == []
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_an_interrupted_run_keeps_what_was_measured_and_goes_on(tmp_path: Path) -> None:
    plan = plan_of()
    with pytest.raises(KeyboardInterrupt):
        run(plan, tmp_path, watcher=Watcher(stop_after=4))
    kept = set(store.read_records(tmp_path).final)
    assert len(kept) == 4
    run(plan, tmp_path)
    assert {key[0] for key in store.read_records(tmp_path).final} == {p.cell.cell_id for p in plan.cells}


def test_a_group_that_goes_on_in_another_process_measures_its_anchor_again(tmp_path: Path) -> None:
    plan = plan_of("axes.batch_size=[1]")
    with pytest.raises(KeyboardInterrupt):
        run(plan, tmp_path, watcher=Watcher(stop_after=2))
    run(plan, tmp_path)
    records = store.read_records(tmp_path).records
    anchors = [r for r in records if r.cell.decoding == AUTOREGRESSIVE]
    assert [r.attempt for r in sorted(anchors, key=lambda r: r.attempt)] == [1, 2]
    assert {r.worker for r in records if r.cell.decoding != AUTOREGRESSIVE} <= {r.worker for r in anchors}


@pytest.mark.parametrize(
    ("error", "status"),
    [(OutOfMemory("too big"), "oom"), (Unsupported("cannot"), "unsupported"), (RuntimeError("broken"), "error")],
)
def test_a_failed_cell_is_a_row_and_the_others_are_measured(tmp_path: Path, error: Exception, status: str) -> None:
    run(plan_of(), tmp_path, Notes({(2, AUTOREGRESSIVE): error}))
    by_status: dict[str, int] = {}
    for record in store.read_records(tmp_path).records:
        by_status[record.status] = by_status.get(record.status, 0) + 1
        assert record.status == "ok" or str(error) in (record.reason or "")
    assert by_status == {"ok": 5, status: 1}


def test_a_failed_cell_is_final_until_retry_failed(tmp_path: Path) -> None:
    run(plan_of(), tmp_path, Notes({(2, AUTOREGRESSIVE): RuntimeError("broken")}))
    assert run(plan_of(), tmp_path).calls == []
    run(plan_of("retry_failed=true"), tmp_path)
    assert {r.status for r in store.read_records(tmp_path).final.values()} == {"ok"}


def test_out_of_memory_is_final_even_with_retry_failed(tmp_path: Path) -> None:
    run(plan_of(), tmp_path, Notes({(2, AUTOREGRESSIVE): OutOfMemory("too big")}))
    assert run(plan_of("retry_failed=true"), tmp_path).calls == []


def test_a_load_that_does_not_fit_is_a_row_for_each_of_its_cells(tmp_path: Path) -> None:
    class TooBig(Notes):
        def load(self, *args: Any) -> None:
            raise OutOfMemory("weights too big")

    run(plan_of(), tmp_path, TooBig())
    assert {r.status for r in store.read_records(tmp_path).records} == {"oom"}


def test_a_users_mistake_stops_the_run_and_keeps_what_was_measured(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        run(plan_of(), tmp_path, Notes({(2, AUTOREGRESSIVE): ConfigError("no tokenizer")}))
    assert len(store.read_records(tmp_path).records) == 3
