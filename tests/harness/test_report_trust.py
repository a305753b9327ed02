"""Can it be trusted: noise and drift of the sentence, recomputed from the record lines."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from altered import alter, lines_of, share
from scipy import stats
from synthetic import Scenario, write_run

from harness.analysis.analyse import analyse
from harness.analysis.run_data import load_run
from harness.analysis.stability import Pace, stability_of
from harness.report.figures.base import Figure, NotDrawn
from harness.report.figures.trust import trust
from harness.report.slices import slices_of

Json = dict[str, Any]
AXES = {"batch_size": [1, 4], "block_length": [128], "num_steps": [8, 16]}


def draw(run_dir: Path) -> Figure:
    (part,) = slices_of(analyse([load_run(run_dir)]), is_wide=True)
    return trust(part, "x")


def launches_of(run_dir: Path, unit: str = "useful_tokens") -> list[list[float]]:
    """Of every record, its rounds' speeds / the median of its cell's."""
    cells: dict[str, list[list[float]]] = {}
    for line in lines_of(run_dir):
        done = [sum(one[unit] if unit == "useful_tokens" else one[unit].values()) for one in line["rounds"]]
        speeds = [n / one["wall_s"] for n, one in zip(done, line["rounds"], strict=True)]
        cells.setdefault(line["cell_id"], []).append(speeds)
    return [[v / np.median(np.concatenate(cell)) for v in launch] for cell in cells.values() for launch in cell]


def noise_of(launches: list[list[float]]) -> list[float]:
    return sorted(abs(value - 1) for launch in launches for value in launch)


def test_the_answer_gives_the_noise_of_all_rounds(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path, Scenario(axes=AXES, rounds=7, launches=2))
    off = noise_of(launches_of(run_dir))
    assert len(off) == 84
    half, nine = share(float(np.median(off))), share(float(np.quantile(off, 0.9, method="inverted_cdf")))
    said = f"Over 84 rounds of 6 cells, half lie within {half} of their cell's median, nine of ten within {nine}; "
    assert draw(run_dir).answer.startswith(said)


def test_where_the_content_decides_the_number_of_passes_they_are_the_speed(tmp_path: Path) -> None:
    """With another number of steps in every round useful tok/s differ by far more than a pass takes."""
    run_dir = write_run(tmp_path, Scenario(axes={**AXES, "stopping": ["adaptive"]}, eos="respect", rounds=7))
    half = float(np.median(noise_of(launches_of(run_dir, "passes"))))
    assert half < 0.5 * float(np.median(noise_of(launches_of(run_dir))))
    assert f"half lie within {share(half)} of" in draw(run_dir).answer


@pytest.mark.parametrize(("slope", "words"), [(0.02, "slower than"), (-0.02, "faster than"), (0.0, "no drift that")])
def test_a_drift_is_told_with_its_direction_and_noise_is_not_taken_for_one(
    tmp_path: Path, slope: float, words: str
) -> None:
    def warm(line: Json) -> None:
        for i, one in enumerate(line["rounds"]):
            one["wall_s"] *= 1 + slope * i

    run_dir = alter(write_run(tmp_path, Scenario(axes=AXES, rounds=9)), warm)
    answer = draw(run_dir).answer
    launches = launches_of(run_dir)
    early, late = [v for one in launches for v in one[:3]], [v for one in launches for v in one[-3:]]
    change = float(np.median(late) - np.median(early))
    assert words in answer
    assert ("they drift: " in answer) == (slope != 0)
    assert f"is {share(abs(change))} {'faster' if change > 0 else 'slower'} than the first" in answer
    if slope:
        assert stats.mannwhitneyu(early, late).pvalue < 0.01


def test_noise_alone_is_called_a_drift_in_few_of_many_runs() -> None:
    dice = random.Random(0)
    called = 0
    for _ in range(300):
        speeds = [tuple(dice.gauss(1, 0.02) for _ in range(9)) for _ in range(4)]
        cells = [
            [Pace(launch=0, speeds=one, warm_up=(), clocks_mhz=(), temperatures_c=(), throttled=(), num_discarded=0)]
            for one in speeds
        ]
        found = stability_of(cells)
        assert found is not None
        called += found.is_drifting
    assert called <= 9  # 3 of 100 at most


def test_clocks_temperature_throttling_and_discards_are_shown_where_they_were_recorded(tmp_path: Path) -> None:
    def watched(line: Json) -> None:
        for i, one in enumerate(line["rounds"]):
            one["clocks_mhz"] = {"sm": 1980 - 15 * i, "sm_min": 1900, "sm_max": 1980}
            one["gpu"] = {"temperature_c_max": 50 + i}
            one["throttle_reasons"] = ["sw_power_cap", *(["hw_thermal_slowdown"] if i == 2 else [])]

    run_dir = alter(write_run(tmp_path, Scenario(axes=AXES, rounds=4, discarded=("hw_slowdown",))), watched)
    figure = draw(run_dir)
    assert "6 rounds were discarded and repeated; 6 rounds ran with clocks held back by heat" in figure.answer
    words = " ".join(re.findall(r">([^<]+)</text>", str(figure.picture)))
    assert "SM clock, MHz" in words
    assert "hottest, °C" in words
    assert "clocks held back" in words


def test_where_no_clock_was_recorded_the_answer_says_why(tmp_path: Path) -> None:
    def unwatched(line: Json) -> None:
        for one in line["rounds"]:
            one["missing"]["clocks_mhz"] = "no NVML here"

    figure = draw(alter(write_run(tmp_path, Scenario(axes=AXES)), unwatched))
    assert "no round was discarded and repeated; clocks and temperature were not recorded (no NVML" in figure.answer
    assert "SM clock" not in figure.picture


def test_warm_up_is_shaded_where_it_was_recorded(tmp_path: Path) -> None:
    def warmed(line: Json) -> None:
        line["course"] = {"warmup_s": [9 * line["rounds"][0]["wall_s"], 1.01 * line["rounds"][0]["wall_s"]]}

    run_dir = write_run(tmp_path, Scenario(axes=AXES, launches=2))
    assert "opacity: 0.15" not in draw(run_dir).picture
    assert str(draw(alter(run_dir, warmed)).picture).count("opacity: 0.15") == 2  # one a launch


def test_of_many_cells_those_that_differ_most_are_drawn_and_the_rest_counted(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path, Scenario(axes={"batch_size": [1, 2, 4, 8], "num_steps": [4, 8, 16]}))
    figure = draw(run_dir)
    (cells,) = re.findall(r"the 12 of (\d+) cells that differ most", str(figure.picture))
    assert int(cells) == len(lines_of(run_dir))
    assert f"of {cells} cells" in figure.answer


@pytest.mark.parametrize("kept", ["block_diffusion", "autoregressive"])
def test_one_decoder_alone_is_enough(tmp_path: Path, kept: str) -> None:
    run_dir = write_run(tmp_path, Scenario(axes=AXES, outcome=lambda cell, _: "ok" if cell.decoding == kept else "oom"))
    assert f"of {4 if kept == 'block_diffusion' else 2} cells" in draw(run_dir).answer


def test_too_few_rounds_tell_no_drift_and_one_tells_nothing(tmp_path: Path) -> None:
    axes = {"batch_size": [1], "block_length": [128], "num_steps": [8]}
    answer = draw(write_run(tmp_path / "few", Scenario(axes=axes, rounds=3))).answer
    assert "too few rounds to tell a drift" in answer
    assert "nine of ten" not in answer
    with pytest.raises(NotDrawn, match="every cell has one round"):
        draw(write_run(tmp_path / "one", Scenario(axes=axes, rounds=1)))
    with pytest.raises(NotDrawn, match="no finished cell"):
        draw(write_run(tmp_path / "none", Scenario(axes=axes, outcome=lambda cell, _: "error")))
