"""What a user feels: times to the first block and between blocks, recomputed from the record lines."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from altered import lines_of
from synthetic import Scenario, write_run

from harness.analysis.analyse import analyse
from harness.analysis.latency import percentile, supported
from harness.analysis.run_data import load_run
from harness.report.figures.base import Figure, NotDrawn
from harness.report.figures.latency import latency
from harness.report.slices import slices_of

AXES = {"batch_size": [1, 16], "num_steps": [8], "block_length": [128]}


def drawn(folder: Path, scenario: Scenario) -> tuple[Figure, list[dict[str, Any]]]:
    run_dir = write_run(folder, scenario)
    (part,) = slices_of(analyse([load_run(run_dir)]))
    return latency(part, "x"), lines_of(run_dir)


def samples(lines: list[dict[str, Any]], decoding: str, batch_size: int) -> tuple[list[float], list[float]]:
    """Milliseconds to the first block, and between blocks."""
    rounds = [
        one
        for line in lines
        if (line["cell"]["decoding"], line["cell"]["batch_size"]) == (decoding, batch_size)
        for one in line["rounds"]
    ]
    first = [1e3 * one["block_s"][0] for one in rounds]
    return first, [1e3 * gap for one in rounds for gap in np.diff(one["block_s"])]


def told(values: list[float], highest: int | None) -> str:
    def ms(value: float) -> str:
        return f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"

    def at(share: float) -> str:
        return ms(float(np.quantile(values, share, method="inverted_cdf")))

    beyond = "" if highest is None else f", {highest} % within {at(highest / 100)}"
    return f"{at(0.5)} (n = {len(values):,}{beyond})"


@pytest.mark.parametrize(("rounds", "highest"), [(3, None), (12, 90)])
def test_the_answer_gives_medians_and_the_percentiles_that_the_samples_support(
    tmp_path: Path, rounds: int, highest: int | None
) -> None:
    figure, lines = drawn(tmp_path, Scenario(axes=AXES, rounds=rounds))
    for batch_size in (1, 16):
        first, between = samples(lines, "block_diffusion", batch_size)
        ends = (told(first, highest), told(between, 90 if len(between) < 100 and len(between) >= 10 else highest))
        sentence = f"block diffusion shows its first 128 tokens after {ends[0]} and as many every {ends[1]}"
        assert re.search(rf"At batch {batch_size} {re.escape(sentence)}", figure.answer), (sentence, figure.answer)
        first, between = samples(lines, "autoregressive", batch_size)
        assert len(between) > 100
        sentence = f"its first token after {told(first, highest)} and another every {told(between, 99)}"
        assert sentence in figure.answer, (sentence, figure.answer)


@pytest.mark.parametrize(
    ("count", "shares"),
    [(0, []), (1, [0.5]), (9, [0.5]), (10, [0.5, 0.9]), (99, [0.5, 0.9]), (100, [0.5, 0.9, 0.99])],
)
def test_no_percentile_is_told_that_no_sample_lies_beyond(count: int, shares: list[float]) -> None:
    assert supported(count) == shares


def test_a_percentile_is_a_sample() -> None:
    values = sorted(np.random.default_rng(0).random(137).tolist())
    for share in (0.5, 0.9, 0.99):
        assert percentile(values, share) == np.quantile(values, share, method="inverted_cdf")


def test_a_request_of_one_block_has_nothing_after_it(tmp_path: Path) -> None:
    figure, _ = drawn(tmp_path, Scenario(axes={"block_length": [512], "num_steps": [8], "batch_size": [1]}))
    assert re.search(r"its first 512 tokens after [^;]*, which are the whole answer", figure.answer)


def test_few_samples_are_all_drawn_and_many_are_not(tmp_path: Path) -> None:
    few, many = (drawn(tmp_path / str(n), Scenario(axes=AXES, rounds=n))[0] for n in (19, 20))
    dots = [str(one.picture).count("stroke-linecap: round") for one in (few, many)]
    assert dots[0] > dots[1]


@pytest.mark.parametrize(("kept", "lacks"), [("block_diffusion", "Autoregressive"), ("autoregressive", "Block diff")])
def test_the_decoder_without_a_finished_cell_is_named(tmp_path: Path, kept: str, lacks: str) -> None:
    scenario = Scenario(axes=AXES, outcome=lambda cell, _: "ok" if cell.decoding == kept else "oom")
    figure, _ = drawn(tmp_path, scenario)
    assert re.search(rf"{lacks}[a-z ]* has no finished cell here\.$", figure.answer)


def test_one_round_of_one_cell_is_its_own_median(tmp_path: Path) -> None:
    axes = {"batch_size": [2], "block_length": [256], "num_steps": [8]}
    figure, lines = drawn(tmp_path, Scenario(axes=axes, rounds=1))
    first, _ = samples(lines, "block_diffusion", 2)
    assert f"its first 256 tokens after {told(first, None)}" in figure.answer


def test_a_run_in_which_every_cell_failed_draws_nothing(tmp_path: Path) -> None:
    with pytest.raises(NotDrawn, match="no finished cell"):
        drawn(tmp_path, Scenario(outcome=lambda cell, _: "error"))
