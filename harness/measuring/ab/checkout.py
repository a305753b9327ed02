"""Commits as folders: a temporary worktree for each, with an interpreter that has what the commit depends on."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import psutil

from harness.records.types import content_hash
from harness.spec.config import ConfigError

ROOT = Path(__file__).resolve().parents[3]  # the checkout whose harness runs
_PREFIX = "canvasbench-gate-"  # of the folders that worktrees lie in, followed by the process that made them


class NoEnvironment(Exception):
    """What a commit depends on cannot be installed; the message says why."""


def commit_of(revision: str, option: str) -> str:
    """The full hash of the commit that a revision names.

    option: the command line's, for the message.

    Raises:
        ConfigError: this is no checkout, or the revision names no commit of it.
    """
    if not (ROOT / ".git").exists():
        raise ConfigError(
            f"{option}: {revision} is a revision, and this canvasbench is an installed copy, which has none\n"
            "run from a git checkout, or compare two stored runs: gate --base RUN --head RUN"
        )
    found = None if revision.startswith("-") else _git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if found is None:
        raise ConfigError(
            f"{option}: {revision!r} names no commit of this checkout\n"
            "expected a branch, a tag or a commit that `git log` knows; a shallow clone has to fetch it first: "
            f"git fetch origin {revision}"
        )
    return found


def is_dirty() -> bool:
    """Whether tracked files of this checkout differ from its commit."""
    return bool(_git("status", "--porcelain", "--untracked-files=no"))


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """The commit's files in a temporary folder, which is gone after the block, and from git's list as well.

    Raises:
        ConfigError: git cannot make it.
    """
    _remove_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-")).resolve()
    tree = folder / "tree"
    try:
        done = _run("-c", f"core.hooksPath={os.devnull}", "worktree", "add", "--detach", "--quiet", str(tree), commit)
        if done.returncode:
            raise ConfigError(f"{commit[:12]}: git cannot check it out: {done.stderr.strip().splitlines()[-1:]}")
        yield tree
    finally:
        _remove(tree)


def _remove(tree: Path) -> None:
    _run("worktree", "remove", "--force", "--force", str(tree))
    shutil.rmtree(tree.parent, ignore_errors=True)


def _remove_abandoned() -> None:
    """Worktrees of gates that were killed before they could remove them."""
    for line in (_git("worktree", "list", "--porcelain") or "").splitlines():
        tree = Path(line.removeprefix("worktree "))
        made_by = re.match(rf"{_PREFIX}(\d+)-", tree.parent.name)
        if line.startswith("worktree ") and made_by and not psutil.pid_exists(int(made_by[1])):
            _remove(tree)


def _git(*args: str) -> str | None:
    done = _run(*args)
    return done.stdout.strip() if done.returncode == 0 else None


def _run(*args: str) -> subprocess.CompletedProcess[str]:
    try:
        # a session of its own: Ctrl-C is for us, who then undo what git has done, and not for git half-way
        return subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True, start_new_session=True)
    except OSError as error:
        raise ConfigError(f"git cannot be run: {error.strerror or error}") from None


def dependencies_of(tree: Path) -> list[str]:
    """What pyproject.toml and constraints.txt of a tree ask pip for, in a form that tells equal ones.

    Raises:
        NoEnvironment: its pyproject.toml cannot be read.
    """
    try:
        project = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    except (OSError, ValueError, KeyError) as error:
        raise NoEnvironment(f"its pyproject.toml cannot be read: {error}") from None
    extra = project.get("optional-dependencies", {}).get("hf", []) if find_spec("transformers") else []
    constraints = tree / "constraints.txt"
    lines = constraints.read_text(encoding="utf-8").splitlines() if constraints.is_file() else []
    pins = [pin for line in lines if (pin := line.partition("#")[0].strip())]
    return [*sorted([*project.get("dependencies", []), *extra]), "--constraints--", *sorted(pins)]


def interpreter_of(tree: Path, say: Callable[[str], None]) -> str:
    """A Python that has what the tree depends on: this one where both ask for the same, else one of its own.

    That is made once and kept under the hash of what it was asked for, in ~/.cache/canvasbench/environments.

    Raises:
        NoEnvironment: pip cannot install it.
    """
    wanted = dependencies_of(tree)
    if wanted == dependencies_of(ROOT):
        return sys.executable
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "canvasbench" / "environments"
    version = ".".join(map(str, sys.version_info[:2]))
    folder = cache / content_hash([version, *wanted])
    python, mark = folder / "bin" / "python", folder / "complete"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two gates that need the same: one makes it
        if not mark.exists():
            say(f"a side depends on other packages than this one; installing them into {folder}, once")
            venv.create(folder, with_pip=True, clear=True, symlinks=True)
            _install(python, wanted, folder)
            mark.touch()
    return str(python)


def _install(python: Path, wanted: list[str], folder: Path) -> None:
    at = wanted.index("--constraints--")
    requirements, constraints = folder / "requirements.txt", folder / "constraints.txt"
    requirements.write_text("\n".join(wanted[:at]) + "\n", encoding="utf-8")
    constraints.write_text("\n".join(wanted[at + 1 :]) + "\n", encoding="utf-8")
    options = ["--quiet", "--disable-pip-version-check", "-r", str(requirements), "-c", str(constraints)]
    done = subprocess.run([str(python), "-m", "pip", "install", *options], capture_output=True, text=True)
    if done.returncode:
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)
        last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise NoEnvironment(f"what it depends on cannot be installed: {last}")
