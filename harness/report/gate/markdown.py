"""A verdict as GitHub's Markdown: a step summary, and a comment of a pull request that is edited in place.

GitHub drops a summary of more than 1,024 KiB and refuses a comment of more than 65,536 characters, so rows are added
while there is room and the rest is counted. Texts of the verdict are escaped: they are no markup, no mention, no link.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.analysis.verdict import Verdict
from harness.records.texts import said
from harness.report.gate import entries as lines_of
from harness.report.gate.entries import UNCHANGED, Entry
from harness.report.wording import counted

MOST_SUMMARY_BYTES, MOST_COMMENT_BYTES = 1_000 * 1024, 60 * 1024
WORST = 20  # rows that stand open
_MOST_NOTES = 20
_HEADER = "| state | cell | rule | base | head | change | noise | why |\n|---|---|---|--:|--:|--:|--:|---|\n"
# A backslash before ASCII punctuation makes it a character; the entities also hold inside raw HTML.
_ESCAPES = {ord(c): f"\\{c}" for c in r"\`*_[]|~$!"} | {ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;"}
_NO_WIDTH = "\u200b"  # after @, #, :// and www. it keeps GitHub from making mentions and links, and nobody sees it


def summary_text(verdict: Verdict) -> str:
    """For $GITHUB_STEP_SUMMARY."""
    return _text(verdict, MOST_SUMMARY_BYTES)


def comment_text(verdict: Verdict) -> str:
    """For a comment: its first line is the marker by which the next run finds it again."""
    return f"{marker(verdict)}\n{_text(verdict, MOST_COMMENT_BYTES)}"


def marker(verdict: Verdict) -> str:
    """An invisible line, one for each suite."""
    return f"<!-- canvasbench-gate {re.sub('[^A-Za-z0-9]+', '-', verdict.suite[:60])} -->"


def _text(verdict: Verdict, most_bytes: int) -> str:
    """Fixed parts first, so that what is left for rows is known."""
    found = lines_of.by_cell(verdict)
    changed = [entry for entry in found if entry.state not in UNCHANGED]
    unchanged = [entry for entry in found if entry.state in UNCHANGED]
    opening = [
        f"**{escaped(lines_of.headline(verdict))}**\n",
        f"{escaped(lines_of.compared(verdict))}. Cells: {escaped(lines_of.counts(verdict))}.\n",
        *_bullets(lines_of.next_steps(verdict)),
    ]
    closing = _bullets([*lines_of.shifts(verdict), *lines_of.notes(verdict)])
    room = most_bytes - _size([*opening, *closing]) - 2_000  # for headings and counts
    tables = []
    for title, rows in (
        ("", changed[:WORST]),
        (f"{counted(len(changed) - WORST, 'more cell')} with a change or without a result", changed[WORST:]),
        (f"{counted(len(unchanged), 'cell')} unchanged, or only reported", unchanged),
    ):
        if rows:
            table = _table(title, rows, room)
            room -= _size([table])
            tables.append(table)
    return "\n".join([*opening, *tables, *closing])


def _table(title: str, rows: Sequence[Entry], room: int) -> str:
    """As many rows as there is room for; folded where it has a title, which is ours and no text of the verdict."""
    lines: list[str] = []
    for row in map(_row, rows):
        room -= _size([row])
        if room < 0:
            break
        lines.append(row)
    text = _HEADER + "".join(lines) if lines else ""
    if left := len(rows) - len(lines):
        text += f"\n{counted(left, 'cell')} left out for want of room; verdict.json has them.\n"
    return f"<details><summary>{title}</summary>\n\n{text}\n</details>\n" if title else text


def _row(entry: Entry) -> str:
    label = escaped(said(entry.cell.label, 80))
    texts = (str(entry.state), label, escaped(entry.name))
    values = (escaped(one) for one in (entry.base, entry.head, entry.change, entry.spread))
    return f"| {' | '.join((*texts, *values, escaped(said(entry.reason))))} |\n"


def _bullets(texts: list[str]) -> list[str]:
    """One block, and a line after it."""
    lines = [f"- {escaped(text)}\n" for text in texts[:_MOST_NOTES]]
    if len(texts) > _MOST_NOTES:
        lines.append(f"- {len(texts) - _MOST_NOTES} more in verdict.json\n")
    return ["".join(lines)] if lines else []


def escaped(text: str) -> str:
    """The text as Markdown that shows exactly it."""
    text = text.translate(_ESCAPES)
    return re.sub(r"(@|#|://|www\.)", rf"\1{_NO_WIDTH}", text)


def _size(texts: Sequence[str]) -> int:
    return sum(len(text.encode()) + 1 for text in texts)
