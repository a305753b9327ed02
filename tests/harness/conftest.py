"""What several test files share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from pages import SCENARIOS, frame_of
from synthetic import write_run
from whole import build_page

from harness.analysis.analyse import Analysis, analyse
from harness.analysis.run_data import load_run


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where fake NVMLs are built."""
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler (gcc) for the fake NVML")
    return tmp_path_factory.mktemp("nvml")


@pytest.fixture(scope="session", params=sorted(SCENARIOS))
def analysis(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    folder = tmp_path_factory.mktemp("runs")
    return analyse([load_run(write_run(folder, scenario)) for scenario in SCENARIOS[request.param]])


@pytest.fixture(scope="session")
def page(analysis: Analysis) -> str:
    return build_page(analysis)


@pytest.fixture(scope="session")
def frame(analysis: Analysis) -> pd.DataFrame:
    return frame_of(analysis)
