"""`gate --base REV`: check out, measure the screen, ask which cells to confirm, measure those, tidy up."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.measuring.ab import checkout
from harness.measuring.ab.job import LiveJob, Say, interruptible
from harness.measuring.ab.side import Side, SideError
from harness.records import store
from harness.records.job import BASE, CONFIRM, HEAD, SCREEN

WORKING_TREE = "working tree"


@dataclass(frozen=True, kw_only=True, slots=True)
class Judge:
    """What the one who judges says while a job runs. Each function is given the job's folder."""

    screen_pairs: Callable[[Path], int]
    screen: Callable[[Path], Collection[str]]  # ids of the cells to confirm
    confirm_pairs: Callable[[Path], int]
    repeats: int = 2


def measured(
    *,
    base: str,
    head: str | None,
    words: Sequence[str],
    config_dir: str | None,
    results_dir: Path,
    judge: Judge,
    say: Say,
) -> Path:
    """The folder of a finished job: results/<suite>/gates/<base>-<head>/.

    Args:
        base, head: revisions; no head is the working tree as it is.
        words: the suite and its overrides, for both sides.

    Raises:
        ConfigError: a revision that is none.
        SideError: a side that cannot be measured.
        StoreError: the results folder cannot be written.
        KeyboardInterrupt: stopped by a signal. Whatever is raised, no worktree stays, and finished launches are kept.
    """
    with interruptible(), ExitStack() as stack:
        revisions = {BASE: base, HEAD: head}
        commits = {name: checkout.commit_of(revision or "HEAD", f"--{name}") for name, revision in revisions.items()}
        sides = {}
        for name, revision in revisions.items():
            tree = checkout.ROOT if revision is None else stack.enter_context(checkout.worktree(commits[name]))
            sides[name] = Side(
                name=name,
                revision=revision or WORKING_TREE,
                commit=commits[name],
                dirty=revision is None and checkout.is_dirty(),
                tree=tree,
                python=_python(name, revision, tree, say),
                # how launches are judged is head's to say, and an old base knows no such key
                words=words if name == HEAD else [word for word in words if not word.startswith("gate.")],
                config_dir=config_dir,
            )
        for side in (sides[HEAD], sides[BASE]):  # what is wrong with the command itself, head says
            side.prepare()
        if not set(sides[BASE].cells) & set(sides[HEAD].cells):
            raise SideError(BASE, f"{sides[BASE]} has none of the cells of {sides[HEAD]}, so nothing can be compared")
        names = "-".join(side.commit[:7] + ("+" if side.dirty else "") for side in sides.values())
        job_dir = store.open_run_dir(results_dir / sides[HEAD].suite, "gates", names, fresh=True)
        job = LiveJob(job_dir=job_dir.resolve(), sides=sides, say=say, repeats=judge.repeats)
        job.write()
        say(f"{job_dir}: {sides[BASE]} against {sides[HEAD]}, {len(sides[HEAD].cells)} cells")
        with _told_on_interrupt(job_dir, say):
            job.measure(SCREEN, lambda: judge.screen_pairs(job_dir))
            kept = judge.screen(job_dir)
            if kept:
                say(f"{len(kept)} of {len(sides[HEAD].cells)} cells are measured again, to confirm")
                job.measure(CONFIRM, lambda: judge.confirm_pairs(job_dir), kept)
        return job_dir


def _python(name: str, revision: str | None, tree: Path, say: Say) -> str:
    try:
        return checkout.interpreter_of(tree, say)
    except checkout.NoEnvironment as error:
        raise SideError(name, f"{name} {revision or WORKING_TREE} cannot be measured: {error}") from None


@contextmanager
def _told_on_interrupt(job_dir: Path, say: Say) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        say(f"interrupted; the launches that ended are kept in {job_dir}")
        raise
