"""What `run` and `report` print at their end: the verdict and the best cell of each batch, as plain text."""

from __future__ import annotations

from harness.analysis.analyse import Analysis
from harness.analysis.rows import INCOMPLETE_STATUSES, CellRow
from harness.analysis.self_check import SelfCheck
from harness.records.texts import plain, short
from harness.report import claims
from harness.report.headlines import equal_quality, verdict
from harness.report.peers import against_peers
from harness.report.slices import Slice, slices_of
from harness.report.wording import BASELINE, counted, ratio, tok_s

MOST_LINES = 25
BATCH_HEADER = ("batch", "tok/s", "AR tok/s", "speed-up", "interval", "block", "steps")


def result_text(analysis: Analysis) -> str:
    """At most 25 lines: verdicts, equal quality, claims, the fastest setting per batch, what is incomplete."""
    judgements = analysis.claims
    more = (*equal_quality(analysis), *against_peers(analysis), claims.summary(judgements))
    lines = [*(plain(verdict(headline)) for headline in analysis.headlines), *map(plain, more)]
    tail = _tail(analysis)
    room = MOST_LINES - len(lines) - len(tail)
    tables = [lines_ for part in slices_of(analysis) if (lines_ := _table(part))]
    for i, table in enumerate(tables):
        if len(table) + (i < len(tables) - 1) > room:
            lines.append(f"{counted(len(tables) - i, 'more table')} on the page")
            break
        lines += table
        room -= len(table)
    told = [short(plain(line), 200) for line in claims.lines(judgements)]
    lines += ["", *told] if told and len(told) < room else []
    return "\n".join([*lines, *tail][:MOST_LINES]) + "\n"


def self_check_text(check: SelfCheck) -> str:
    """What `run` adds: whether the numbers fit together, and what the harness took beside the requests."""
    lines = [f"self-check: {counted(check.num_rounds, 'round')}, every identity holds"]
    if check.broken:
        label, what = check.broken[0]
        more = f" (and {len(check.broken) - 1} more)" if len(check.broken) > 1 else ""
        lines = [f"self-check FAILED: {short(label, 60)}: {short(what, 120)}{more}"]
    if check.overhead_s is not None and check.max_overhead_s is not None:
        usual, most = (f"{1e3 * seconds:.2g} ms" for seconds in (check.overhead_s, check.max_overhead_s))
        lines.append(f"the harness's own time a round: {usual}, at most {most}")
    return "\n".join(lines) + "\n"


def _tail(analysis: Analysis) -> list[str]:
    counts = analysis.coverage()
    lines = ["", ", ".join(f"{count} {name}" for name, count in counts.items())]
    if any("speedup_vs_ar" in row.metrics for row in analysis.rows):
        lines.insert(1, f"speed-ups are {BASELINE}")
    bad = [row for row in analysis.rows if row.status in INCOMPLETE_STATUSES]
    if bad:
        first = bad[0]
        lines.append(f"{first.status}: {short(first.cell.label, 60)}: {short(first.reason or '', 100)}")
    if analysis.warnings:
        more = f" (and {len(analysis.warnings) - 1} more)" if len(analysis.warnings) > 1 else ""
        lines.append(f"warning: {short(analysis.warnings[0], 140)}{more}")
    return lines


def _table(part: Slice) -> list[str]:
    rows = [BATCH_HEADER, *batch_rows(part)]
    if len(rows) == 1:
        return []
    widths = [max(len(row[i]) for row in rows) for i in range(len(BATCH_HEADER))]
    texts = ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return ["", *([short(part.title, 100)] if part.title else []), *texts]


def batch_rows(part: Slice) -> list[tuple[str, ...]]:
    """The fastest setting of each batch, below BATCH_HEADER."""
    return [_row(part, batch_size) for batch_size in sorted({row.cell.batch_size for row in part.rows})]


def _row(part: Slice, batch_size: int) -> tuple[str, ...]:
    """The fastest diffusion cell of the batch beside its twin; dashes where there is none."""
    cells = [row for row in part.rows if row.cell.batch_size == batch_size]
    diffusion = [row for row in cells if not row.is_autoregressive and "useful_tok_s" in row.metrics]
    twin = next((row for row in cells if row.is_autoregressive), None)
    best = max(diffusion, key=lambda row: row.metrics["useful_tok_s"].value, default=None)
    speedup = None if best is None else best.metrics.get("speedup_vs_ar")
    return (
        str(batch_size),
        _speed(best),
        _speed(twin),
        "-" if speedup is None else ratio(speedup.value),
        "-" if speedup is None or speedup.n_rounds == 1 else f"{ratio(speedup.low)} to {ratio(speedup.high)}",
        "-" if best is None else str(best.cell.block_length),
        "-" if best is None else ("" if best.cell.stopping == "fixed" else "<=") + str(best.cell.num_steps),
    )


def _speed(row: CellRow | None) -> str:
    if row is None:
        return "-"
    return tok_s(row.metrics["useful_tok_s"].value) if "useful_tok_s" in row.metrics else row.status
