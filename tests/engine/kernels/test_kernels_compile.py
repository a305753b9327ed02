"""Every kernel passes Triton's compiler and ptxas, which need no GPU, and fits an H100's shared memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton has no build for this platform")
ROOT = Path(__file__).resolve().parents[3]
H100_SHARED_BYTES = 227 * 1024  # a block's most, CUDA C++ programming guide, compute capability 9.0
KERNELS = {"_tile_statistics", "_merge_tiles", "_write_probs", "_attend", "_merge_parts", "_gate_up", "_down",
           "_gathered_gate_up", "_gathered_down", "_linear"}  # fmt: skip


def test_all_kernels_compile_for_an_h100_at_the_released_sizes(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("compile_all.py")), "90"],
        capture_output=True, text=True, cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    shared = [(name, int(size)) for name, size in map(str.split, done.stdout.splitlines())]
    assert {name for name, _ in shared} == KERNELS
    assert max(size for _, size in shared) <= H100_SHARED_BYTES
