"""Sentences about a run's peer: how many times as fast this engine is, computed in both directions."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis.analyse import Analysis
from harness.analysis.rows import CellRow
from harness.report.wording import counted, listed, ratio


def against_peers(analysis: Analysis) -> list[str]:
    """Of each run that has a peer: who is faster in a step, and by how much, at every batch."""
    told = []
    for run_id, run in analysis.runs.items():
        own = [row for row in analysis.rows if row.run_id == run_id and row.cell.backend != run.peer]
        if run.peer and own:
            told.append(against_peer(own, run.peer))
    return told


def against_peer(rows: Sequence[CellRow], peer: str) -> str:
    """The ratios of a step's time to that of the same cell on the peer, which stands on either side of 1."""
    known = [row for row in rows if "peer_step_speedup" in row.metrics]
    backend = rows[0].cell.backend
    where = f"Beside {peer} on the same weights and prompts"
    if not known:
        why = next((row.missing.get("peer_step_speedup", "") for row in rows), "no cell finished")
        return f"{where} there is no comparison of {backend}: {why}."
    parts = []
    for what, is_autoregressive in (("a denoise step", False), ("a decoded token", True)):
        by_batch: dict[int, list[float]] = {}
        for row in known:
            if row.is_autoregressive == is_autoregressive:
                by_batch.setdefault(row.cell.batch_size, []).append(row.metrics["peer_step_speedup"].value)
        spans = [f"{_span(values)} at batch {size}" for size, values in sorted(by_batch.items())]
        if spans:
            parts.append(f"{what} {listed(spans)}")
    num_rounds = min(row.metrics["peer_step_speedup"].n_rounds for row in known)
    return (
        f"{where}, {backend} is so many times as fast (below 1 it is slower): {'; '.join(parts)}; medians over "
        f"at least {counted(num_rounds, 'round')}, which take turns in one process."
    )


def _span(values: Sequence[float]) -> str:
    low, high = ratio(min(values)), ratio(max(values))
    return low if low == high else f"{low} to {high}"
