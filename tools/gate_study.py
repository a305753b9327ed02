"""Does the regression gate cry wolf, and does it sleep? Whole gates on this machine, with a head that is known.

python tools/gate_study.py --same 40 --slower 10 --forwards 10

Each gate is `python -m harness gate --base REV --head COMMIT --suite gate_cpu`, worktrees, launches, verdict and all.
same: head is base. slower: every request spends a share more processor time, in a loop that no counter sees. forwards:
the first step of each canvas runs the model once more, which changes no token. The changes are commits that no branch
holds, made in a temporary worktree of base. Prints a line a gate, then how many of each kind were red or inconclusive;
exit code 1 where that is beyond what docs/gate.md promises.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.measuring.ab import checkout
from harness.spec.config import ConfigError

RED_CODES = (1, 3)  # a confirmed regression; outputs changed, or a cell missing or broken
SAME, SLOWER, FORWARDS = "same", "slower", "forwards"
# Appended to a file of head's engine.
SLOWER_FILE, SLOWER_CODE = (
    "engine/api.py",
    '''

def _slowed(function):
    """Takes a share more processor time, as a study of the gate asks."""
    from time import process_time

    def slowed(*args, **kwargs):
        begun = process_time()
        out = function(*args, **kwargs)
        end = begun + (process_time() - begun) * (1 + {share})
        while process_time() < end:
            pass
        return out

    return slowed


generate = _slowed(generate)
''',
)
FORWARDS_FILE, FORWARDS_CODE = (
    "engine/model.py",
    '''

def _again(function):
    """Runs the first step of each canvas once more, as a study of the gate asks."""

    def again(self, canvas_BL, cache, conditioning_BLV=None, probs_BLV=None):
        if conditioning_BLV is None and probs_BLV is None:
            function(self, canvas_BL, cache)
        return function(self, canvas_BL, cache, conditioning_BLV, probs_BLV)

    return again


Model.denoised = _again(Model.denoised)
''',
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What one gate said."""

    exit_code: int
    counts: dict[str, int]  # state -> cells
    red_rules: tuple[str, ...]
    seconds: float

    @property
    def is_red(self) -> bool:
        return self.exit_code in RED_CODES

    @property
    def is_inconclusive(self) -> bool:
        """Not red, and about a cell it could not tell."""
        return not self.is_red and "INCONCLUSIVE" in self.counts


def changed(base: str, file: str, code: str, share: float) -> str:
    """The hash of a commit on top of base, which no branch holds, in which the file ends with that code."""
    with checkout.worktree(base) as tree:
        path = tree / file
        path.write_text(path.read_text(encoding="utf-8") + code.replace("{share}", str(share)), encoding="utf-8")
        who = ["-c", "user.name=gate study", "-c", "user.email=gate@study.invalid", "-c", "commit.gpgsign=false"]
        commit = ["commit", "--quiet", "--no-verify", "--all", "-m", f"A known change of {file}"]
        for command in ([*who, *commit], ["rev-parse", "HEAD"]):
            done = subprocess.run(["git", "-C", str(tree), *command], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def gate(base: str, head: str, suite: str, out: Path, words: Sequence[str]) -> Outcome:
    """One gate, from the command line to the exit code.

    Raises:
        RuntimeError: it gave no verdict.
    """
    command = ["gate", "--base", base, "--head", head, "--suite", suite, "--results-dir", str(out), "--json", "-q"]
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "harness", *command, *words], capture_output=True, text=True)
    try:
        verdict: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise RuntimeError(f"the gate gave no verdict (exit {done.returncode}): {done.stderr.strip()}") from None
    red = {r["rule"] for c in verdict["cells"] for r in c["rules"] if r["state"] in ("REGRESSED", "OUTPUT-CHANGED")}
    return Outcome(
        exit_code=done.returncode,
        counts=verdict["counts"],
        red_rules=tuple(sorted(red)),
        seconds=time.monotonic() - begun,
    )


def keeps_promise(kind: str, outcomes: Sequence[Outcome]) -> bool:
    """same: at most a tenth red, and half inconclusive. slower: nine tenths red. forwards: all red, by the counter."""
    red = sum(one.is_red for one in outcomes)
    if kind == SAME:
        return red <= 0.1 * len(outcomes) and sum(one.is_inconclusive for one in outcomes) <= 0.5 * len(outcomes)
    if kind == SLOWER:
        return red >= 0.9 * len(outcomes)
    return all(one.is_red and "forwards" in one.red_rules for one in outcomes)


def summary_of(kind: str, outcomes: Sequence[Outcome]) -> str:
    red, unsure = sum(one.is_red for one in outcomes), sum(one.is_inconclusive for one in outcomes)
    kept = "as promised" if keeps_promise(kind, outcomes) else "NOT as promised"
    return f"{kind}: of {len(outcomes)} gates {red} red, {unsure} inconclusive: {kept}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Whole gates on this machine, with a head that is known.")
    parser.add_argument("--same", type=int, default=3, help="gates of base against itself")
    parser.add_argument("--slower", type=int, default=2, help="gates of a head that takes more processor time")
    parser.add_argument("--forwards", type=int, default=2, help="gates of a head with extra forwards")
    parser.add_argument("--share", type=float, default=0.1, help="by which share the slower head is slower")
    parser.add_argument("--base", default="HEAD", help="a revision")
    parser.add_argument("--suite", default="gate_cpu")
    parser.add_argument("--out", type=Path, default=Path("build/gate_study"), help="folder for the jobs")
    parser.add_argument("overrides", nargs="*", help="of the suite, for example protocol.rounds=5")
    args = parser.parse_args()
    try:
        base = checkout.commit_of(args.base, "--base")
        heads = {
            SAME: base,
            SLOWER: changed(base, SLOWER_FILE, SLOWER_CODE, args.share),
            FORWARDS: changed(base, FORWARDS_FILE, FORWARDS_CODE, args.share),
        }
        outcomes: dict[str, list[Outcome]] = {}
        for kind, head in heads.items():
            for number in range(getattr(args, kind)):
                one = gate(base, head, args.suite, args.out, args.overrides)
                outcomes.setdefault(kind, []).append(one)
                states = ", ".join(f"{count} {state}" for state, count in one.counts.items())
                red = f" by {', '.join(one.red_rules)}" if one.red_rules else ""
                print(f"{kind} {number + 1}: exit {one.exit_code}{red}; {states}; {one.seconds:.0f} s", flush=True)
    except (ConfigError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for kind, ones in outcomes.items():
        print(summary_of(kind, ones))
    return 0 if all(keeps_promise(kind, ones) for kind, ones in outcomes.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
