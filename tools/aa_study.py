"""Is a speed-up of 1 reported as 1? Both decodings of a cell are one engine with the same work, measured as usual.

python tools/aa_study.py --repeats 3 --neighbours 1
python tools/aa_study.py --repeats 3 --neighbours 1 --slower 0.1

Plan, session, protocol, records and analysis are the harness's own; only the backend is made for the study, and for
comparison an order that no run has: all rounds of one twin, then all of the other. Prints a table with, for each run,
how many of its 95 % intervals of the speed-up leave 1 out, and how wide they are.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from harness.analysis.analyse import Analysis, analyse
from harness.analysis.rows import CellRow
from harness.analysis.run_data import load_run
from harness.analysis.summary import Summary
from harness.measuring import environment
from harness.measuring.backends.base import Answer
from harness.measuring.backends.reference import ReferenceBackend
from harness.measuring.cell import LiveCell
from harness.measuring.jobs import due_jobs
from harness.measuring.session import Session, group_s
from harness.records import store
from harness.records.journal import RoundJournal
from harness.records.types import AUTOREGRESSIVE, BLOCK_DIFFUSION, Cell
from harness.spec import plan as planning
from harness.spec.config import ConfigError
from harness.spec.plan_json import to_json
from harness.spec.suite import compose

SUITES = Path(__file__).with_name("aa_study_suites")
BACKEND = "one_engine"
OPTIONS = ("block_length", "num_steps", "slower")  # the study's own; the engine knows none of them
CPU, WALL = "cpu_speedup_vs_ar", "speedup_vs_ar"


def work_of(cell: Cell) -> Cell:
    """The block-diffusion cell that is run for it. With options.slower the autoregressive one has so many more passes.

    A canvas has num_steps + 1 passes: its steps, and the prefill or the commit before them.
    """
    block_length, num_steps = (int(cell.options[name]) for name in ("block_length", "num_steps"))
    extra = float(cell.options.get("slower", 0)) * (num_steps + 1)
    if abs(extra - round(extra)) > 1e-9:
        raise ConfigError(f"options.slower: {cell.options['slower']} of {num_steps + 1} passes is no whole number")
    if cell.decoding == AUTOREGRESSIVE:
        num_steps += round(extra)
    return replace(
        cell, decoding=BLOCK_DIFFUSION, block_length=block_length, num_steps=num_steps, stopping="fixed"
    )  # fmt: skip


class OneEngine(ReferenceBackend):
    """The reference engine's block diffusion under both names of decoding."""

    def load(self, source: Any, shape: Any, device: Any, cell: Cell, seed: int) -> None:
        work_of(cell)  # refuses impossible options
        own = {key: value for key, value in cell.options.items() if key not in OPTIONS}
        super().load(source, shape, device, replace(cell, options=own), seed)

    def generate(self, cell: Cell, prepared: Any) -> Answer:
        answer = super().generate(work_of(cell), prepared)
        executed = {kind: count for kind, count in answer.passes.items() if count}
        answer = replace(answer, resolved={**answer.resolved, "work": json.dumps(executed)})
        as_tokens = _as_tokens(answer, cell)  # made for both, so that it takes both the same time
        return as_tokens if cell.decoding == AUTOREGRESSIVE else answer

    def count(self, cell: Cell, prepared: Any) -> dict[str, Any]:
        return super().count(work_of(cell), prepared)


def _as_tokens(answer: Answer, cell: Cell) -> Answer:
    """As an autoregressive decoder would tell it, without passes: each token is there when its canvas is."""
    block_length = int(cell.options["block_length"])
    return replace(
        answer,
        block_s=tuple(seconds for seconds in answer.block_s for _ in range(block_length)),
        passes={},
        row_passes=None,
        steps_per_canvas=((),) * cell.batch_size,
        missing={**answer.missing, "passes": "block diffusion ran under this name; resolved.work counts its passes"},
    )


class Sequential(Session):
    """All rounds of one twin, then all of the other: what interleaving is there to avoid."""

    def _take_rounds(self, live: list[LiveCell]) -> None:
        order = list(live)
        random.Random(f"{self.plan.config.seed} {live[0].cell_id}").shuffle(order)
        for one in order:
            for index in itertools.count():
                if not one.needs_rounds(group_s(live)):
                    break
                self._round(index, [one])


ORDERS: dict[str, type[Session]] = {"interleaved": Session, "sequential": Sequential}


def measure(words: Sequence[str], results_dir: Path, order: str) -> Path:
    """The suite measured in this process; its run directory, which `python -m harness report` takes as well."""
    config = compose(["suite=aa_study", *words], config_dir=str(SUITES), backends=[BACKEND])
    here = environment.collect()
    provenance = {"identity": here.identity, "stack": here.stack}
    plan = planning.identified(planning.build(config), provenance)
    run_dir = store.open_run_dir(results_dir / order, config.name, plan.run_id, fresh=True)
    store.write_environment(run_dir, here)
    store.write_atomic(run_dir / "plan.json", store.json_lines({**to_json(plan), "command": None}))
    writer, journal = store.RecordWriter(run_dir, "study"), RoundJournal(run_dir, "study")
    session = ORDERS[order](
        plan=plan,
        run_id=run_dir.name,
        worker="study",
        environment_id=here.environment_id,
        backends={BACKEND: OneEngine()},
        writer=writer,
        journal=journal,
        tell=lambda event: None,
    )
    for job in due_jobs(plan, {}):
        session.measure(job)
    writer.close()
    journal.close()
    return run_dir


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What the intervals of one speed-up over all its cells say."""

    cells: int
    leaving_1_out: int
    half_width: float  # median over cells of half the interval / the speed-up
    speed_up: float  # median over cells
    confidence: float  # the least of them


def outcome_of(rows: Sequence[CellRow], metric: str) -> Outcome:
    """Over every row that has a twin.

    Raises:
        KeyError: one of them has no such speed-up; its cell or its twin failed.
    """
    speed_ups = [row.metrics[metric] for row in rows if not row.is_autoregressive]
    return Outcome(
        cells=len(speed_ups),
        leaving_1_out=sum(not one.low <= 1 <= one.high for one in speed_ups),
        half_width=median((one.high - one.low) / 2 / one.value for one in speed_ups),
        speed_up=median(one.value for one in speed_ups),
        confidence=min(one.confidence for one in speed_ups),
    )


def spread_of(rows: Sequence[CellRow], metric: str) -> float:
    """How noisy it was: median over cells of (slowest round - fastest) / median."""
    times: list[Summary] = [row.metrics[metric] for row in rows]
    return median((one.maximum - one.minimum) / one.value for one in times)


HEADER = (
    "| order | cells | leave 1 out, CPU time | half-width, CPU | speed-up, CPU | leave 1 out, wall | half-width, wall "
    "| rounds a cell | spread of rounds, CPU / wall | seconds |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- "
    "| --- |"
)


def row_text(order: str, analysis: Analysis, seconds: float) -> str:
    """A run as a row of the table."""
    rows = analysis.rows
    cpu, wall = outcome_of(rows, CPU), outcome_of(rows, WALL)
    rounds = sorted(row.metrics["request_s"].n_rounds for row in rows)
    cells = (
        order,
        str(cpu.cells),
        str(cpu.leaving_1_out),
        f"{cpu.half_width:.1%}",
        f"{cpu.speed_up:.3f}",
        str(wall.leaving_1_out),
        f"{wall.half_width:.1%}",
        f"{rounds[0]} to {rounds[-1]}, median {median(rounds):g}",
        f"{spread_of(rows, 'cpu_s'):.0%} / {spread_of(rows, 'request_s'):.0%}",
        f"{seconds:.0f}",
    )
    return f"| {' | '.join(cells)} |"


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """So many noisy processes beside ours, which end with the block, or with us."""
    tool = str(Path(__file__).with_name("noisy_neighbour.py"))
    started = [subprocess.Popen([sys.executable, tool, str(i)], stdin=subprocess.PIPE) for i in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.communicate()  # closes its stdin


def main() -> int:
    parser = argparse.ArgumentParser(description="How often the interval of a speed-up leaves out what it should hold.")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each order, in turn")
    parser.add_argument("--slower", type=float, default=0.0, help="share of passes that one twin has more (0.1)")
    parser.add_argument("--order", choices=[*ORDERS, "both"], default="both")
    parser.add_argument("--neighbours", type=int, default=0, help="noisy processes beside the measured one")
    parser.add_argument("--out", type=Path, default=Path("build/aa_study"), help="folder for the runs")
    parser.add_argument("overrides", nargs="*", help="of the suite, for example protocol=publish protocol.launches=1")
    args = parser.parse_args()
    words = [*args.overrides, *([f"options.slower={args.slower:g}"] if args.slower else [])]
    print(HEADER, flush=True)
    try:
        with neighbours(args.neighbours):
            for _, order in itertools.product(range(args.repeats), ORDERS if args.order == "both" else [args.order]):
                begun = time.perf_counter()
                analysis = analyse([load_run(measure(words, args.out, order))])
                print(row_text(order, analysis, time.perf_counter() - begun), flush=True)
    except (ConfigError, store.StoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
