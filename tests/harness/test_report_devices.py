"""Several devices on one page stand side by side. Sentences and numbers are recomputed from the record lines."""

from __future__ import annotations

import json
import re
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from several_runs import analysed, group, on, section, texts_of, tok_s, written
from synthetic import usual_pass_s, write_run
from whole import whole

from harness.analysis.analyse import analyse
from harness.analysis.run_data import load_run
from harness.records.types import Cell
from harness.report import devices
from harness.report.figures.heat_map_together import heat_map_together
from harness.report.figures.throughput_together import throughput_together
from harness.report.frame import build_page


def slow_diffusion(cell: Cell) -> float:
    return 0.01 * (80 if cell.block_length else 1)


THREE = (
    on("a", pass_s=lambda cell: usual_pass_s(cell) / 4, price_usd_per_hour=3.6),
    on("b"),
    on("c", pass_s=slow_diffusion),
)


def speedup(run_dir: Path, block_length: int, batch_size: int) -> float:
    """The median over rounds of the ratio of rates, of rounds of equal index."""
    lines = [json.loads(line) for path in run_dir.glob("records-*.jsonl") for line in path.read_text().splitlines()]
    rates = {
        (line["cell"]["block_length"], line["cell"]["batch_size"], one["index"]): sum(one["useful_tokens"])
        / one["wall_s"]
        for line in lines
        for one in line["rounds"]
    }
    indices = {index for _, _, index in rates}
    return statistics.median(rates[block_length, batch_size, i] / rates[None, batch_size, i] for i in indices)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return written(tmp_path_factory.mktemp("three"), THREE)


def test_the_table_of_devices_says_whose_prices_it_has_where_it_has_any(three: list[Path]) -> None:
    def caption(paths: list[Path], **usd_per_hour: float) -> str:
        found = devices.table(analyse([load_run(path, usd_per_hour) for path in paths], usd_per_hour))
        assert found is not None
        return found.caption

    assert "prices are the device files', used without a pause." in caption(three)
    assert "a pause, but for GPU B what was given with --usd-per-hour." in caption(three, b=2.0)
    assert "price" not in caption(three[1:])


@pytest.mark.parametrize("name", ["throughput", "speedup"])
def test_three_devices_are_one_figure_with_a_panel_each(three: list[Path], name: str) -> None:
    shown = section(build_page(analysed(three)), name)
    assert shown.count("<svg") == 1  # others are folded
    texts = texts_of(shown)
    assert [text for text in texts if text in ("GPU A", "GPU B", "GPU C")] == ["GPU A", "GPU B", "GPU C"]


def test_the_panels_of_throughput_have_one_scale(three: list[Path]) -> None:
    """Equal axes put the tick of 100 tok/s of every panel at one height: the grid lines of each panel are the same."""
    picture = str(throughput_together(group(analysed(three)), "x").picture)
    ticks = [text for text in texts_of(picture) if re.fullmatch(r"[125]0*k?", text)]
    assert len([text for text in ticks if text == "1"]) >= 3  # batch 1 of each panel
    assert len([text for text in ticks if text == "100"]) == 1  # only the first of a row is labelled


def test_more_devices_than_three_take_another_row(tmp_path: Path) -> None:
    axes = {"batch_size": [1, 4], "block_length": [128], "num_steps": [8]}
    runs = written(tmp_path, [replace(on(device), axes=axes) for device in "abcd"])
    heights = [
        float(re.search(r'viewBox="0 0 [\d.]+ ([\d.]+)"', str(throughput_together(parts, "x").picture))[1])  # type: ignore[index]
        for parts in (group(analysed(runs[:3])), group(analysed(runs)))
    ]
    assert heights[1] > 1.6 * heights[0]


def test_the_throughput_answer_speaks_of_all_devices_in_both_directions(three: list[Path]) -> None:
    answer = throughput_together(group(analysed(three)), "x").answer
    gains = {name: speedup(run_dir, 256, 1) for name, run_dir in zip("ABC", three, strict=True)}
    best, worst = max(gains, key=lambda name: gains[name]), min(gains, key=lambda name: gains[name])
    assert gains[worst] < 1 < gains[best]
    assert f"At batch 1, block diffusion is {gains[best]:.1f}x faster on GPU {best}" in answer
    assert f"autoregressive decoding is {1 / gains[worst]:.1f}x faster on GPU {worst}" in answer
    assert "on GPU C, block diffusion is slower at every batch" in answer
    assert all(speedup(three[2], 256, size) < 1 for size in (1, 4, 16))


def test_the_heat_maps_answer_counts_the_cells_of_each_device(three: list[Path]) -> None:
    answer = heat_map_together(group(analysed(three)), "x").answer
    for name, run_dir in zip("ABC", three, strict=True):
        gains = [speedup(run_dir, block, size) for block in (128, 256) for size in (1, 4, 16)]
        faster = sum(gain > 1 for gain in gains)
        clause = next(part for part in re.split(r"[;:.] ", answer) if f"GPU {name}" in part)
        told = [(faster, "faster"), (6 - faster, "slower")]
        if 0 < faster < 6:
            assert f"of 6 measured cells block diffusion is faster in {faster} and slower in {6 - faster}" in clause
        else:
            assert f"in all 6 measured cells block diffusion is {max(told)[1]}" in clause
    every = {
        (name, b, s): speedup(d, b, s)
        for name, d in zip("ABC", three, strict=True)
        for b in (128, 256)
        for s in (1, 4, 16)
    }
    (best, best_block, best_size), (worst, _, _) = (
        max(every, key=lambda k: every[k]),
        min(every, key=lambda k: every[k]),
    )
    assert f"Best for it: {every[best, best_block, best_size]:.2f}x at batch {best_size} with {best_block}" in answer
    assert re.search(rf"worst: .*, on GPU {worst}\.", answer)


def test_the_table_of_devices_has_the_records_numbers(three: list[Path]) -> None:
    table = devices.table(analysed(three))
    assert table is not None
    for row, run_dir, name in zip(table.rows, three, "ABC", strict=True):
        cells = dict(zip(table.head, row, strict=True))
        rates = tok_s(run_dir)
        block = max((128, 256), key=lambda length: rates[length, 1])
        assert cells["device"] == f"GPU {name}"
        assert cells["block x steps"] == f"{block} x 8"
        ours, theirs = (float(text.replace(",", "")) for text in cells["useful tok/s"].split(" | "))
        assert (ours, theirs) == pytest.approx((rates[block, 1], rates[None, 1]), rel=0.006)
        assert float(cells["speed-up"].split("x")[0]) == pytest.approx(speedup(run_dir, block, 1), rel=0.02)
        wanted = 3.6 / 3600 / rates[block, 1] * 1e6
        money = cells["USD per million tokens"]
        assert money == "unknown" if name != "A" else float(money.split(" | ")[0]) == pytest.approx(wanted, rel=0.01)


def test_a_floor_share_above_100_percent_carries_its_remark_and_the_others_do_not(tmp_path: Path) -> None:
    def too_fast(cell: Cell) -> float:
        return usual_pass_s(cell) / (1 if cell.block_length else 10)  # autoregressive beats its floor

    table = devices.table(analysed(written(tmp_path, (on("a", pass_s=too_fast), on("b")))))
    assert table is not None
    marked, plain = (dict(zip(table.head, row, strict=True))["floor share"] for row in table.rows)
    ours, theirs = marked.split(" | ")
    assert re.fullmatch(r"[0-9.]+ %", ours)
    assert float(theirs.split(" %")[0]) > 100
    assert theirs.endswith(" %, faster than its floor")
    assert all(re.fullmatch(r"[0-9.]+ %", one) for one in plain.split(" | "))
    assert "Faster than its floor: the roof is not this machine's, or weights stay in a cache." in table.caption


def test_where_no_cell_beats_its_floor_the_table_of_devices_says_nothing_of_it(three: list[Path]) -> None:
    table = devices.table(analysed(three[1:]))
    assert table is not None
    assert "faster than its floor" not in f"{table.caption} {table.rows}".lower()


def test_one_run_has_no_table_of_devices(three: list[Path]) -> None:
    assert devices.table(analysed(three[:1])) is None
    assert 'id="devices"' not in build_page(analysed(three[:1]))


def test_a_page_of_three_devices_is_the_same_bytes_twice_and_its_ids_are_unique(three: list[Path]) -> None:
    page = build_page(analysed(three))
    assert build_page(analysed(three)) == page
    ids = re.findall(r'<[^>]* id="([^"]+)"', whole(page))
    assert len(ids) == len(set(ids))
    assert len(re.findall(r"<[a-zA-Z]", page.split('<script type="application/json"')[0])) < 3000


def test_every_device_keeps_figures_of_its_own_folded(three: list[Path]) -> None:
    shown = section(whole(build_page(analysed(three))), "speedup")
    assert shown.count("<svg") == 1 + 3


def test_a_device_on_which_nothing_finished_is_named(three: list[Path], tmp_path: Path) -> None:
    failed = write_run(tmp_path, on("d", outcome=lambda cell, _: "error"))
    parts = group(analysed([*three, failed]))
    assert "on GPU D, no cell finished" in throughput_together(parts, "x").answer
    assert "on GPU D, no cell can be compared" in heat_map_together(parts, "x").answer
    assert "GPU D" not in texts_of(str(throughput_together(parts, "x").picture))
