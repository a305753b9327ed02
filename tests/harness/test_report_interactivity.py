"""What interactivity costs: the frontier and its sentence, recomputed from the record lines."""

from __future__ import annotations

import re
import statistics
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from altered import lines_of
from synthetic import Scenario, write_run

from harness.analysis.analyse import analyse
from harness.analysis.frontier import device_tok_s_at, frontier, served
from harness.analysis.run_data import load_run
from harness.records.types import Cell
from harness.report.figures.base import Figure, NotDrawn
from harness.report.figures.interactivity import TARGETS_TOK_S, interactivity
from harness.report.slices import Slice, slices_of
from harness.report.wording import lead, tok_s

AXES = {"batch_size": [1, 2, 4, 8, 16, 32, 64], "num_steps": [8, 16]}


def near_each_other(cell: Cell) -> float:
    """Both decoders serve users at 50 to 400 tok/s."""
    return 0.002 * cell.batch_size**0.6 * (40 if cell.block_length else 1)


def drawn(folder: Path, scenario: Scenario) -> tuple[Slice, Figure, pd.DataFrame]:
    run_dir = write_run(folder, scenario)
    (part,) = slices_of(analyse([load_run(run_dir)]))
    return part, interactivity(part, "x"), speeds_of(run_dir)


def speeds_of(run_dir: Path) -> pd.DataFrame:
    """Of every ok record line, useful tokens per second of the device and of a user."""
    table = []
    for line in lines_of(run_dir):
        if line["status"] == "ok":
            device = statistics.median(sum(one["useful_tokens"]) / one["wall_s"] for one in line["rounds"])
            size = line["cell"]["batch_size"]
            table.append({"decoding": line["cell"]["decoding"], "device": device, "user": device / size, "size": size})
    return pd.DataFrame(table)


def unbeaten(speeds: pd.DataFrame) -> pd.DataFrame:
    """By the definition: no other row is at least as good in both and better in one."""

    def is_beaten(row: pd.Series) -> bool:
        as_good = speeds[(speeds.device >= row.device) & (speeds.user >= row.user)]
        return bool(((as_good.device > row.device) | (as_good.user > row.user)).any())

    return speeds[~speeds.apply(is_beaten, axis=1)].sort_values("user")


def best_at_least(speeds: pd.DataFrame, target: float) -> float | None:
    """Of all rows that give a user as much, the most that the device gives."""
    as_fast = speeds[speeds.user >= target]
    return None if as_fast.empty else float(as_fast.device.max())


def test_the_answer_gives_the_ends_of_both_frontiers_and_the_largest_common_target(tmp_path: Path) -> None:
    _, figure, speeds = drawn(tmp_path, Scenario(axes=AXES, pass_s=near_each_other))
    lines = {name: unbeaten(rows) for name, rows in speeds.groupby("decoding")}
    for name, line in (
        ("lock diffusion", lines["block_diffusion"]),
        ("autoregressive decoding", lines["autoregressive"]),
    ):
        fastest, most = line.iloc[-1], line.iloc[0]
        pattern = (
            rf"{name} gives a user at most {tok_s(fastest.user)} useful tok/s \(batch {fastest['size']:.0f}.*?\) and "
            rf"the device at most {tok_s(most.device)} \(batch {most['size']:.0f}"
        )
        assert re.search(pattern, figure.answer), (pattern, figure.answer)
    both = [
        (target, ours, theirs)
        for target in (50, 100, 200, 400)
        if (ours := best_at_least(lines["block_diffusion"], target))
        and (theirs := best_at_least(lines["autoregressive"], target))
    ]
    target, ours, theirs = both[-1]
    assert f"Where a user gets at least {target} tok/s" in figure.answer
    assert f"{tok_s(ours)} useful tok/s with block diffusion and {tok_s(theirs)} with autoregressive" in figure.answer
    assert lead(ours / theirs) in figure.answer


def test_the_table_is_read_off_the_frontiers_and_empty_outside_of_them(tmp_path: Path) -> None:
    _, figure, speeds = drawn(tmp_path, Scenario(axes=AXES, pass_s=near_each_other))
    assert figure.table is not None
    assert "at least" in figure.table.caption
    for name, *texts in figure.table.rows:
        line = unbeaten(speeds[speeds.decoding == ("block_diffusion" if "block" in name else "autoregressive")])
        expected = [best_at_least(line, target) for target in TARGETS_TOK_S]
        assert texts == ["not measured" if value is None else tok_s(value) for value in expected]
    assert any("not measured" in row for row in figure.table.rows)


def test_what_the_device_gives_never_rises_with_a_users_speed(tmp_path: Path) -> None:
    part, _, _ = drawn(tmp_path, Scenario(axes=AXES, wobble=0.5))
    line = frontier(served(part.autoregressive))
    targets = np.geomspace(line[0].user_tok_s, line[-1].user_tok_s * 0.9999, 200)
    values = [device_tok_s_at(line, float(target)) for target in targets]
    assert None not in values
    assert all(after <= before for before, after in pairwise(values))  # type: ignore[operator]
    assert device_tok_s_at(line, line[-1].user_tok_s * 1.01) is None
    assert device_tok_s_at(line, line[0].user_tok_s / 2) == line[0].device_tok_s


@pytest.mark.parametrize(("slow_steps", "winner"), [(0.1, "block diffusion"), (800, "autoregressive decoding")])
def test_who_beats_the_other_in_both_is_told_in_both_directions(tmp_path: Path, slow_steps: float, winner: str) -> None:
    scenario = Scenario(pass_s=lambda cell: 0.01 * (slow_steps if cell.block_length else 1))
    _, figure, _ = drawn(tmp_path, scenario)
    assert f"is beaten in both by one of {winner}." in figure.answer


def test_one_cell_of_each_is_told_once(tmp_path: Path) -> None:
    axes = {"batch_size": [2], "block_length": [256], "num_steps": [8]}
    _, figure, speeds = drawn(tmp_path, Scenario(axes=axes))
    one = speeds[speeds.decoding == "block_diffusion"].iloc[0]
    assert f"Block diffusion gives a user {tok_s(one.user)} and the device {tok_s(one.device)} useful" in figure.answer


@pytest.mark.parametrize(
    ("kept", "name"), [("block_diffusion", "block diffusion"), ("autoregressive", "autoregressive decoding")]
)
def test_without_the_other_decoder_there_is_nothing_to_compare(tmp_path: Path, kept: str, name: str) -> None:
    _, figure, _ = drawn(tmp_path, Scenario(outcome=lambda cell, _: "ok" if cell.decoding == kept else "oom"))
    assert f"Only {name}" in figure.answer
    assert figure.table is None or [row[0] for row in figure.table.rows] == [name]


def test_a_table_in_which_nothing_was_measured_is_left_out(tmp_path: Path) -> None:
    _, within, _ = drawn(tmp_path / "within", Scenario(pass_s=near_each_other))
    _, beyond, _ = drawn(tmp_path / "beyond", Scenario(pass_s=lambda cell: 100 * near_each_other(cell)))
    assert within.table is not None
    assert beyond.table is None


def test_where_block_diffusion_always_loses_the_next_step_is_the_other_decoder(tmp_path: Path) -> None:
    figures = [
        drawn(tmp_path / str(slower), Scenario(pass_s=lambda cell, s=slower: 0.01 * (s if cell.block_length else 1)))[1]
        for slower in (1, 80)
    ]
    told = ["take autoregressive decoding, whatever speed your users need" in figure.next_step for figure in figures]
    assert told == [False, True]


def test_a_run_in_which_every_cell_failed_draws_nothing(tmp_path: Path) -> None:
    with pytest.raises(NotDrawn, match="no finished cell"):
        drawn(tmp_path, Scenario(outcome=lambda cell, _: "error"))


def test_a_thousand_beaten_cells_are_one_element(tmp_path: Path) -> None:
    few, many = (
        drawn(tmp_path / str(count), Scenario(axes={"batch_size": [1], "num_steps": list(range(1, count))}, rounds=1))[
            1
        ]
        for count in (5, 150)
    )
    assert str(many.picture).count("<path") - str(few.picture).count("<path") < 20


@pytest.mark.parametrize("wobble", [0.0, 0.05])
@pytest.mark.parametrize("pass_s", [0.01, 0.002])
def test_equal_decoders_are_not_said_to_be_ahead(tmp_path: Path, wobble: float, pass_s: float) -> None:
    axes = {"batch_size": [1, 2, 4, 8], "block_length": [256], "num_steps": [8]}
    scenario = Scenario(axes=axes, pass_s=lambda cell: pass_s * (511 / 17 if cell.block_length else 1), wobble=wobble)
    _, figure, _ = drawn(tmp_path, scenario)
    assert "faster" not in figure.answer
    assert "is beaten" not in figure.answer
    assert "whatever speed" not in figure.next_step
