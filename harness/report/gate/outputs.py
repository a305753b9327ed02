"""Everything that is rendered from one verdict, in one folder: what CI picks up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from harness.analysis.verdict import Verdict, to_json
from harness.records.store import write_atomic
from harness.report.gate.annotations import annotations_text
from harness.report.gate.benchmark_json import benchmark_json
from harness.report.gate.html import page
from harness.report.gate.junit import junit_text
from harness.report.gate.markdown import comment_text, summary_text
from harness.report.gate.terminal import terminal_text

# File name -> what makes its text of a verdict.
OUTPUTS: dict[str, Callable[[Verdict], str]] = {
    "verdict.json": to_json,
    "verdict.txt": terminal_text,
    "junit.xml": junit_text,
    "summary.md": summary_text,
    "comment.md": comment_text,
    "annotations.txt": annotations_text,
    "smaller_is_better.json": lambda verdict: benchmark_json(verdict, "lower"),
    "bigger_is_better.json": lambda verdict: benchmark_json(verdict, "higher"),
    "gate.html": page,
}


def write_outputs(verdict: Verdict, directory: Path) -> list[Path]:
    """Write every output and return their paths; equal verdicts give equal bytes.

    Raises:
        StoreError: the folder cannot be written.
    """
    for name, text_of in OUTPUTS.items():
        write_atomic(directory / name, text_of(verdict))
    return [directory / name for name in OUTPUTS]
