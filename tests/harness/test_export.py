"""`report --export`: every file says what the page says, twice the same, and runs nothing in who opens it."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from statistics import median
from xml.etree import ElementTree as ET

import pandas as pd
import pyarrow as pa
import pytest
from hostile import HOSTILE, hostile_scenario
from pages import is_inert
from PIL import Image
from pyarrow import parquet
from synthetic import Scenario, write_run

from harness import cli
from harness.analysis.analyse import Analysis, analyse
from harness.analysis.run_data import load_run
from harness.report.badge import badge
from harness.report.export import cell_frame, csv_text
from harness.report.markdown import summary_text

GOLDEN = Path(__file__).parents[1] / "golden"


def exported(tmp_path: Path, scenario: Scenario) -> tuple[Path, Analysis]:
    run_dir = write_run(tmp_path / "results", scenario)
    words = ["report", str(run_dir), "-q", "-o", str(tmp_path / "p.html"), "--export", str(tmp_path / "out")]
    assert cli.main(words) in (0, 3)
    return tmp_path / "out", analyse([load_run(run_dir)])


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Analysis]:
    return exported(tmp_path_factory.mktemp("usual"), Scenario())


def test_two_exports_of_a_run_are_equal_bytes(usual: tuple[Path, Analysis], tmp_path: Path) -> None:
    folder, analysis = usual
    (run,) = analysis.runs.values()
    assert (
        cli.main(["report", str(run.directory), "-q", "-o", str(tmp_path / "p.html"), "--export", str(tmp_path)]) == 0
    )
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert files == {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.suffix != ".html"}
    assert {"summary.json", "summary.md", "badge.json", "cells.csv", "cells.parquet", "speedup-0.svg"} <= files.keys()


def test_the_tables_hold_every_cell_and_metric_of_the_analysis(usual: tuple[Path, Analysis]) -> None:
    folder, analysis = usual
    for table in (pd.read_parquet(folder / "cells.parquet"), pd.read_csv(folder / "cells.csv")):
        assert list(table["cell_id"]) == [row.cell_id for row in analysis.rows]
        for row, (_, told) in zip(analysis.rows, table.iterrows(), strict=True):
            for name, summary in row.metrics.items():
                assert (told[name], told[f"{name}_low"], told[f"{name}_high"]) == pytest.approx(
                    (summary.value, summary.low, summary.high), rel=1e-12
                )
            absent = [name for name in row.missing if name in table]
            assert all(pd.isna(told[name]) for name in absent)
            assert json.loads(told["missing"]).keys() == set(absent)


WHOLE = (
    "batch_size",
    "prompt_tokens",
    "output_tokens",
    "block_length",
    "num_steps",
    "passes",
    "peak_memory_bytes_high",
)


def test_what_counts_whole_things_is_a_whole_number_beside_empty_ones_too(usual: tuple[Path, Analysis]) -> None:
    folder, analysis = usual
    told = list(csv.DictReader(io.StringIO((folder / "cells.csv").read_text(encoding="utf-8"))))
    for name in WHOLE:
        assert all(re.fullmatch(r"[0-9]*", line[name]) for line in told), name
    cells = [row.cell for row in analysis.rows]
    assert None in [cell.block_length for cell in cells]
    assert [line["block_length"] for line in told] == [str(cell.block_length or "") for cell in cells]
    assert [line["num_steps"] for line in told] == [str(cell.num_steps or "") for cell in cells]
    table = pd.read_parquet(folder / "cells.parquet")
    assert {str(table[name].dtype) for name in WHOLE} == {"Int64"}
    assert [None if pd.isna(one) else one for one in table["num_steps"]] == [cell.num_steps for cell in cells]


def test_a_column_has_its_type_whatever_the_rows_hold(tmp_path: Path) -> None:
    scenarios = {
        "all texts empty": Scenario(axes={"decoding": ["autoregressive"]}, roofs=False),
        "no number": Scenario(outcome=lambda cell, _: "error", axes={"stopping": ["adaptive"]}),
        "all kinds": Scenario(outcome=lambda cell, _: "oom" if cell.batch_size > 4 else "ok"),
    }
    tables = []
    for name, scenario in scenarios.items():
        frame = cell_frame(analyse([load_run(write_run(tmp_path / name, scenario))]))
        frame.to_parquet(tmp_path / f"{name}.parquet", index=False)
        tables.append(parquet.read_table(tmp_path / f"{name}.parquet"))
    for table in tables:
        assert pa.null() not in table.schema.types
        shared = set(table.column_names) & set(tables[-1].column_names)
        assert {name: table.schema.field(name).type for name in shared} == {
            name: tables[-1].schema.field(name).type for name in shared
        }
    assert {"twin_id", "reason", "stopping", "floor_roof", "floor_experts", "marks", "useful_tok_s"} <= {
        name for name in tables[0].column_names if name in tables[-1].column_names
    }
    assert pa.concat_tables(tables, promote_options="default").num_rows == sum(len(one) for one in tables)


def test_a_count_with_a_half_keeps_it(usual: tuple[Path, Analysis]) -> None:
    _, analysis = usual
    first, *others = analysis.rows
    half = first.metrics["passes"]._replace(value=17.5)
    changed = replace(analysis, rows=(replace(first, metrics={**first.metrics, "passes": half}), *others))
    table = cell_frame(changed)
    assert table["passes"][0] == 17.5
    assert table["passes_low"].dtype == "Int64"


def colours_of(path: Path) -> set[tuple[int, ...]]:
    with Image.open(path) as picture:
        assert picture.width == 1350
        return {colour for _, colour in picture.convert("RGB").getcolors(2**24)}


def test_pictures_are_whole_files_in_the_light_pages_colours(usual: tuple[Path, Analysis]) -> None:
    folder, _ = usual
    for path in folder.glob("*.svg"):
        svg = path.read_text(encoding="utf-8")
        assert ET.fromstring(svg.encode()).tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(--" not in svg
        assert "currentColor" not in svg
        assert not re.search(r"#0[1-7]0[1-7]0[1-7]", svg), path.name  # the colours that it was drawn in
    for path in folder.glob("*.png"):
        assert (255, 255, 255) in colours_of(path)
        assert not {(n, n + 1, n + 2) for n in range(1, 6)} & colours_of(path), path.name
    svg = (folder / "throughput-0.svg").read_text(encoding="utf-8")
    assert {"#0072b2", "#d55e00"} <= set(re.findall("#[0-9a-f]{6}", svg))
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= colours_of(folder / "throughput-0.png")


def test_every_png_is_opaque_and_white_at_its_corners(usual: tuple[Path, Analysis]) -> None:
    pictures = [Image.open(path).convert("RGBA") for path in usual[0].glob("*.png")]
    assert pictures
    for picture in pictures:
        assert picture.getchannel("A").getextrema() == (255, 255)
        right, low = picture.width - 1, picture.height - 1
        assert {picture.getpixel(at) for at in ((0, 0), (right, 0), (0, low), (right, low))} == {(255,) * 4}


@pytest.mark.parametrize("name", [*HOSTILE, "=cmd|' /C calc'!A0", "+1", "-1+2", "@SUM(A1)"])
def test_a_hostile_name_is_inert_in_table_markdown_and_badge(tmp_path: Path, name: str) -> None:
    analysis = analyse([load_run(write_run(tmp_path, hostile_scenario(name)))])
    texts = [text for line in csv.reader(io.StringIO(csv_text(analysis))) for text in line]
    assert not [text for text in texts if text.startswith(("=", "+", "@", "\t", "\r"))]
    assert all(re.fullmatch(r"-[0-9.e+-]+", text) for text in texts if text.startswith("-"))
    assert not re.search(r"<(?!br>)[a-z!/]", summary_text(analysis))
    assert badge(analysis).keys() == {"schemaVersion", "label", "message", "color"}


MARKUP = "</text><script>alert(1)</script><a href='javascript:x'>]]>&\x1b"


def test_markup_in_a_name_is_text_in_every_picture(tmp_path: Path) -> None:
    """The other hostile names are in the test of the page, which draws the same pictures."""
    folder, _ = exported(tmp_path, hostile_scenario(MARKUP))
    pictures = list(folder.glob("*.svg"))
    assert pictures
    assert all(is_inert(path.read_text(encoding="utf-8")) for path in pictures)


def test_the_badge_has_the_headlines_number_device_and_month(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path, Scenario())
    records = [json.loads(line) for path in run_dir.glob("records-*") for line in path.read_text().splitlines()]
    analysis = analyse([load_run(run_dir)])
    (headline,) = analysis.headlines
    told = badge(analysis)
    number, device, month = told["message"].split(" · ")
    speeds = [
        sum(r["useful_tokens"]) / r["wall_s"]
        for record in records
        if record["cell_id"] == headline.diffusion.cell_id
        for r in record["rounds"]
    ]
    assert float(number.removesuffix(" tok/s").replace(",", "")) == pytest.approx(median(speeds), abs=0.5)
    assert device == headline.device[:30]
    assert month == max(r["started_at"] for r in records if r["cell_id"] == headline.diffusion.cell_id)[:7]
    assert told["color"] == ("blue" if headline.speedup.low > 1 else "orange")
    assert "synthetic" in told["label"]


def test_the_summary_is_what_json_prints_without_the_paths_of_this_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = write_run(tmp_path / "results", Scenario())
    words = ["report", str(run_dir), "--json", "-o", str(tmp_path / "p.html"), "--export", str(tmp_path / "out")]
    assert cli.main(words) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed.pop("page") == str(tmp_path / "p.html")
    assert printed.pop("run_dirs") == [str(run_dir)]
    assert json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8")) == printed


def test_the_markdown_summary_reads_as_it_did(tmp_path: Path) -> None:
    text = summary_text(analyse([load_run(write_run(tmp_path, Scenario()))]))
    assert text == (GOLDEN / "summary_usual.md").read_text(encoding="utf-8")


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("no folder")
    run_dir = write_run(tmp_path / "results", Scenario())
    words = ["report", str(run_dir), "-q", "-o", str(tmp_path / "p.html"), "--export", str(tmp_path / "file" / "x")]
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert len(said.splitlines()) <= 5
    assert "cannot be written" in said


def test_a_failed_cell_has_a_row_with_its_reason_and_no_number(tmp_path: Path) -> None:
    scenario = Scenario(outcome=lambda cell, _: "oom" if cell.batch_size == 4 else "ok")
    table = cell_frame(analyse([load_run(write_run(tmp_path, scenario))]))
    failed = table[table["batch_size"] == 4]
    assert len(failed) > 0
    assert set(failed["status"]) == {"oom"}
    assert failed["reason"].notna().all()
    assert failed["useful_tok_s"].isna().all()
