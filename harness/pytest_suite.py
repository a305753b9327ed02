"""pytest --suite=NAME: a suite's cells as pytest-benchmark items. A plugin, and the module that holds their one test.

Nothing happens without --suite. With it pytest collects the cells and nothing else, a supervisor measures those that
were selected before the first item runs, as `run` does, and each item hands its cell's rounds to pytest-benchmark as
they were measured. What must not pass silently does not: docs/measuring.md, "In pytest".
"""

from __future__ import annotations

import os
import shlex
import warnings
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

    from harness.analysis.rows import CellRow
    from harness.analysis.run_data import Run
    from harness.measuring.progress import PlainProgress
    from harness.records.types import Environment, Record
    from harness.spec.plan import Plan

# pytest-benchmark's options under which cells would pass unmeasured, or be judged by a rule that cannot tell noise.
_REFUSED = {
    "benchmark_skip": "--benchmark-skip would leave every cell out",
    "benchmark_cprofile": "--benchmark-cprofile would profile the hand-over of finished rounds",
    "benchmark_compare_fail": "--benchmark-compare-fail judges one stored number by a percentage and passes cells that "
    "are missing; judge with: python -m harness gate --base REV",
}
_MEASURED = ("ok", "error", "timeout", "missing")  # statuses that say something of this run; others are skips

_UNDER_TEST = ("project_commit", "project_dirty")  # of the stack: the change itself


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("canvasbench", "canvasbench's suites as benchmarks")
    group.addoption("--suite", metavar="NAME", help="measure this suite's cells, and run nothing else")
    group.addoption(
        "--suite-override",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="as for `python -m harness run`, for example axes.batch_size=[1]; repeatable",
    )
    group.addoption("--suite-config-dir", metavar="DIR", help="your own suites, laid out like suites/")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("suite") is None:
        if config.getoption("suite_override") or config.getoption("suite_config_dir"):
            raise pytest.UsageError("--suite-override and --suite-config-dir belong to --suite=NAME")
        return
    if why := _why_refused(config):
        raise pytest.UsageError(_harmless(f"--suite: {why}"))
    config.stash[_SUITE] = suite_run = SuiteRun.of(config)
    config.args = [__file__]
    config.pluginmanager.register(_Hooks(suite_run), "canvasbench-suite")


def _harmless(message: str) -> str:
    from harness.records.texts import harmless

    return harmless(message)


def _why_refused(config: pytest.Config) -> str | None:
    """What on the command line would make cells pass unmeasured."""
    if not config.pluginmanager.hasplugin("benchmark"):
        return "needs pytest-benchmark: pip install pytest-benchmark"
    if config.getoption("benchmark_disable") and not config.getoption("benchmark_enable"):
        return "--benchmark-disable would leave every cell unmeasured"
    if config.getoption("dist", "no") != "no" or config.getoption("tx", None):
        return "cells that run side by side disturb each other; leave out -n and --dist"
    if config.args_source is pytest.Config.ArgsSource.ARGS:
        return f"it runs the suite's cells alone; leave out {config.args[0]} and select cells with -k"
    json_path = config.getoption("benchmark_json")
    if json_path and (why := _why_unwritable(Path(json_path))):
        return f"--benchmark-json={json_path}: {why}, so that what is measured would be lost"
    return next((why for option, why in _REFUSED.items() if config.getoption(option)), None)


def _why_unwritable(path: Path) -> str | None:
    """pytest-benchmark opens the file when all is measured."""
    if path.is_dir():
        return "is a folder"
    if not path.absolute().parent.is_dir():
        return "its folder does not exist"
    return None if os.access(path if path.exists() else path.absolute().parent, os.W_OK) else "cannot be written"


@dataclass(kw_only=True, slots=True)
class SuiteRun:
    """A suite in this pytest session: its plan, and once it is measured its cells' rows."""

    plan: Plan
    environment: Environment
    words: Sequence[str]
    command: str
    run: Run | None = None
    rows: dict[str, CellRow] = field(default_factory=dict)

    @classmethod
    def of(cls, config: pytest.Config) -> SuiteRun:
        """Raises pytest.UsageError for an unknown suite or key, and for a machine that it is not for."""
        from harness.measuring import prepare
        from harness.measuring.backends.registry import BACKENDS
        from harness.spec import suite
        from harness.spec.config import ConfigError

        words = [f"suite={config.getoption('suite')}", "fresh=true", *config.getoption("suite_override")]
        try:
            composed = suite.compose(words, config_dir=config.getoption("suite_config_dir"), backends=list(BACKENDS))
            plan, here = prepare.plan_here(composed)
        except ConfigError as error:
            raise pytest.UsageError(_harmless(str(error))) from None
        if why := prepare.why_unfit(plan, here):
            raise pytest.UsageError(_harmless(why))
        command = shlex.join(["pytest", *config.invocation_params.args])
        return cls(plan=plan, environment=here, words=words, command=command)

    @property
    def params(self) -> Iterator[Any]:
        """One of each cell of our share, and of each that the plan leaves out with its reason."""
        from harness.records.texts import plain, said

        name = self.plan.config.name
        for planned in (planned for group in self.plan.own_groups for planned in group):
            label, group = plain(planned.cell.label), plain(planned.cell.twin.label.removeprefix("AR "))
            mark = pytest.mark.benchmark(group=group, timer=measured_wall_s)
            yield pytest.param(planned.cell_id, id=f"{name} {label} {planned.cell_id[:8]}", marks=mark)
        for skipped in self.plan.skipped:
            label, mark = plain(skipped.cell.label), pytest.mark.skip(reason=said(skipped.reason, 400))
            yield pytest.param(skipped.cell.cell_id, id=f"{name} {label} {skipped.cell.cell_id[:8]}", marks=mark)

    def measure(self, cell_ids: set[str], config: pytest.Config) -> None:
        """Measure these cells with all that they are compared with, and read what they gave from the disk.

        Raises:
            pytest.UsageError: nothing was selected that could be measured, or nothing gave a number.
        """
        from harness.analysis.analyse import analyse
        from harness.analysis.run_data import load_run
        from harness.measuring import prepare
        from harness.measuring.runner import WorkerError
        from harness.records.store import StoreError
        from harness.spec import plan as planning
        from harness.spec.config import ConfigError

        groups = [group for group in self.plan.own_groups if any(p.cell_id in cell_ids for p in group)]
        if not groups:
            raise pytest.UsageError("no cell is left to measure: every selected one is skipped by the plan")
        cells = tuple(planned for group in groups for planned in group)
        whole = replace(self.plan.config, shard="1/1")  # a share was taken above
        plan = planning.identified(replace(self.plan, config=whole, cells=cells), self.plan.provenance)
        try:
            prepared = prepare.open_run(plan, self.environment, words=self.words, command=self.command)
            prepared.measure(_progress(config))
            self.run = load_run(prepared.run_dir)
        except (ConfigError, StoreError, WorkerError) as error:
            raise pytest.UsageError(_harmless(str(error))) from None
        self.rows = {row.cell_id: row for row in analyse([self.run]).rows}
        if not any(self.rows[cell_id].status in _MEASURED for cell_id in cell_ids & self.rows.keys()):
            reasons = sorted({f"{row.status}: {row.reason}" for row in self.rows.values()})
            raise pytest.UsageError("no selected cell gave a number:\n" + _harmless("\n".join(reasons[:3])))


_SUITE = pytest.StashKey[SuiteRun]()


class _Hooks:
    """What is hooked into a session that has --suite."""

    def __init__(self, suite_run: SuiteRun) -> None:
        self._suite_run = suite_run

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "cell_id" in metafunc.fixturenames:
            metafunc.parametrize("cell_id", list(self._suite_run.params))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Measure what was selected, once, outside any item's timeout: a request has its own in the protocol."""
        if session.items and not session.config.option.collectonly and not session.testsfailed:
            items = [item for item in session.items if isinstance(item, pytest.Function)]
            _check_compared(session.config, {item.nodeid for item in items})
            selected = {str(item.callspec.params["cell_id"]) for item in items}
            self._suite_run.measure(selected, session.config)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self) -> Generator[None, None, None]:
        """pytest-benchmark warns that it saves nothing; the session's exit code has said why."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Not saving anything")
            yield

    def pytest_benchmark_update_machine_info(self, machine_info: dict[str, Any]) -> None:
        """The machine as records know it. pytest-benchmark's own `node` is a host name, which no record holds."""
        machine_info["node"] = ""
        environment = self._suite_run.environment
        machine_info["canvasbench"] = {
            "environment_id": environment.environment_id,
            "identity": environment.identity,
            "stack": environment.stack,
        }

    @pytest.hookimpl(tryfirst=True)
    def pytest_benchmark_compare_machine_info(self, compared_benchmark: dict[str, Any]) -> None:
        """pytest-benchmark warns and compares all the same; figures of another machine are not comparable."""
        from harness.analysis.gate.comparable import flat

        here = self._suite_run.environment
        other: Any = compared_benchmark.get("machine_info")
        other = other.get("canvasbench") if isinstance(other, dict) else None
        if not isinstance(other, dict) or other.get("identity") != here.identity:
            raise pytest.UsageError(
                "--benchmark-compare: the stored run is of another machine, or not of a suite, so nothing is comparable"
            )
        stack = other.get("stack")
        stored, now = (dict(flat(one)) for one in (stack if isinstance(stack, dict) else {}, here.stack))
        differing = [key for key in sorted(stored.keys() | now.keys()) if stored.get(key) != now.get(key)]
        if differing := [key for key in differing if key not in _UNDER_TEST]:
            why = f"the stored run is of another stack ({', '.join(differing[:3])}), so nothing is comparable"
            raise pytest.UsageError(_harmless(f"--benchmark-compare: {why}"))


def _check_compared(config: pytest.Config, node_ids: set[str]) -> None:
    """pytest-benchmark compares what has the same name, and passes without a word where nothing has.

    Raises:
        pytest.UsageError: --benchmark-compare found no stored run, or none of the selected cells in it.
    """
    if not config.getoption("benchmark_compare"):
        return
    stored: dict[Any, dict[str, Any]] = config._benchmarksession.compared_mapping  # type: ignore[attr-defined]
    if not stored:
        raise pytest.UsageError("--benchmark-compare: there is no such stored run")
    if not any(node_ids & cells.keys() for cells in stored.values()):
        raise pytest.UsageError(
            "--benchmark-compare: the stored run has none of the selected cells, so nothing is comparable"
        )


def _progress(config: pytest.Config) -> PlainProgress:
    """Lines through pytest's own terminal, which does not capture them."""
    from harness.measuring.progress import PlainProgress, QuietProgress
    from harness.records.texts import inert

    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")

    class Lines(PlainProgress):
        def say(self, text: str) -> None:
            reporter.write_line(inert(text))

    return QuietProgress() if reporter is None or config.option.verbose < 0 else Lines()


_now_s = 0.0


def measured_wall_s() -> float:
    """The clock that pytest-benchmark reads: it stands still but for the round that is handed over."""
    return _now_s


@pytest.mark.filterwarnings("ignore:Benchmark fixture was not used at all")  # by a cell that failed
def test_cell(cell_id: str, benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> None:
    """A cell is well where every launch is; then its rounds' wall times are the benchmark's, to the last digit."""
    from harness.records.texts import said

    suite_run = request.config.stash[_SUITE]
    row, run = suite_run.rows[cell_id], suite_run.run
    assert run is not None
    if row.status not in _MEASURED:
        pytest.skip(f"{row.status}: {said(str(row.reason), 400)}")
    if row.status != "ok":  # its finished rounds stay in its record, and none of them becomes a baseline
        pytest.fail(f"{row.status}: {said(str(row.reason), 400)}", pytrace=False)
    records = run.ok_records(cell_id)
    rounds_s = [round.wall_s for record in records for round in record.rounds]
    benchmark.extra_info.update(_extra_info(row))
    benchmark.extra_info["environment"] = _environment(run, records)
    benchmark.extra_info["rounds_by_launch"] = [len(record.rounds) for record in records]
    left_s = iter(rounds_s)

    def start() -> None:
        global _now_s
        _now_s = 0.0

    def pass_by() -> None:
        global _now_s
        _now_s = next(left_s)

    benchmark.pedantic(pass_by, setup=start, rounds=len(rounds_s), iterations=1)


def _extra_info(row: CellRow) -> dict[str, Any]:
    """What a reader of the JSON needs to know what was measured; counters apart, because they repeat exactly."""
    from harness.analysis.metrics import METRICS

    found = row.to_json()
    values: dict[str, dict[str, float]] = {"counter": {}, "time": {}}
    for name, summary in row.metrics.items():
        values[METRICS[name].kind][name] = summary.value
    kept = ("run_id", "cell_id", "cell", "source", "simulated", "synthetic", "marks")
    return {**{key: found[key] for key in kept}, "counters": values["counter"], "times": values["time"]}


def _environment(run: Run, records: Sequence[Record]) -> dict[str, Any]:
    """Under what the cell was measured: the id of its environment, and the software; machine_info has the machine."""
    environment_id = records[-1].environment_id
    return {"id": environment_id, "stack": run.environments[environment_id].stack}
