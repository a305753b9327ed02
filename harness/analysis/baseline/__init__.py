"""Approved values, committed to the repository: results/baselines/<identity>/<suite>.json, a line a cell and rule.

A run only writes a candidate (candidate.py). `baseline approve` turns candidates into approved values and `baseline
expire` ends what was accepted; nothing else ever changes a baseline, and both leave a diff to review.
"""

from __future__ import annotations

from harness.analysis.baseline.changes import Change, NothingToApprove, approve, expire
from harness.analysis.baseline.stored import (
    BASELINE_SCHEMA,
    Approval,
    Approved,
    Baseline,
    folder_of,
    path_of,
    read,
    read_if_any,
    to_json,
)

__all__ = [
    "BASELINE_SCHEMA",
    "Approval",
    "Approved",
    "Baseline",
    "Change",
    "NothingToApprove",
    "approve",
    "expire",
    "folder_of",
    "path_of",
    "read",
    "read_if_any",
    "to_json",
]
