"""What a token's energy and money come to: sentence, tile and price, recomputed from the record lines."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
from altered import alter, alter_plan, lines_of
from synthetic import Scenario, write_run

from harness.__main__ import main
from harness.analysis.analyse import Analysis, analyse
from harness.analysis.run_data import load_run
from harness.report import headlines
from harness.report.figures.base import Figure, NotDrawn
from harness.report.figures.energy import energy
from harness.report.slices import slices_of

Json = dict[str, Any]
AXES = {"batch_size": [1, 16], "block_length": [128], "num_steps": [8]}
PRICE = {"value": 2.5, "source": "a price list, 2026-11", "note": "on demand"}
DECODERS = {
    "block diffusion with 128-token blocks and 8 steps": "block_diffusion",
    "autoregressive decoding": "autoregressive",
}


def metered(line: Json) -> None:
    """A window of 10 s in which 1.5 kJ are spent for every batch, and 100 W idle."""
    rounds = line["rounds"]
    if rounds:
        useful = round(10 * sum(rounds[0]["useful_tokens"]) / rounds[0]["wall_s"])
        line["energy"] = {
            "window_s": 10.0, "energy_j": 1500.0 + 10 * line["cell"]["batch_size"], "idle_w": 100.0, "num_requests": 2,
            "useful_tokens": useful, "raw_tokens": 2 * useful, "missing": {},
        }  # fmt: skip


def priced(plan: Json) -> None:
    plan["device"]["price_usd_per_hour"] = PRICE


def made(folder: Path, *, energy: bool = True, price: bool = True, **changes: Any) -> Path:
    run_dir = write_run(folder, Scenario(**{"axes": AXES, **changes}))
    if energy:
        alter(run_dir, metered)
    return alter_plan(run_dir, priced) if price else run_dir


def analysed(run_dir: Path) -> Analysis:
    return analyse([load_run(run_dir)])


def draw(run_dir: Path) -> Figure:
    (part,) = slices_of(analysed(run_dir))
    return energy(part, "x")


def joules(line: Json) -> float:
    return float(line["energy"]["energy_j"] / line["energy"]["useful_tokens"])


def dollars(line: Json) -> float:
    hours = statistics.median(one["wall_s"] / sum(one["useful_tokens"]) for one in line["rounds"]) / 3600
    return float(hours * 2.5 * 1e6)


def at(run_dir: Path, decoding: str, batch_size: int) -> Json:
    cells = [one for one in lines_of(run_dir) if one["cell"]["decoding"] == decoding]
    return next(one for one in cells if one["cell"]["batch_size"] == batch_size)


def test_the_answer_gives_joules_and_dollars_of_both_decoders_at_both_ends(tmp_path: Path) -> None:
    run_dir = made(tmp_path)
    answer = draw(run_dir).answer
    for unit, read in (("In J per useful token, ", joules), ("In USD per million useful tokens, ", dollars)):
        (text,) = re.findall(rf"{unit}(.*?)\.(?: In|$)", answer)
        for name, decoding in DECODERS.items():
            low, high = (f"{read(at(run_dir, decoding, size)):.3g}" for size in (1, 16))
            assert f"{name} takes {low} at batch 1 and {high} at batch 16" in text


def test_the_picture_prints_price_source_date_and_utilisation(tmp_path: Path) -> None:
    picture = str(draw(made(tmp_path)).picture)
    words = " ".join(re.findall(r">([^<]+)</text>", picture))
    assert "price: 2.5 USD per hour (a price list, 2026-11; on demand)" in words
    assert "at 100 % utilisation" in words
    assert "the idle device's share" in words


def test_without_energy_the_price_is_drawn_and_the_reason_is_told(tmp_path: Path) -> None:
    figure = draw(made(tmp_path, energy=False))
    assert "There is no energy (not asked for: the suite's `energy` does not name this cell)" in figure.answer
    assert "In USD per million useful tokens" in figure.answer
    assert "idle" not in figure.picture


def test_without_a_price_the_energy_is_drawn_and_the_reason_is_told(tmp_path: Path) -> None:
    figure = draw(made(tmp_path, price=False))
    assert "There is no price (the device's file has no price)." in figure.answer
    assert "--usd-per-hour made_up_gpu=PRICE" in figure.next_step


def test_without_both_nothing_is_drawn_and_both_reasons_are_told(tmp_path: Path) -> None:
    with pytest.raises(NotDrawn, match=r"energy: not asked for.*; price: the device's file has no price"):
        draw(made(tmp_path, energy=False, price=False))


@pytest.mark.parametrize(
    ("kept", "other"), [("block_diffusion", "Autoregressive"), ("autoregressive", "Block diffusion")]
)
def test_the_decoder_without_a_finished_cell_is_named(tmp_path: Path, kept: str, other: str) -> None:
    run_dir = made(tmp_path, outcome=lambda cell, _: "ok" if cell.decoding == kept else "oom")
    assert len(re.findall(rf"{other}[a-z ]* has no (?:energy|price) here\.", draw(run_dir).answer)) == 2


def test_one_cell_and_no_cell(tmp_path: Path) -> None:
    one = made(tmp_path / "one", axes={"batch_size": [2], "block_length": [128], "num_steps": [8]}, rounds=1)
    assert f"steps takes {joules(at(one, 'block_diffusion', 2)):.3g} at batch 2; auto" in draw(one).answer
    with pytest.raises(NotDrawn, match="no finished cell"):
        draw(made(tmp_path / "none", outcome=lambda cell, _: "error"))


def test_the_tile_has_the_joules_of_both_sides_of_the_headline(tmp_path: Path) -> None:
    run_dir = made(tmp_path)
    analysis = analysed(run_dir)
    tile = next(one for one in headlines.tiles(analysis.headlines[0], analysis) if one.name.startswith("energy"))
    values = [f"{joules(at(run_dir, decoding, 1)):.3g}" for decoding in ("block_diffusion", "autoregressive")]
    assert (tile.name, tile.value, tile.unit) == ("energy per useful token, batch 1", " | ".join(values), "J")


def test_the_caption_speaks_of_what_is_drawn_alone(tmp_path: Path) -> None:
    for name, shown in (("energy", {"energy": True, "price": False}), ("price", {"energy": False, "price": True})):
        texts = re.findall(r">([^<]+)</text>", str(draw(made(tmp_path / name, **shown)).picture))
        assert ("window of repeated requests" in " ".join(texts)) == shown["energy"]
        assert ("a price list, 2026-11" in " ".join(texts)) == shown["price"]


def test_the_tile_says_why_there_is_no_energy(tmp_path: Path) -> None:
    analysis = analysed(made(tmp_path, energy=False))
    tile = next(one for one in headlines.tiles(analysis.headlines[0], analysis) if one.name.startswith("energy"))
    assert tile.value == "not measured"
    assert tile.notes[0].startswith("not asked for")


def test_report_takes_another_price_and_says_whose_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir, page = made(tmp_path), tmp_path / "page.html"
    prices = ("--usd-per-hour", "made_up_gpu=5", "--usd-per-hour", "h200=9")  # the second one is predicted alone
    assert main(["report", str(run_dir), "-o", str(page), "--json", *prices]) == 0
    predicted = {one["device"]: one for one in json.loads(capsys.readouterr().out)["predictions"]["devices"]}
    _, tok_s = predicted["h200"]["floor_tok_s"]["block_diffusion"][0]
    assert predicted["h200"]["usd_per_million_at_floor"]["block_diffusion"] == pytest.approx(9 / 3600 / tok_s * 1e6)
    text = page.read_text(encoding="utf-8")
    assert "5.0 USD per hour (given with --usd-per-hour)" in text
    assert f"takes {2 * dollars(at(run_dir, 'block_diffusion', 1)):.3g} at batch 1" in text
    assert load_run(run_dir).plan["device"]["price_usd_per_hour"] == PRICE  # the run itself is as it was


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("made_up=5", ", made_up_gpu, "),
        ("made_up=5", "nearest valid: made_up_gpu"),
        ("h10=5", "nearest valid: h100"),
        ("made_up_gpu=free", "holds no price"),
        ("made_up_gpu=-1", "holds no price"),
        ("made_up_gpu=nan", "holds no price"),
        ("5", "holds no price"),
        ("made_up_gpu=5 made_up_gpu=6", "'made_up_gpu' is named twice, with 5 and with 6"),
    ],
)
def test_a_price_that_is_none_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: str, said: str
) -> None:
    page = tmp_path / "page.html"
    words = [word for price in given.split() for word in ("--usd-per-hour", price)]
    assert main(["report", str(made(tmp_path)), "-o", str(page), *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --usd-per-hour: ")
    assert said in error
    assert not page.exists()
