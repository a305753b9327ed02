"""Reports of results that a page is seldom made for: each says in plain sentences what there is and what is not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from odd_inputs import ODD_INPUTS, odd
from synthetic import Scenario, write_run
from whole import build_page, with_data

from harness import cli
from harness.analysis.analyse import analyse
from harness.analysis.run_data import load_run
from harness.report import frame

ROOT = Path(__file__).parents[2]
# What a reader must find on each page, whatever else stands there.
SENTENCES = {
    "one cell": [
        r"block diffusion is [\d.]+x faster than autoregressive decoding at batch 2 ",
        "no other batch was compared",
        "In the one measured cell block diffusion is faster: ",
        "batch 2 alone was measured",
        "None of the launch's 11 claims is tested here",
        r"33 % of the floor for autoregressive decoding \(1 measured row of 1 run on 1 device\)",
        "that takes 100 requests a cell; here is 1",
    ],
    "only failed cells": [
        "no cell finished, so there is nothing to compare",
        "15 of 15 cells ended in error: the driver is gone",
        "0 of 15",
        "None of the launch's 11 claims is tested here",
        r"does block diffusion win\? What does interactivity cost\? .*?</dt><dd>no finished cell\. </dd>",
    ],
    "diffusion only": [
        "no comparison: no autoregressive twin: excluded by the suite: not asked",
        "Only block diffusion was measured, so there is nothing to compare",
    ],
    "autoregressive only": [
        r"only autoregressive decoding was measured: [\d.]+ useful tok/s at batch 1, the smallest",
        "Only autoregressive decoding was measured, so there is nothing to compare",
    ],
    "autoregressive always wins": [
        r"autoregressive decoding is [\d.]+x faster than block diffusion at batch 1 ",
        "autoregressive decoding stays ahead up to batch 16, the largest compared",
        "block diffusion is slower at every batch where both ran",
        "In all 12 measured cells block diffusion is slower",
        "it wins in none of them",
        "fewer than 8 steps may turn it",
        "take autoregressive decoding, whatever speed your users need",
        "autoregressive decoding is faster throughout",
    ],
    "three devices": [
        *(rf"On GPU {name} 80 GB, block diffusion is [\d.]+x faster" for name in "ABC"),
        "What did each device give",
        "3 devices",
    ],
    "graded": [r"it has \d+ % exact match over 3 prompts against \d+ % of autoregressive decoding"],
}


@pytest.mark.parametrize("name", ODD_INPUTS)
def test_the_page_says_what_there_is_and_what_is_not(name: str) -> None:
    page = build_page(odd(name)[0]).replace("&#39;", "'")
    missing = [sentence for sentence in SENTENCES[name] if not re.search(sentence, page, re.DOTALL)]
    assert missing == []


@pytest.mark.parametrize("name", ODD_INPUTS)
def test_nothing_on_the_page_is_the_name_of_a_value_that_is_missing(name: str) -> None:
    page = with_data(odd(name)[1])
    page = re.sub("<script>.*?</script>|<style>.*?</style>", "", page, flags=re.DOTALL)
    texts = re.sub("<[^>]*>", " ", page)
    assert re.findall(r".{40}\b(?:None(?! of )|nan|NaN|inf|undefined|True|not_\w+: |\(\)).{0,20}", texts) == []


@pytest.mark.parametrize("name", ODD_INPUTS)
def test_the_exit_code_says_whether_cells_failed(name: str, tmp_path: Path) -> None:
    runs = [str(write_run(tmp_path, scenario)) for scenario in ODD_INPUTS[name]]
    output = tmp_path / "page.html"
    code = cli.main(["report", *runs, "-q", "-o", str(output)])
    assert code == (cli.INCOMPLETE if name == "only failed cells" else cli.DONE)
    assert output.is_file()


def test_an_empty_run_has_no_page_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path, Scenario(outcome=lambda cell, _: "absent"))
    output = tmp_path / "page.html"
    assert cli.main(["report", str(run), "-o", str(output)]) == cli.NOTHING == 4
    said = capsys.readouterr()
    assert (said.out, len(said.err.splitlines())) == ("", 1)
    assert "nothing to show" in said.err
    assert not output.exists()


def test_the_page_is_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    """Whatever order Python's sets have there."""
    runs = [str(write_run(tmp_path, scenario)) for scenario in ODD_INPUTS["three devices"]]
    pages = []
    for seed in ("1", "2"):
        output = tmp_path / f"{seed}.html"
        command = [sys.executable, "-m", "harness", "report", *runs, "-q", "-o", str(output)]
        subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed})
        pages.append(output.read_bytes())
    assert pages[0] == pages[1]
    assert pages[0] == frame.build_page(analyse([load_run(Path(run)) for run in runs])).encode()
