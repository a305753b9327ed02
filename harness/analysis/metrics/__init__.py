"""What can be said about a measured cell. A metric is one declared function; its docstring is its formula.

Reports and gates read the registry METRICS, so a new metric needs nothing but its function in one of these files.
"""

from __future__ import annotations

from harness.analysis.metrics import counts, energy, floors, quality, times  # declare their metrics
from harness.analysis.metrics.registry import METRICS, Metric, Missing, Part, check_metrics, metric

__all__ = [
    "METRICS",
    "Metric",
    "Missing",
    "Part",
    "check_metrics",
    "counts",
    "energy",
    "floors",
    "metric",
    "quality",
    "times",
]
