"""What a large report costs: made-up runs of 20,000 cells on four devices, `report` whole, and the page in Chromium.

    python tools/report_cost.py [--cells N] [--devices N] [--observed] [--profile] [--keep DIR]

The runs are marked synthetic. `--observed` gives their records the counters of a real engine as well. Exit code 1: one
of the limits is broken (the seconds are those of a machine that does nothing else).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/harness"), str(ROOT / "tests/browser")]

from chromium import TIMED, opened, started  # noqa: E402
from synthetic import large_scenarios, write_run  # noqa: E402

MOST_BUILD_S, MOST_BYTES, MOST_NODES, MOST_OPEN_S, MOST_ACTION_S = 15.0, 3e6, 3_000, 1.0, 0.050
MOST_BYTES_200 = 0.3e6
MOST_MEMORY_BYTES = 500e6


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--devices", type=int, default=4)
    parser.add_argument("--observed", action="store_true", help="records with the counters of a real engine")
    parser.add_argument("--profile", action="store_true", help="where the time of the report goes, instead of limits")
    parser.add_argument("--keep", metavar="DIR", help="leave runs and page there, and use the runs that are there")
    args = parser.parse_args()
    folder = Path(args.keep or tempfile.mkdtemp())
    try:
        run_dirs = _runs(folder / "results", args)
        page = folder / "page.html"
        if args.profile:
            return _report(run_dirs, page, "-m", "cProfile", "-s", "cumtime")[0]
        broken = [*_build(run_dirs, page, args.cells), *_open(page)]
    finally:
        if not args.keep:
            shutil.rmtree(folder)
    for name in broken:
        print(f"BROKEN: {name}", file=sys.stderr)
    return 1 if broken else 0


def _runs(results_dir: Path, args: argparse.Namespace) -> list[str]:
    """The run directories, made where they are not there."""
    if not results_dir.exists():
        for scenario in large_scenarios(args.cells, args.devices, observed=args.observed):
            write_run(results_dir, scenario)
    megabytes = sum(path.stat().st_size for path in results_dir.glob("*/*/*")) / 1e6
    print(f"{args.cells} cells on {args.devices} devices, {megabytes:.0f} MB of records and plans")
    return [str(path.parent) for path in sorted(results_dir.glob("*/*/plan.json"))]


def _report(run_dirs: list[str], page: Path, *options: str) -> tuple[int, float, int]:
    """(exit code, wall seconds, bytes of memory at its peak) of `python -m harness report` in one thread."""
    command = [sys.executable, *options, "-m", "harness", "report", *run_dirs, "-o", str(page)]
    one_thread = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")}
    begun = time.perf_counter()
    child = subprocess.Popen(command, cwd=ROOT, env=one_thread, stdout=None if options else subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    return child.returncode, time.perf_counter() - begun, used.ru_maxrss * 1024


def _build(run_dirs: list[str], page: Path, cells: int) -> Iterator[str]:
    code, seconds, memory = _report(run_dirs, page)
    assert code == 0, f"report ended with {code}"
    size = page.stat().st_size
    yield from _said("build", seconds, MOST_BUILD_S, "s")
    yield from _said("memory", memory / 1e6, MOST_MEMORY_BYTES / 1e6, "MB")
    yield from _said("page", size / 1e6, (MOST_BYTES_200 if cells <= 200 else MOST_BYTES) / 1e6, "MB")


def _open(page: Path) -> Iterator[str]:
    """What the browser sees: nodes at load, seconds until it is idle, requests, and each of the table's answers."""
    with started() as browser, opened(browser, page) as visit:
        visit.page.goto("about:blank")  # the browser's own start is not the page's
        begun = time.perf_counter()
        visit.page.goto(page.resolve().as_uri(), wait_until="load")
        visit.page.wait_for_selector("#table tbody td", state="attached")
        visit.page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        yield from _said("open", time.perf_counter() - begun, MOST_OPEN_S, "s")
        yield from _said("nodes at load", visit.page.evaluate("document.querySelectorAll('*').length"), MOST_NODES, "")
        yield from _said("requests", len(visit.requests), 0, "")
        yield from _said("said on the console", len(visit.said), 0, "")
        for name, action in ACTIONS.items():
            yield from _said(name, visit.page.evaluate(TIMED % action) / 1e3, MOST_ACTION_S, "s")


ACTIONS = {
    "sort by a number": "press('tok/s')",
    "sort by a text": "press('cell id')",
    "filter by columns": "type('batch_size=1|4 num_steps=16')",
    "filter by a word": "type('made-up')",
    "filter by nothing": "type('')",
}


def _said(name: str, value: float, most: float, unit: str) -> Iterator[str]:
    """Print the figure beside its limit; its name if it is above it."""
    print(f"{name:22}{value:10.4g} {unit:3} at most {most:g}", flush=True)
    if value > most:
        yield name


if __name__ == "__main__":
    sys.exit(main())
