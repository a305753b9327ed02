"""The verbs about two sides: compare, gate, baseline. What is heavy is imported inside the verb that needs it."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.spec.config import ConfigError
from harness.voice import Exit, say, show

if TYPE_CHECKING:
    from harness.analysis.baseline import Baseline
    from harness.analysis.candidate import Candidate
    from harness.analysis.gate import Accepted
    from harness.analysis.gate.samples import Samples
    from harness.analysis.verdict import Verdict

DONE, NOT_COMPARABLE = 0, 4
APPROVED = "baseline"  # what --base says for the approved values
DEFAULT_SUITE = "gate_cpu"  # of what is measured


def compare(args: argparse.Namespace) -> int:
    """Show what changed between two runs, with intervals; never a verdict."""
    from harness.analysis.compare import DEFAULT_METRICS
    from harness.analysis.compare import compare as compared
    from harness.analysis.metrics import METRICS
    from harness.records import store
    from harness.report.compared import compare_text
    from harness.spec.config import check_choice

    if len(args.runs) != 2:
        raise ConfigError(f"compare takes two runs, but got {len(args.runs)}")
    metrics = args.metric or list(DEFAULT_METRICS)
    for name in metrics:
        check_choice("--metric", name, list(METRICS))
    a, b = (store.find_run(name, Path(args.results_dir)) for name in args.runs)
    found = compared(a, b, tuple(args.runs), metrics)
    if args.json:
        print(json.dumps(found.to_json(), indent=1))
    elif not args.quiet:
        show(compare_text(found))
    if not found.changes:
        raise Exit(NOT_COMPARABLE, "no cell of one run has a value in the other, so nothing is compared")
    return DONE


def gate(args: argparse.Namespace) -> int:
    """Judge head against base, measured in turn here or stored; the exit code is the verdict."""
    from harness.analysis.verdict import to_json
    from harness.report.gate.outputs import write_outputs
    from harness.report.gate.terminal import terminal_text

    verdict, folder = _judged(args)
    folder = Path(args.output) if args.output else folder
    write_outputs(verdict, folder)
    if args.json:
        print(to_json(verdict), end="")
    elif not args.quiet:
        show(terminal_text(verdict))
        show(f"verdict: {folder / 'verdict.json'}")
    return verdict.exit_code


def _judged(args: argparse.Namespace) -> tuple[Verdict, Path]:
    """The verdict, and the folder that its outputs go to unless another is named."""
    import harness.analysis.gate.samples as samples
    from harness.analysis import gate as judging
    from harness.records import job, store

    results_dir = Path(args.results_dir)
    options: dict[str, Any] = {"inconclusive": args.inconclusive, "declared": args.declare}
    if args.base == APPROVED:
        head = store.find_run(_head_of(args, None), results_dir)
        return _against_approved(args, head, options), _gates(head, APPROVED)
    if job.is_job(Path(args.base)):
        if args.head:
            raise ConfigError(f"--head: {args.base} is a job, which has both sides")
        return _judged_job(args, Path(args.base), options), Path(args.base)
    if _is_revision(args):
        job_dir = _measure_ab(args)
        return _judged_job(args, job_dir, options), job_dir
    if args.overrides:
        raise ConfigError(f"{args.overrides[0]}: nothing is measured between stored runs; --base REV measures")
    base = store.find_run(args.base, results_dir)
    head = store.find_run(_head_of(args, base), results_dir)
    found = samples.of_runs(base, head, (base.name, head.name))
    verdict = judging.judge_samples(found, accepted=_accepted(args, found), **options)
    return verdict, _gates(head, base.name)


def _is_revision(args: argparse.Namespace) -> bool:
    """Whether --base names no run; then it has to be a revision.

    Raises:
        ConfigError: it is neither.
    """
    from harness.measuring.ab import checkout
    from harness.records import store

    try:
        store.find_run(args.base, Path(args.results_dir))
        return False
    except store.StoreError as no_run:
        try:
            checkout.commit_of(args.base, "--base")
            return True
        except ConfigError as no_revision:
            raise ConfigError(f"{no_revision}\n{no_run}") from None


def _measure_ab(args: argparse.Namespace) -> Path:
    """Base and head measured in turn on this machine; the job's folder, to be judged."""
    from harness.analysis import gate as judging
    from harness.measuring import prepare
    from harness.measuring.ab.measure import Judge, measured
    from harness.measuring.ab.side import SideError
    from harness.measuring.backends.registry import BACKENDS
    from harness.spec import suite

    words = [f"suite={args.suite or DEFAULT_SUITE}", *args.overrides]
    config = suite.compose(words, config_dir=args.config_dir, backends=list(BACKENDS))
    if reason := prepare.why_unfit(*prepare.plan_here(config)):
        raise Exit(NOT_COMPARABLE, reason)
    judge = Judge(
        screen_pairs=lambda job_dir: judging.plan_pairs(job_dir).screen,
        screen=judging.screen,
        confirm_pairs=lambda job_dir: judging.plan_pairs(job_dir).confirm,
        repeats=config.gate.retries,
    )
    try:
        return measured(
            base=args.base,
            head=args.head,
            words=words,
            config_dir=args.config_dir,
            results_dir=Path(args.results_dir),
            judge=judge,
            say=(lambda text: None) if args.quiet else say,
        )
    except SideError as error:
        raise Exit(error.code, str(error)) from None


def _gates(head: Path, base: str) -> Path:
    return head.resolve().parent / "gates" / f"{base}-{head.name}"


def _head_of(args: argparse.Namespace, base: Path | None) -> str:
    """RUN of head: as it is said, or the newest run of the suite."""
    from harness.records import store

    if args.head:
        return str(args.head)
    if args.suite:
        return str(args.suite)
    if base is None:
        raise ConfigError("--head: name the run to judge, or its suite with --suite")
    return str(store.read_json(base / "plan.json").get("suite"))


def _judged_job(args: argparse.Namespace, job_dir: Path, options: dict[str, Any]) -> Verdict:
    """A job's verdict, and beside it what head offers for approval."""
    import harness.analysis.gate.samples as samples
    from harness.analysis import candidate
    from harness.analysis import gate as judging

    found = samples.of_job(job_dir)
    verdict = judging.judge_samples(found, accepted=_accepted(args, found), **options)
    candidate.write(job_dir, found, verdict)
    return verdict


def _against_approved(args: argparse.Namespace, head: Path, options: dict[str, Any]) -> Verdict:
    import harness.analysis.gate.against as against
    import harness.analysis.gate.samples as samples

    found = samples.of_run(head)
    return against.judge(found, _approved(args, found), today=date.today(), **options)


def _accepted(args: argparse.Namespace, found: Samples) -> Accepted:
    """What the baseline accepts today; nothing where there is none."""
    approved = _approved(args, found)
    return approved.accepted(date.today()) if approved is not None else {}


def _approved(args: argparse.Namespace, found: Samples) -> Baseline | None:
    """The baseline of head's machine and suite."""
    from harness.analysis import baseline, candidate

    identity = candidate.identity_of(found)
    return (
        None
        if identity is None
        else baseline.read_if_any(baseline.path_of(Path(args.baselines_dir), identity, found.suite))
    )


def baseline(args: argparse.Namespace) -> int:
    """List, approve or expire approved values: the only way that a baseline changes."""
    return {"list": _list, "approve": _approve, "expire": _expire}[args.action](args)


def _list(args: argparse.Namespace) -> int:
    from harness.analysis import baseline
    from harness.report.compared import baseline_text

    paths = _baselines(args)
    found = [(path, baseline.read(path)) for path in paths]
    if args.json:
        print(json.dumps([baseline.to_json(one, path, date.today()) for path, one in found], indent=1))
        return DONE
    for path, one in found:
        show(baseline_text(str(path), one, date.today()))
    if not found and not args.quiet:
        show(f"{args.baselines_dir}: no baseline; python -m harness baseline approve RUN --reason TEXT makes one")
    return DONE


def _approve(args: argparse.Namespace) -> int:
    from harness.analysis import baseline
    from harness.report.compared import approved_text

    if len(args.runs) != 1:
        raise ConfigError(f"baseline approve takes one run, job or candidate file, but got {len(args.runs)}")
    try:
        path, changes = baseline.approve(
            Path(args.baselines_dir),
            _candidate(args),
            cells=args.cells or (),
            reason=args.reason or "",
            until=args.until,
            today=date.today(),
        )
    except baseline.NothingToApprove as why:
        raise Exit(NOT_COMPARABLE, str(why)) from None
    if args.json:
        print(json.dumps({"path": str(path), "changes": [asdict(one) for one in changes]}, indent=1))
    elif not args.quiet:
        show(approved_text(str(path), changes))
    return DONE


def _candidate(args: argparse.Namespace) -> Candidate:
    """What a run or a job offers, from its records; or a candidate file by itself, which CI keeps."""
    import harness.analysis.gate.samples as samples
    from harness.analysis import candidate
    from harness.analysis import gate as judging
    from harness.records import job, store

    path = Path(args.runs[0])
    if path.is_file():
        return candidate.read(path)
    if job.is_job(path):
        found = samples.of_job(path)
        return candidate.candidate_of(found, path.resolve().name, judging.judge_samples(found))
    run_dir = store.find_run(args.runs[0], Path(args.results_dir))
    return candidate.candidate_of(samples.of_run(run_dir), run_dir.name)


def _expire(args: argparse.Namespace) -> int:
    from harness.analysis import baseline
    from harness.report.compared import approved_text

    paths = _baselines(args)
    if not paths:
        raise ConfigError(f"{args.baselines_dir}: no baseline of {', '.join(args.runs) or 'any suite'}")
    ended = {
        str(path): changes
        for path, changes in baseline.expire(paths, cells=args.cells or (), today=date.today()).items()
    }
    if args.json:
        print(json.dumps({path: [asdict(one) for one in changes] for path, changes in ended.items()}, indent=1))
    elif not args.quiet:
        for path, changes in ended.items():
            show(approved_text(path, changes) if changes else f"{path}: nothing has expired")
    return DONE


def _baselines(args: argparse.Namespace) -> list[Path]:
    """Files of the named suites, or of all."""
    paths = sorted(Path(args.baselines_dir).glob("*/*.json"))
    return [path for path in paths if not args.runs or path.stem in args.runs]
