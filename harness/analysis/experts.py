"""How many experts a pass really reads, and how many it would if every token chose evenly at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from harness.records.types import AUTOREGRESSIVE, Record


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertsRead:
    """Distinct experts of a layer that a denoise or decode pass read: means over passes, then over layers."""

    mean: float
    fewest: float  # of the layer that reads the fewest
    most: float


def experts_read(records: Sequence[Record]) -> ExpertsRead | None:
    """Of the counting rounds of a cell's launches; None where no expert was counted."""
    by_layer: dict[int, list[int]] = {}
    for record in records:
        own = "decode" if record.cell.decoding == AUTOREGRESSIVE else "denoise"
        kinds, hits = record.counters.get("kinds", ()), record.counters.get("expert_hits", ())
        for kind, layers in zip(kinds, hits, strict=False):
            for layer, count in enumerate(layers if kind == own else ()):
                by_layer.setdefault(layer, []).append(count)
    means = [sum(counts) / len(counts) for counts in by_layer.values()]
    return ExpertsRead(mean=fmean(means), fewest=min(means), most=max(means)) if means else None


def expected_share(num_experts: int, top_k: int, tokens: float) -> float:
    """Of all experts, those that so many tokens read if each takes k evenly at random: 1 - (1 - k / E) ** n."""
    return float(1 - (1 - top_k / num_experts) ** tokens)
