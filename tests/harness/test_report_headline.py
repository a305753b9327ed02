"""Verdict, tiles and qualifiers at the top of the page follow from the rows, in both directions."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from pages import analysed, expected_crossover, parsed, slow_diffusion
from synthetic import Scenario, usual_pass_s
from whole import build_page

from harness.analysis.analyse import Analysis
from harness.analysis.rows import BELOW_FLOOR
from harness.records.texts import plain
from harness.records.types import Cell
from harness.report import headlines
from harness.report.wording import ratio, tok_s


def test_the_page_says_what_range_of_speedups_the_headline_was_chosen_from(
    analysis: Analysis, page: str, frame: pd.DataFrame
) -> None:
    texts = " ".join(parsed(page).texts)
    for headline in analysis.headlines:
        rows = frame[(frame.run_id == headline.run_id) & frame["useful_tok_s.value"].notna()]
        diffusion = rows[rows.decoding == "block_diffusion"]
        smallest = diffusion[diffusion.batch_size == diffusion.batch_size.min()]
        speedups = smallest["speedup_vs_ar.value"].dropna() if "speedup_vs_ar.value" in smallest else []
        if len(speedups) > 1:
            assert f"from {ratio(min(speedups))} to {ratio(max(speedups))}" in texts


def test_every_verdict_is_on_the_page_and_speaks_of_its_rows(
    analysis: Analysis, page: str, frame: pd.DataFrame
) -> None:
    texts = " ".join(parsed(page).texts)
    for headline in analysis.headlines:
        sentence = headlines.verdict(headline)
        assert plain(sentence) in texts
        rows = frame[(frame.run_id == headline.run_id) & frame["useful_tok_s.value"].notna()]
        diffusion = rows[rows.decoding == "block_diffusion"]
        if diffusion.empty:
            assert "cell finished" in sentence or "only autoregressive decoding was measured" in sentence
            continue
        smallest = diffusion[diffusion.batch_size == diffusion.batch_size.min()]
        best = smallest.loc[smallest["useful_tok_s.value"].idxmax()]
        assert f"at batch {best.batch_size}" in sentence
        assert tok_s(best["useful_tok_s.value"]) in sentence
        speedup = best["speedup_vs_ar.value"]
        if pd.isna(speedup):
            assert "no comparison" in sentence
        elif best["speedup_vs_ar.low"] <= 1 <= best["speedup_vs_ar.high"] and best["speedup_vs_ar.n_rounds"] > 1:
            assert "cannot be told apart" in sentence
        else:
            winner = "block diffusion is" if speedup > 1 else "autoregressive decoding is"
            assert winner in sentence
            assert "faster than" in sentence


def test_every_tile_is_computed_from_the_rows(analysis: Analysis, page: str, frame: pd.DataFrame) -> None:
    texts = parsed(page).texts
    for headline in analysis.headlines:
        speed, speedup, crossover, floors, _, cells = headlines.tiles(headline, analysis)
        rows = frame[frame.run_id == headline.run_id]
        assert cells.value == f"{(rows.status == 'ok').sum()} of {len(rows)}"
        assert all(tile.value in [text.strip() for text in texts] for tile in (speedup, crossover, floors, cells))
        if headline.diffusion is None:
            assert speedup.value == crossover.value == "none"
            continue
        best = rows[rows.cell_id == headline.diffusion.cell_id].iloc[0]
        assert speed.value == tok_s(best["useful_tok_s.value"])
        twin = rows[rows.cell_id == best.twin_id]
        shares = [best["floor_share.value"], *twin["floor_share.value"]]
        known = [share for share in shares if share == share]
        assert floors.value == (
            " | ".join(f"{100 * s:.0f} %" if s >= 0.0995 else f"{100 * s:.2g} %" for s in known) or "unknown"
        )
        assert speedup.value == (ratio(best["speedup_vs_ar.value"]) if best["speedup_vs_ar.value"] > 0 else "none")
        assert crossover.value == expected_crossover(rows, best)


@pytest.mark.parametrize("faster", [1, 10])
def test_a_tile_with_a_floor_share_above_100_percent_says_so_whichever_side_it_is(tmp_path: Path, faster: int) -> None:
    def pass_s(cell: Cell) -> float:
        return usual_pass_s(cell) / (1 if cell.block_length else faster)

    analysis = analysed(tmp_path, Scenario(pass_s=pass_s))
    tile = headlines.tiles(analysis.headlines[0], analysis)[3]
    largest = max(float(share.removesuffix(" %")) for share in tile.value.split(" | "))
    assert (largest > 100) == (faster > 1) == (BELOW_FLOOR in tile.notes)


def test_random_weights_are_announced_at_the_top(tmp_path: Path) -> None:
    page = build_page(analysed(tmp_path, Scenario(trained=False)))
    assert page.index("Random weights: ") < page.index('class="tiles"')
    assert "RANDOM weights" in page


def test_trained_weights_are_not_called_random(tmp_path: Path) -> None:
    assert "andom weights" not in build_page(analysed(tmp_path, Scenario(trained=True)))


def test_made_up_data_is_announced_at_the_top(page: str) -> None:
    assert "Made-up test data" in page[: page.index("<main>")]


def test_a_slower_diffusion_is_reported_as_plainly_as_a_faster_one(tmp_path: Path) -> None:
    analysis = analysed(tmp_path, Scenario(pass_s=slow_diffusion))
    sentence = headlines.verdict(analysis.headlines[0])
    assert re.search(r"autoregressive decoding is [\d.]+x faster than block diffusion at batch 1", sentence)
    assert headlines.tiles(analysis.headlines[0], analysis)[1].value.startswith("0.")


@pytest.mark.parametrize(
    ("slower", "ending"),
    [
        ({}, "; nor at any batch up to 8, the largest compared."),
        ({8: 3.0}, "; beyond the noise, autoregressive decoding is ahead at batch 8 and nobody at 1, 2 and 4."),
        ({1: 0.3, 4: 3.0, 8: 3.0}, " (noise could move it)."),
        ({1: 0.3, 2: 0.3, 4: 0.3, 8: 0.3}, "; block diffusion stays ahead up to batch 8, the largest compared."),
    ],
)
def test_what_larger_batches_change_is_told_only_beyond_the_noise(
    tmp_path: Path, slower: dict[int, float], ending: str
) -> None:
    def pass_s(cell: Cell) -> float:  # the decoders are equal where nothing else is said
        return 0.01 * (511 / 17 * slower.get(cell.batch_size, 1.0) if cell.block_length else 1)

    axes = {"batch_size": [1, 2, 4, 8], "block_length": [256], "num_steps": [8]}
    analysis = analysed(tmp_path, Scenario(axes=axes, pass_s=pass_s, wobble=0.05))
    sentence = headlines.verdict(analysis.headlines[0])
    assert sentence.endswith(ending), sentence
    assert ("cannot be told apart at batch 1" in sentence) == (1 not in slower)
