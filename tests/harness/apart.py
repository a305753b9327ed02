"""The environment of a process that a test starts: nothing of the parent's, so that every machine is the same."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# One thread: tests run side by side, and OpenMP spins while it waits: two threads on a busy core take fifty times as
# long.
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "CI": "true", "OMP_NUM_THREADS": "1"}
