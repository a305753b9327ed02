"""The verbs, as a table of contents. What is heavy is imported inside the verb that needs it."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from harness import arguments, gate_verbs
from harness.voice import Exit, fail, say, show

if TYPE_CHECKING:
    from harness.analysis.verdict import Verdict
    from harness.spec.config import SuiteConfig
    from harness.spec.plan import Plan

Verb = Callable[[argparse.Namespace], int]
DONE, USAGE, INCOMPLETE, NOTHING, INTERRUPTED = 0, 2, 3, 4, 130  # in words: harness/arguments.py


def main(argv: Sequence[str]) -> int:
    """Run one verb and return its exit code; every error is a message of one to five lines on stderr."""
    args = arguments.parse(argv, {name: (verb.__doc__ or "").splitlines()[0] for name, verb in VERBS.items()})
    from harness.records.processes import Killed
    from harness.records.store import StoreError
    from harness.spec.config import ConfigError

    try:
        return VERBS[args.verb](args)
    except Exit as stop:
        return fail(stop.code, str(stop))
    except (ConfigError, StoreError) as error:
        return fail(USAGE, str(error))
    except Killed as error:
        return fail(INCOMPLETE, str(error))
    except KeyboardInterrupt:
        what_next = {
            "run": f"; all that was measured is kept\ngo on with: {args.resume}",
            "gate": "; there is no verdict\nthe same command begins anew: base and head have to take turns in one job",
        }
        return fail(INTERRUPTED, f"interrupted{what_next.get(args.verb, '')}")
    except BrokenPipeError:  # the reader of our output has gone, for example head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as error:
        if args.verbose:
            traceback.print_exc()
        bug = f"this is a bug in canvasbench{'' if args.verbose else '; -v shows where'}"
        return fail(INCOMPLETE, f"{type(error).__name__}: {error}\n{bug}")


def plan(args: argparse.Namespace) -> int:
    """Show every cell, every skip and what each should cost; touch no GPU."""
    from harness.measuring import prepare
    from harness.spec.plan_json import to_json

    config = _compose(args)
    if args.cfg:
        return _print_config(config)
    planned, _ = prepare.plan_here(config)
    if args.json:
        print(json.dumps(to_json(planned), indent=1))
    else:
        from harness.report.plan_text import plan_text

        show(plan_text(planned))
    return DONE


def run(args: argparse.Namespace) -> int:
    """Measure what is not measured yet, then write the report."""
    config = _compose(args)
    if args.cfg:
        return _print_config(config)
    run_dir = _measure(args, config)
    if config.reports_dir is None:
        return _tell_measured(args, run_dir)
    _offer(run_dir)
    return _report(args, [run_dir], Path(config.reports_dir) / f"{config.name}.html")


def _measure(args: argparse.Namespace, config: SuiteConfig) -> Path:
    """Into which folder; the plan and all else that measuring needs is gone from memory when the report begins."""
    from harness.measuring import prepare, progress
    from harness.measuring.runner import WorkerError
    from harness.records import store

    planned, environment = prepare.plan_here(config)
    if reason := prepare.why_unfit(planned, environment):
        raise Exit(NOTHING, reason)
    if news := _why_new(config, planned):
        _say(args, news)
    prepared = prepare.open_run(planned, environment, words=args.overrides, command=args.command)
    run_dir = prepared.run_dir
    _log_to(run_dir / "run.log", args)
    watcher = progress.choose(args.quiet)
    try:
        prepared.measure(watcher)
    except store.NewerSchemaError:
        raise
    except (store.StoreError, WorkerError) as error:
        raise Exit(INCOMPLETE, f"{error}\nwhat was measured is kept; {run_dir / 'run.log'} has more") from None
    return run_dir


def _tell_measured(args: argparse.Namespace, run_dir: Path) -> int:
    """reports_dir=null: how the cells ended, without the seconds that an analysis takes."""
    from harness.records import store
    from harness.records.types import FAILED_STATUSES

    statuses = Counter[str](record.status for record in store.read_records(run_dir, rounds=False).final.values())
    if args.json:
        print(json.dumps({"run_dirs": [str(run_dir)], "page": None, "statuses": statuses}, indent=1))
    elif not args.quiet:
        show(f"{run_dir}: {', '.join(f'{count} {status}' for status, count in statuses.items())}")
    return INCOMPLETE if any(statuses[status] for status in FAILED_STATUSES) else DONE


def _offer(run_dir: Path) -> None:
    """Write what `baseline approve` may take; a run changes no baseline."""
    import harness.analysis.gate.samples as samples
    from harness.analysis import candidate

    candidate.write(run_dir, samples.of_run(run_dir))


def report(args: argparse.Namespace) -> int:
    """Build one page from one or more runs."""
    from harness.analysis import verdict as verdicts
    from harness.records import store

    run_dirs = [store.find_run(name, Path(args.results_dir)) for name in args.runs]
    suite = Path(str(store.read_json(run_dirs[0] / "plan.json").get("suite") or "report")).name
    output = Path(args.output or Path(args.reports_dir) / f"{suite}.html")
    verdict = verdicts.read(Path(args.verdict)) if args.verdict else None
    return _report(args, run_dirs, output, verdict, arguments.prices(args.usd_per_hour))


def merge(args: argparse.Namespace) -> int:
    """Join shards measured on several machines into one run directory."""
    from harness.records import merge as merging
    from harness.records import store

    parts = [store.find_run(name, Path(args.results_dir)) for name in args.runs]
    try:
        merged = merging.merge(parts, Path(args.output))
    except merging.NotComparable as error:
        raise Exit(NOTHING, str(error)) from None
    for warning in merged.warnings:
        _say(args, f"warning: {warning}")
    if args.json:
        print(json.dumps({**asdict(merged), "run_dir": str(merged.run_dir)}, indent=1))
    elif not args.quiet:
        counts = f"{merged.num_records} records, {merged.missing} missing, {merged.failed} failed"
        show(f"{merged.run_dir}: {len(parts)} parts, {counts}")
        show(f"next: {shlex.join(['python', '-m', 'harness', 'report', str(merged.run_dir)])}")
    return INCOMPLETE if merged.is_incomplete else DONE


def doctor(args: argparse.Namespace) -> int:
    """Say what this machine can measure: ok, warn or fail, each with the fix."""
    from harness.measuring import doctor as examining
    from harness.measuring import environment

    checks = examining.examine(environment.collect(), Path(args.results_dir))
    if args.json:
        print(json.dumps(examining.to_json(checks), indent=1))
    else:
        for check in checks:
            if check.status != examining.OK or not args.quiet:
                show(f"{check.status:4}  {check.name}: {check.found}")
                if check.fix:
                    show(f"      fix: {check.fix}")
    return NOTHING if any(check.status == examining.FAIL for check in checks) else DONE


def _report(
    args: argparse.Namespace,
    run_dirs: list[Path],
    output: Path,
    verdict: Verdict | None = None,
    prices: dict[str, float] | None = None,
) -> int:
    """Analyse what is on disk, write the page, print the result; the exit code says whether anything is incomplete."""
    from harness.analysis.analyse import analyse
    from harness.analysis.run_data import load_run
    from harness.records import collecting, store
    from harness.report.frame import build_page
    from harness.report.terminal import result_text, self_check_text
    from harness.spec.config import check_choice

    with collecting.paused():
        runs = [load_run(run_dir, prices) for run_dir in run_dirs]
        analysis = analyse(runs, prices)
    known = analysis.priced_devices if prices else []
    for device in prices or {}:
        check_choice("--usd-per-hour", device, known)
    if not analysis.has_rows:
        raise Exit(NOTHING, f"{', '.join(map(str, run_dirs))}: holds no finished cell, so there is nothing to show")
    if export := getattr(args, "export", None):
        from harness.report import export as exporting
        from harness.report.svg import files_kept

        with files_kept() as pictures, collecting.left_out():
            page = build_page(analysis, verdict)
        exporting.write_exports(analysis, pictures, Path(export))
    else:
        with collecting.left_out():
            page = build_page(analysis, verdict)
    store.write_atomic(output, page)
    if args.json:
        print(json.dumps({**analysis.to_json(), "page": str(output), "run_dirs": list(map(str, run_dirs))}, indent=1))
    elif not args.quiet:
        show(result_text(analysis))
        if args.verb == "run":
            show(self_check_text(analysis.self_check))
        show(f"report: {output}")
    return INCOMPLETE if analysis.is_incomplete else DONE


def _compose(args: argparse.Namespace) -> SuiteConfig:
    from harness.analysis.metrics import check_metrics
    from harness.measuring.backends.registry import BACKENDS
    from harness.spec import suite

    config = suite.compose(args.overrides, config_dir=args.config_dir, backends=list(BACKENDS))
    check_metrics(config.gate)
    return config


def _print_config(config: SuiteConfig) -> int:
    from harness.spec import suite

    print(suite.to_yaml(config), end="")
    return DONE


def _why_new(config: SuiteConfig, planned: Plan) -> str | None:
    """Why the same cells open a new run here: another source, machine or stack than the newest run's."""
    from harness.records import store
    from harness.spec import fingerprint

    if (Path(config.results_dir) / config.name / planned.run_id).exists():
        return None
    try:
        newest = store.find_run(config.name, Path(config.results_dir))
        before = store.read_json(newest / "plan.json")
    except store.StoreError:
        return None
    if [entry.get("cell_id") for entry in before.get("cells", [])] != [p.cell_id for p in planned.cells]:
        return None
    names = fingerprint.changed(before.get("provenance") or {}, planned.provenance)
    return f"a new run: since {newest.name}, {', '.join(names) or 'the protocol or the seed'} changed"


def _log_to(path: Path, args: argparse.Namespace) -> None:
    logging.raiseExceptions = False  # a log on a full disk is no reason to print tracebacks
    logger = logging.getLogger("canvasbench")
    logger.setLevel(logging.DEBUG if args.verbose else logging.INFO)
    for earlier in logger.handlers:
        earlier.close()
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger.handlers = [handler]


def _say(args: argparse.Namespace, text: str) -> None:
    if not args.quiet:
        say(text)


VERBS: dict[str, Verb] = {
    "run": run,
    "plan": plan,
    "report": report,
    "compare": gate_verbs.compare,
    "gate": gate_verbs.gate,
    "baseline": gate_verbs.baseline,
    "merge": merge,
    "doctor": doctor,
}
