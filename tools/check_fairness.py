"""Remove what docs/fairness.md says is enforced, piece by piece, and see that a test notices each time.

    python tools/check_fairness.py [ROW ...]

Works in a copy of the checked-out files; tests/harness/fairness_mutations.yaml says what is removed and which test must
fail. Ends with 1 when a test did not notice, and takes about five seconds a line.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from rich.console import Console
from rich.progress import track

ROOT = Path(__file__).resolve().parents[1]
MUTATIONS = ROOT / "tests" / "harness" / "fairness_mutations.yaml"
_PYTEST_FAILED = 1


def mutations() -> list[dict[str, str]]:
    """row, file, find, become, test of each."""
    found: list[dict[str, str]] = yaml.safe_load(MUTATIONS.read_text(encoding="utf-8"))
    return found


def mutated(text: str, mutation: dict[str, str]) -> str:
    """The file's text without its enforcement.

    Raises:
        ValueError: the text to replace does not stand there exactly once, so that the mutation says nothing.
    """
    if (count := text.count(mutation["find"])) != 1:
        raise ValueError(f"{mutation['file']} has {mutation['find']!r} {count} times, expected once")
    return text.replace(mutation["find"], mutation["become"])


def copy_of_tree(folder: Path) -> None:
    """The files that git knows, and those that it would take."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)


def notices(folder: Path, mutation: dict[str, str]) -> bool:
    """Whether the test fails without the enforcement. An error of pytest itself is no such failure."""
    path = folder / mutation["file"]
    before = path.read_text(encoding="utf-8")
    path.write_text(mutated(before, mutation), encoding="utf-8")
    try:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", mutation["test"]]
        environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)
    finally:
        path.write_text(before, encoding="utf-8")
    return done.returncode == _PYTEST_FAILED


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rows", nargs="*", help="numbers of docs/fairness.md; all of them by default")
    rows = parser.parse_args().rows
    chosen = [one for one in mutations() if not rows or one["row"] in rows]
    unnoticed = []
    with tempfile.TemporaryDirectory() as folder:
        copy_of_tree(Path(folder))
        for mutation in track(chosen, console=Console(stderr=True), description="removing enforcement"):
            seen = notices(Path(folder), mutation)
            verdict = "noticed" if seen else "NOT NOTICED"
            print(f"{verdict:11}  {mutation['row']:>3}  {mutation['file']}  {mutation['find']}", flush=True)
            unnoticed += [] if seen else [mutation]
    print(f"{len(chosen) - len(unnoticed)} of {len(chosen)} removals are noticed")
    return 1 if unnoticed or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
