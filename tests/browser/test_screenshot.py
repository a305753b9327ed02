"""The README's pictures come from a page by one command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import chromium
import pytest
from PIL import Image, ImageStat
from synthetic import Scenario, write_run

from harness.analysis.analyse import analyse
from harness.analysis.run_data import load_run
from harness.report.frame import build_page

TOOL = Path(__file__).parents[2] / "tools" / "screenshot.py"


def test_a_page_gives_a_light_and_a_dark_picture(tmp_path: Path) -> None:
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed; it is in the dev extra")
    if chromium.program() is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    page = tmp_path / "page.html"
    page.write_text(build_page(analyse([load_run(write_run(tmp_path, Scenario()))])), encoding="utf-8")
    subprocess.run([sys.executable, TOOL, page, tmp_path], check=True, capture_output=True)
    light, dark = (Image.open(tmp_path / f"report-{scheme}.png").convert("L") for scheme in ("light", "dark"))
    assert light.size == dark.size == (1200, 1500)
    assert ImageStat.Stat(dark).mean[0] < 80 < 200 < ImageStat.Stat(light).mean[0]
