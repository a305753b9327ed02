"""When a cell is warm and has rounds enough: rules over made-up seconds, and a session whose clock is scripted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_session import Notes, plan_of, run

from harness.measuring import cell as live_cell
from harness.measuring.cell import place_of
from harness.measuring.enough import FIXED, NARROW, STABLE, is_narrow, is_stable, rounds_ended, warm_up_ended
from harness.measuring.jobs import due_jobs, of_one_process
from harness.records import store
from harness.records.types import AUTOREGRESSIVE, Cell, Record
from harness.spec import suite
from harness.spec.config import Protocol

DECIDED = Protocol(
    warmup_rounds=1, max_warmup_rounds=9, max_warmup_s=100.0, warmup_window=2, warmup_tolerance=0.1,
    rounds=3, max_rounds=12, max_rounds_s=100.0, half_width=0.05,
)  # fmt: skip
WORDS = (
    "axes.batch_size=[1]", "axes.num_steps=[2]", "protocol.max_warmup_rounds=9", "protocol.warmup_window=2",
    "protocol.warmup_tolerance=0.1", "protocol.max_rounds=12", "protocol.half_width=0.05", "protocol.counters=false",
)  # fmt: skip
NOISE = (1.0, 2.0)


def test_a_cell_is_warm_when_two_windows_have_the_same_median() -> None:
    assert is_stable([5.0, 1.0, 1.05, 1.02], 2, 0.1) is False
    assert is_stable([5.0, 1.0, 1.05, 1.02, 1.01], 2, 0.1) is True


def test_fewer_requests_than_two_windows_are_never_stable() -> None:
    assert not is_stable([1.0] * 5, 3, 0.1)


def test_the_cold_request_is_no_part_of_a_window() -> None:
    assert warm_up_ended([1.0] * 4, 4.0, DECIDED) is None
    assert warm_up_ended([99.0, 1.0, 1.0, 1.0, 1.0], 103.0, DECIDED) == STABLE


def test_a_warm_up_that_does_not_settle_ends_by_the_cap_that_it_meets() -> None:
    restless = [2.0**i for i in range(9)]
    assert warm_up_ended(restless[:8], 0.0, DECIDED) is None
    assert warm_up_ended(restless, 0.0, DECIDED) == "max_warmup_rounds"
    assert warm_up_ended(restless[:3], 100.0, DECIDED) == "max_warmup_s"


def test_without_a_cap_the_number_of_requests_is_fixed() -> None:
    fixed = Protocol(warmup_rounds=2, rounds=3)
    assert [warm_up_ended([1.0] * n, 0.0, fixed) for n in range(4)] == [None, None, FIXED, FIXED]
    assert [rounds_ended([1.0] * n, 0.0, fixed) for n in range(5)] == [None, None, None, FIXED, FIXED]


def test_equal_rounds_are_enough_as_soon_as_they_can_have_a_95_percent_interval() -> None:
    assert [n for n in range(1, 9) if is_narrow([1.0] * n, 0.05)] == [6, 7, 8]


def test_rounds_end_when_the_interval_is_narrow() -> None:
    wide, narrow = [1.0, 1.2] * 3, [1.0, 1.02] * 3
    assert (rounds_ended(wide, 0.0, DECIDED), rounds_ended(narrow, 0.0, DECIDED)) == (None, NARROW)


def test_rounds_that_stay_apart_end_by_the_cap_that_they_meet() -> None:
    assert rounds_ended([1.0, 2.0] * 6, 0.0, DECIDED) == "max_rounds"
    assert rounds_ended([1.0, 2.0] * 3, 100.0, DECIDED) == "max_rounds_s"
    assert rounds_ended([1.0, 2.0], 100.0, DECIDED) is None  # the least number is always taken


@pytest.mark.parametrize("most", [1, 2, 3, 7, 12, 40])
def test_all_rounds_take_all_places_of_the_prompt_set(most: int) -> None:
    assert sorted(place_of(index, most) for index in range(most)) == list(range(most))


@pytest.mark.parametrize("taken", [4, 6, 10])
def test_rounds_that_end_early_are_spread_over_the_prompt_set(taken: int) -> None:
    places = sorted(place_of(index, 40) for index in range(taken))
    gaps = [after - before for before, after in zip(places, [*places[1:], places[0] + 40], strict=True)]
    assert max(gaps) <= 2 * 40 / taken


class Scripted(Notes):
    """Requests take what the script says, by a clock that nothing else moves."""

    def __init__(self, script: Callable[[Cell, int], float]) -> None:
        super().__init__()
        self.script, self.now = script, 0.0
        self.asked: dict[str, int] = {}

    def generate(self, cell: Cell, prepared: int) -> Any:
        number = self.asked[cell.cell_id] = self.asked.get(cell.cell_id, -1) + 1
        self.now += self.script(cell, number)
        return super().generate(cell, prepared)


def measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch, script: Callable[[Cell, int], float], *words: str
) -> dict[str, Record]:
    """Decoding -> the record, of one group whose requests take the script's seconds."""
    backend = Scripted(script)
    for clock in ("perf_counter", "process_time"):
        monkeypatch.setattr(live_cell, clock, lambda: backend.now)
    run(plan_of(*WORDS, *words), folder, backend)
    return {record.cell.decoding: record for record in store.read_records(folder).records}


def restless(cell: Cell, number: int) -> float:
    """Autoregressive decoding never settles; its diffusion twin always takes a second."""
    return NOISE[number % 2] if cell.decoding == AUTOREGRESSIVE else 1.0


def test_a_group_goes_on_while_one_member_needs_rounds_and_every_round_has_its_twin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = measured(tmp_path, monkeypatch, restless)
    assert {len(record.rounds) for record in records.values()} == {12}


def test_a_group_ends_when_all_its_members_are_narrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = measured(tmp_path, monkeypatch, lambda cell, number: 1.0)
    assert {len(record.rounds) for record in records.values()} == {6}
    assert all(record.course["ended"] == {"warmup": STABLE, "rounds": NARROW} for record in records.values())
    assert not any(record.warnings for record in records.values())


def test_only_the_cell_that_is_not_warm_is_warmed_up_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = measured(tmp_path, monkeypatch, lambda c, n: 1.2**n if c.decoding == AUTOREGRESSIVE else 1.0)
    lengths = {decoding: len(record.course["warmup_s"]) for decoding, record in records.items()}
    assert lengths == {AUTOREGRESSIVE: 9, "block_diffusion": 5}


def test_the_record_says_which_cap_came_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slower(cell: Cell, number: int) -> float:
        return 1.2**number if cell.decoding == AUTOREGRESSIVE else 1.0

    records = measured(tmp_path, monkeypatch, slower)
    assert records[AUTOREGRESSIVE].warnings == (
        "warm-up was ended by protocol.max_warmup_rounds=9 before request times were stable",
        "rounds were ended by protocol.max_rounds=12 with an interval wider than +-5.0%",
    )
    assert records["block_diffusion"].warnings == ()


def test_a_group_that_takes_too_long_ends_by_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = measured(tmp_path, monkeypatch, restless, "protocol.max_rounds_s=12")
    assert {len(record.rounds) for record in records.values()} == {5}  # of 2.5 s each for the two
    assert "protocol.max_rounds_s=12" in " ".join(records[AUTOREGRESSIVE].warnings)


def test_the_cold_request_is_timed_apart_from_the_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = measured(tmp_path, monkeypatch, lambda cell, number: 7.0 if number == 0 else 1.0)
    for record in records.values():
        assert record.course["cold_s"] == record.course["warmup_s"][0] == 7.0
        assert {round.wall_s for round in record.rounds} == {1.0}


def test_on_a_cpu_its_own_time_decides_and_elsewhere_wall_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Scripted(restless)
    monkeypatch.setattr(live_cell, "perf_counter", lambda: backend.now)
    monkeypatch.setattr(live_cell, "process_time", lambda: float(len(backend.calls)))
    run(plan_of(*WORDS), tmp_path, backend)
    assert {len(record.rounds) for record in store.read_records(tmp_path).records} == {6}


@pytest.mark.parametrize("name", ["ci", "publish"])
def test_protocols_that_claim_something_let_times_decide(name: str) -> None:
    protocol = suite.compose([f"protocol={name}"], backends=["reference"]).protocol
    assert protocol.max_warmup_rounds is not None and protocol.max_rounds is not None
    assert protocol.max_warmup_rounds > 2 * protocol.warmup_window  # else it could never be found stable
    assert protocol.rounds >= 6  # fewer have no 95 % interval
    assert (protocol.launches >= 5) == (name == "publish")


def test_with_process_isolation_every_process_gets_one_cell() -> None:
    plan = plan_of("isolation=process", "protocol.launches=2")
    jobs = due_jobs(plan, {})
    assert sorted((planned.cell_id, job.launch) for job in jobs for planned, _ in job.members) == sorted(
        (planned.cell_id, launch) for planned in plan.cells for launch in (0, 1)
    )
    assert [len(job.members) for job in of_one_process(jobs, plan)] == [1]


def test_with_launch_isolation_a_process_gets_all_groups_of_a_launch() -> None:
    plan = plan_of("protocol.launches=2")
    assert len(of_one_process(due_jobs(plan, {}), plan)) == len(plan.groups)
