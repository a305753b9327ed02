"""A verdict as GitHub's workflow commands, which a runner turns into annotations of the run.

https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands: a message keeps no line end and no
percent sign of its own, a property neither colon nor comma. Of a step's annotations a runner shows ten of a kind and
drops the rest without a word.
"""

from __future__ import annotations

from harness.analysis.verdict import Verdict
from harness.records.texts import said
from harness.report.gate import entries as lines_of
from harness.report.gate.entries import UNDECIDED
from harness.report.wording import counted

MOST = 10


def annotations_text(verdict: Verdict) -> str:
    """One line each: the verdict, then its red and undecided cells, the worst first; at most ten."""
    worst = [entry for entry in lines_of.by_cell(verdict) if entry.is_red or entry.state in UNDECIDED]
    lines = [_line("error" if verdict.exit_code else "notice", "canvasbench", lines_of.headline(verdict))]
    shown = worst if len(worst) < MOST else worst[: MOST - 2]
    for entry in shown:
        kind = "error" if entry.is_red else "warning"
        lines.append(_line(kind, f"{entry.state} {entry.label}", f"{entry.name}: {said(entry.reason)}"))
    if left := len(worst) - len(shown):
        lines.append(_line("notice", "canvasbench", f"{counted(left, 'more cell')} in the summary"))
    return "\n".join(lines) + "\n"


def _line(kind: str, title: str, message: str) -> str:
    return f"::{kind} title={_escaped(title).replace(':', '%3A').replace(',', '%2C')}::{_escaped(message)}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
