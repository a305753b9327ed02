"""What a worker does with its jobs, in this process: the order of requests, and what a failed cell means."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from harness.measuring.backends.base import Answer, DeviceBroken, OutOfMemory, Unsupported
from harness.measuring.backends.fake import FakeBackend
from harness.measuring.jobs import due_jobs
from harness.measuring.session import Session, smallest_ooms, turns
from harness.records import store
from harness.records.journal import RoundJournal, dead_journals
from harness.records.types import AUTOREGRESSIVE, Cell
from harness.spec.config import ConfigError
from harness.spec.plan import Plan, build, identified
from harness.spec.suite import compose


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


def plan_of(*words: str, config_dir: Path | None = None) -> Plan:
    words = ("backend=fake", "axes.batch_size=[1,2]", "axes.block_length=[16]", "axes.num_steps=[2,4]", *words)
    folder = None if config_dir is None else str(config_dir)
    return identified(build(compose(list(words), config_dir=folder, backends=["fake"])), {})


def run(plan: Plan, folder: Path, backend: Notes | None = None, worker: str = "w") -> Notes:
    """All jobs of a plan in one session, as one worker would do them."""
    backend = backend or Notes()
    writer, journal = store.RecordWriter(folder, worker), RoundJournal(folder, worker)
    session = Session(
        plan=plan, run_id="r", worker=worker, environment_id="e", backends={"fake": backend}, writer=writer,
        journal=journal, tell=lambda event: None, smallest_oom=smallest_ooms(store.read_records(folder).final.values()),
    )  # fmt: skip
    for job in due_jobs(plan, {}):
        session.measure(job)
    writer.close()
    journal.close()
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
    cells = len(set(orders[0]))
    assert orders[0][:cells] != orders[0][2 * cells : 3 * cells]


@pytest.mark.parametrize("members", [2, 3, 7])
def test_every_member_comes_before_every_other_as_often_as_behind_it(members: int) -> None:
    places = [[turns(range(members), "a group", index).index(one) for index in range(6)] for one in range(members)]
    for one, other in itertools.combinations(places, 2):
        assert sum(mine < its for mine, its in zip(one, other, strict=True)) == 3


def test_groups_do_not_share_the_luck_of_one_order() -> None:
    orders = {tuple(tuple(turns("ab", str(group), index)) for index in range(6)) for group in range(30)}
    assert len(orders) == 8  # two orders of the first round of each of three pairs


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


def test_a_larger_batch_of_a_line_that_ran_out_of_memory_is_pruned(tmp_path: Path) -> None:
    calls = run(
        plan_of("axes.batch_size=[1,2,4]"), tmp_path, Notes({(2, AUTOREGRESSIVE): OutOfMemory("too big")})
    ).calls
    records = store.read_records(tmp_path).records
    pruned = [r for r in records if (r.reason or "").startswith("pruned: batch 2")]
    assert [(r.cell.batch_size, r.cell.decoding, r.status, r.rounds) for r in pruned] == [
        (4, AUTOREGRESSIVE, "oom", ())
    ]
    assert pruned[0].cell_id not in {cell_id for _, cell_id, _ in calls}


def test_a_broken_device_ends_the_session_with_the_cells_record_and_the_others_rounds(tmp_path: Path) -> None:
    plan = plan_of("axes.batch_size=[1]", "protocol.rounds=2")
    backend = Notes()
    generate = backend.generate

    def breaks_late(cell: Cell, prepared: int) -> Answer:
        if len(backend.calls) == 7:  # three warm-ups, round 0 of three cells, and one cell of round 1
            backend.failures = {(1, cell.decoding): DeviceBroken("broken")}
        return generate(cell, prepared)

    backend.generate = breaks_late  # type: ignore[method-assign]
    with pytest.raises(DeviceBroken):
        run(plan, tmp_path, backend)
    (record,) = store.read_records(tmp_path).records
    assert (record.status, len(record.rounds)) == ("error", 1)
    lines = (tmp_path / "rounds-w.jsonl").read_text().splitlines()
    assert len(lines) == 4


def test_the_journal_of_a_living_worker_is_left_alone(tmp_path: Path) -> None:
    journal = RoundJournal(tmp_path, "alive")
    with dead_journals(tmp_path) as unfinished:
        assert unfinished == []
    assert journal.path.exists()
    journal.close()
    assert not journal.path.exists()
