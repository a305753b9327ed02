"""What several test files share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where fake NVMLs are built."""
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler (gcc) for the fake NVML")
    return tmp_path_factory.mktemp("nvml")
