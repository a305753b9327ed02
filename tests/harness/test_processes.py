"""Work that several processes share: it gives what one process gives, and what goes wrong in one is said."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from synthetic import Scenario, write_run

from harness import cli
from harness.records import processes

ROOT = Path(__file__).parents[2]
# From Python 3.12 on: the tests' own process may have threads, of torch for one, with which these functions do nothing.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_cores", lambda: 2)
    monkeypatch.setattr(processes, "_can_fork", lambda: sys.platform == "linux")


def shared_by(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    return list(processes.of_each(function, items, is_worth_it=True))


@pytest.mark.usefixtures("two_cores")
def test_results_come_in_the_order_of_their_items() -> None:
    offset = 10**6  # what a closure holds needs no copy
    assert shared_by(lambda n: n + offset, range(1000)) == [n + offset for n in range(1000)]


@pytest.mark.usefixtures("two_cores")
@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")
def test_processes_share_the_work_where_it_is_worth_it_and_not_elsewhere() -> None:
    assert os.getpid() not in shared_by(lambda _: os.getpid(), range(4))
    assert set(processes.of_each(lambda _: os.getpid(), range(4), is_worth_it=False)) == {os.getpid()}


@pytest.mark.usefixtures("two_cores")
def test_an_error_in_one_process_is_that_of_the_whole() -> None:
    def refuse(number: int) -> int:
        if number == 3:
            raise ValueError("item 3 is damaged")
        return number

    with pytest.raises(ValueError, match="item 3 is damaged"):
        shared_by(refuse, range(8))


@pytest.mark.usefixtures("two_cores")
@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")
def test_a_process_that_is_killed_ends_the_work_with_one_clear_message() -> None:
    with pytest.raises(processes.Killed, match="memory"):
        shared_by(lambda _: os.kill(os.getpid(), signal.SIGKILL), range(4))


@pytest.mark.parametrize(("words", "code"), [((), 0), (("--usd-per-hour", "absent=1"), 2)])
def test_a_report_gives_the_search_for_cycles_back_however_it_ends(
    tmp_path: Path, words: tuple[str, ...], code: int
) -> None:
    run_dir = write_run(tmp_path, Scenario(axes={"batch_size": [2], "block_length": [256], "num_steps": [8]}))
    frozen = gc.get_freeze_count()
    assert cli.main(["report", str(run_dir), "-o", str(tmp_path / "page.html"), "-q", *words]) == code
    assert gc.isenabled()
    assert gc.get_freeze_count() <= frozen


_REPORT = """
import sys
from harness.records import processes, store
from harness import cli
if sys.argv[1] == "shared":
    processes._cores = lambda: 2
    processes.WORTH_IT = store._LARGE_BYTES = 0
    store._CHUNK_BYTES = 5_000
else:
    processes._cores = lambda: 1
sys.exit(cli.main(["report", *sys.argv[3:], "-o", sys.argv[2], "--export", sys.argv[2] + ".d", "--json"]))
"""


def test_a_report_that_processes_share_is_byte_for_byte_that_of_one(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path, Scenario(name=f"on_{device}", device=device, axes={"prompt_set": ["code", "maths"]}))
        for device in ("h100", "h200")
    ]
    torn = next(runs[0].glob("records-*.jsonl"))
    torn.write_bytes(torn.read_bytes()[:-30])
    said, files = [], []
    for how in ("alone", "shared"):
        page = tmp_path / how / "page.html"
        command = [sys.executable, "-c", _REPORT, how, str(page), *map(str, runs)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode in (0, 3), done.stderr
        said.append((done.stdout + done.stderr).replace(f"/{how}/", "/"))
        files.append(
            {p.relative_to(tmp_path / how): p.read_bytes() for p in (tmp_path / how).rglob("*") if p.is_file()}
        )
    assert "skipped a torn or foreign line" in said[0]
    assert said[0] == said[1]
    assert files[0] == files[1]
