"""A git repository with a stub in place of harness: it answers the command lines that base and head are driven by.

behaviour.json in a commit says how the stub behaves; every launch writes down what it was given.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from synthetic import Scenario, plan_of, record_of

from harness.measuring.ab.measure import Judge, measured
from harness.records import job as jobs
from harness.records.job import Job
from harness.records.types import to_json

STUB = """
import json, os, sys, time
from pathlib import Path

tree = Path(__file__).resolve().parents[1]
behaviour = json.loads((tree / "behaviour.json").read_text())
template = json.loads((tree / "template.json").read_text())
words = dict(word.split("=", 1) for word in sys.argv[2:] if "=" in word)
if sys.argv[1] == "plan":
    if behaviour.get("no_suite"):
        print("error: suite: 'stub' is not one of smoke", file=sys.stderr)
        sys.exit(2)
    cells = [{"cell_id": cell_id} for cell_id in template if cell_id not in behaviour.get("lacks", [])]
    plan = {"suite": "stub", "seed": 7, "device": {"kind": behaviour.get("device", "cuda")}, "cells": cells}
    known = "seed: 0" if behaviour.get("is_old") else "cells: []"
    print(known if "--cfg" in sys.argv else json.dumps(plan))
    sys.exit()
notes = Path(os.environ["STUB_NOTES"])
number = sum(json.loads(line)["tree"] == str(tree) for line in notes.read_text().splitlines())
with notes.open("a") as file:
    note = {"tree": str(tree), "words": words, "turns": os.environ.get("CANVASBENCH_TURNS")}
    file.write(json.dumps({**note, "threads": os.environ.get("OMP_NUM_THREADS"), "pid": os.getpid()}) + "\\n")
chosen = [word.strip("'") for word in words["cells"].strip("[]").split(",")] if "cells" in words else list(template)
run_dir = Path(words["results_dir"].strip("'")) / "stub" / "run"
run_dir.mkdir(parents=True)
source = str(behaviour.get("sources", {}).get(str(number), "same"))
(run_dir / "plan.json").write_text(json.dumps({"provenance": {"source_hash": source}}))
with (run_dir / "records-1.jsonl").open("w") as file:
    for cell_id in chosen:
        record = template[cell_id]
        for one in record["rounds"]:
            one["clocks_mhz"] = {"sm": mhz, "sm_min": mhz, "sm_max": mhz} if (
                mhz := behaviour.get("clocks", {}).get(str(number))) else None
            hot = cell_id in behaviour.get("hot", {}).get(str(number), [])
            one["throttle_reasons"] = ["hw_thermal_slowdown"] if hot else []
        file.write(json.dumps(record) + "\\n")
time.sleep(behaviour.get("sleep_s", 0))
code = behaviour.get("codes", {}).get(str(number), 0)
if code:
    print("error: the stub was told to end badly", file=sys.stderr)
sys.exit(code)
"""
SCENARIO = Scenario(axes={"batch_size": [1, 2]}, rounds=1)
RECORDS = {one.cell_id: record_of(SCENARIO, one.cell, 0, "run", "ok") for one in plan_of(SCENARIO).cells}
CELLS = list(RECORDS)


class Repository:
    """A repository of stubs, and what their launches wrote down."""

    def __init__(self, folder: Path) -> None:
        self.root, self.notes = folder / "repository", folder / "notes"
        (self.root / "harness").mkdir(parents=True)
        self.notes.touch()
        self.git("init", "--quiet")
        template = {cell_id: to_json(replace(record, seed=7)) for cell_id, record in RECORDS.items()}
        files = {
            "harness/__init__.py": "",
            "harness/__main__.py": STUB,
            "template.json": json.dumps(template),
            "pyproject.toml": '[project]\nname = "stub"\ndependencies = ["a>=1"]\n',
        }
        for name, text in files.items():
            (self.root / name).write_text(text, encoding="utf-8")
        self.first = self.commit({})

    def git(self, *args: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(self.root), *who, *args]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self, behaviour: dict[str, Any], **files: str) -> str:
        """The hash of a commit in which the stub behaves so. files: name with __ for a dot -> content."""
        (self.root / "behaviour.json").write_text(json.dumps(behaviour), encoding="utf-8")
        for name, text in files.items():
            (self.root / name.replace("__", ".")).write_text(text, encoding="utf-8")
        self.git("add", "-A")
        self.git("commit", "--quiet", "--allow-empty", "-m", "one")
        return self.git("rev-parse", "HEAD")

    @property
    def launches(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.notes.read_text(encoding="utf-8").splitlines()]

    @property
    def worktrees(self) -> int:
        return self.git("worktree", "list", "--porcelain").count("worktree ") - 1


def judge_of(screen: int = 1, confirm: int = 0, kept: Sequence[str] = (), repeats: int = 2) -> Judge:
    """One who wants so many pairs and keeps these cells."""
    return Judge(
        screen_pairs=lambda job_dir: screen,
        screen=lambda job_dir: list(kept),
        confirm_pairs=lambda job_dir: confirm,
        repeats=repeats,
    )


def measure(
    repository: Repository,
    base: str,
    head: str | None = None,
    judge: Judge | None = None,
    said: list[str] | None = None,
    words: Sequence[str] = (),
) -> tuple[Path, Job]:
    """A job of two of its commits; no head is its working tree."""
    job_dir = measured(
        base=base,
        head=head,
        words=["suite=stub", *words],
        config_dir=None,
        results_dir=repository.root.parent / "results",
        judge=judge or judge_of(),
        say=(said if said is not None else []).append,
    )
    return job_dir, jobs.read(job_dir)
