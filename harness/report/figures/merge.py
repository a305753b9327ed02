"""The place of a comparison of two commits. A page of runs holds no baseline, so it says what would supply one."""

from __future__ import annotations

from harness.analysis.analyse import Analysis
from harness.analysis.trend import commit_of
from harness.report.figures.base import Figure, NotDrawn
from harness.report.wording import counted, listed

QUESTION = "May I merge?"


def merge(analysis: Analysis, name: str) -> Figure:
    """Raises NotDrawn always: whether a change is real is judged on rounds of both commits that took turns."""
    commits = list(dict.fromkeys(filter(None, map(commit_of, analysis.runs.values()))))
    have = f"{counted(len(analysis.runs), 'run')} of {counted(len(commits), 'commit')}"
    named = f" ({listed(commits[:4])}{' and others' if len(commits) > 4 else ''})" if commits else ""
    raise NotDrawn(
        f"this page has {have}{named} and no baseline; a verdict takes both commits measured in turns on one machine, "
        "or an approved baseline of it"
    )
