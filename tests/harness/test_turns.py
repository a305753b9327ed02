"""Two processes in turn: strictly one after the other, and nobody waits for one that has gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_session import Notes, plan_of

from harness.measuring import turns
from harness.measuring.jobs import due_jobs
from harness.measuring.session import Session
from harness.records import store
from harness.records.journal import RoundJournal

PLAYER = """
import sys, time
from harness.measuring import turns
own = turns.from_environment()
for number in range(int(sys.argv[2])):
    with own.taken():
        with open(sys.argv[3], "a") as file:
            file.write(f"begin {sys.argv[1]}\\n"); file.flush(); time.sleep(0.001)
            file.write(f"end {sys.argv[1]}\\n")
"""


def play(tmp_path: Path, first: int, second: int) -> list[str]:
    """What two processes that take so many turns wrote."""
    notes = tmp_path / "notes"
    with turns.between("a", "b") as referee:
        players = {
            name: subprocess.Popen(
                [sys.executable, "-c", PLAYER, name, str(count), str(notes)],
                env={**os.environ, **referee.variables(name)},
            )
            for name, count in (("a", first), ("b", second))
        }
        for name in sorted(players, key=lambda name: {"a": first, "b": second}[name]):
            assert players[name].wait(20) == 0
            referee.ended(name)
    return notes.read_text().splitlines()


def test_turns_alternate_strictly_and_the_first_name_begins(tmp_path: Path) -> None:
    assert play(tmp_path, 20, 20) == ["begin a", "end a", "begin b", "end b"] * 20


@pytest.mark.parametrize(("first", "second"), [(3, 30), (30, 3)])
def test_whoever_stays_goes_on_alone(tmp_path: Path, first: int, second: int) -> None:
    lines = play(tmp_path, first, second)
    assert lines[:12] == ["begin a", "end a", "begin b", "end b"] * 3
    assert len(lines) == 2 * (first + second)


def test_one_whose_partner_never_comes_goes_on_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_LIMIT_S", 0.05)
    with turns.between("a", "b") as referee:
        own = turns.from_environment(referee.variables("b"))
        assert own is not None
        for _ in range(100):  # waits once, and not a hundred times
            with own.taken():
                pass


def test_without_a_partner_nobody_waits() -> None:
    assert turns.from_environment({}) is None


def test_a_session_takes_a_turn_for_the_load_and_for_each_request(tmp_path: Path) -> None:
    class Counted:
        count = 0

        def taken(self) -> Any:
            self.count += 1
            return turns.contextlib.nullcontext()

    plan, counted, backend = plan_of(), Counted(), Notes()
    writer, journal = store.RecordWriter(tmp_path, "w"), RoundJournal(tmp_path, "w")
    session = Session(
        plan=plan, run_id="r", worker="w", environment_id="e", backends={"fake": backend}, writer=writer,
        journal=journal, tell=lambda event: None, turns=counted,  # type: ignore[arg-type]
    )  # fmt: skip
    for job in due_jobs(plan, {}):
        session.measure(job)
    assert counted.count == len(backend.calls) + backend.loads
