"""The page as a file: it is well formed, what it is given stays text, and it needs nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pandas as pd
import pytest
from hostile import HOSTILE, hostile_scenario
from pages import Elements, analysed, is_inert, island_of, packed_of, parsed
from synthetic import Scenario, write_run
from whole import build_page

from harness.analysis.analyse import Analysis, analyse
from harness.analysis.run_data import load_run
from harness.records.texts import plain
from harness.report import tables
from harness.report.svg import files_kept


def test_a_page_built_twice_is_the_same_bytes(analysis: Analysis, page: str) -> None:
    assert build_page(analysis).encode() == page.encode()


def test_the_page_fetches_nothing(page: str) -> None:
    elements = parsed(page)
    for tag, attributes in elements.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "video", "audio", "source")
        for name in ("src", "href", "xlink:href", "action", "data", "srcset", "poster", "background"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
    assert "url(http" not in page
    assert "@import" not in page


def test_the_policy_allows_the_pages_own_script_by_hash_and_nothing_else(page: str) -> None:
    policy = next(a["content"] or "" for t, a in parsed(page).tags if t == "meta" and "http-equiv" in a)
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert not [a for _, a in parsed(page).tags if any(name.startswith("on") for name in a)]


def test_ids_are_unique_and_every_reference_finds_one(page: str) -> None:
    ids = [a["id"] for _, a in parsed(page).tags if "id" in a]
    assert len(ids) == len(set(ids))
    references = re.findall(r'(?:href="#|url\(#|aria-labelledby=")([^")]+)', page)
    assert {name for names in references for name in names.split()} <= set(ids)


def test_every_picture_is_well_formed_and_named_for_those_who_cannot_see_it(page: str) -> None:
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        root = ET.fromstring(svg)
        assert root.get("role") == "img"
        assert [child.tag for child in root][:2] == ["title", "desc"]


def test_pictures_follow_the_theme(page: str) -> None:
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        assert not re.search(r"#0[1-5]0[2-6]0[3-7]", svg), "a marker colour was left in"
        assert "currentColor" in svg


def test_the_table_of_the_page_holds_every_cell(analysis: Analysis, page: str) -> None:
    island = island_of(page)
    keys = [column["key"] for column in island["columns"]]
    ids = {row[keys.index("cell_id")] for row in island["rows"]}
    assert len(island["rows"]) == len(analysis.rows) + len(analysis.skipped)
    assert ids == {row.cell_id for row in analysis.rows} | {skipped.cell_id for _, skipped in analysis.skipped}


def test_the_table_shows_the_values_of_the_document(page: str, frame: pd.DataFrame) -> None:
    island = island_of(page)
    shown = pd.DataFrame(island["rows"], columns=[column["key"] for column in island["columns"]])
    shown = shown[shown.status != "skipped"].reset_index(drop=True)
    assert list(shown.status) == list(frame.status)
    for name in {"useful_tok_s", "speedup_vs_ar"} & set(shown.columns):
        values = shown[name].map(lambda v: v[0] if isinstance(v, list) else float("nan")).astype(float)
        assert (values.isna() == frame[f"{name}.value"].isna()).all()
        assert ((values - frame[f"{name}.value"]).abs() / values).max() <= 5e-4


@pytest.fixture(scope="module")
def tame(tmp_path_factory: pytest.TempPathFactory) -> Elements:
    """The page of the hostile names' run, with a harmless one."""
    run_dir = write_run(tmp_path_factory.mktemp("tame"), hostile_scenario("harmless"))
    return parsed(build_page(analyse([load_run(run_dir)])))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_shown_as_text_and_never_as_markup(tmp_path: Path, tame: Elements, name: str) -> None:
    plan_changes = {"suite": name, "description": name}
    run_dir = write_run(tmp_path / "wild", hostile_scenario(name), plan_changes=plan_changes)
    with files_kept() as files:
        page = build_page(analyse([load_run(run_dir)]))
    page.encode()
    wild = parsed(page)
    # the same elements in the same order, whatever the name holds; a long one only wraps into more caption lines
    skeleton = [tag for tag, _ in wild.tags if tag not in ("text", "g")]
    assert skeleton == [tag for tag, _ in tame.tags if tag not in ("text", "g")]
    assert not [a for _, a in wild.tags if any(key.startswith("on") for key in a)]
    assert plain(name) in " ".join(wild.texts)
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ET.fromstring(svg)
    assert files
    assert all(is_inert(picture) for picture, _ in files.values())
    assert not re.search("[<>]", packed_of(page))
    assert any(name in str(value) for row in island_of(page)["rows"] for value in row)


def with_reason(folder: Path, reason: str) -> Elements:
    scenario = Scenario(exclude=[{"decoding": ["autoregressive"], "reason": reason}])
    return parsed(build_page(analysed(folder, scenario)))


def test_a_hostile_reason_in_an_answer_is_text_too(tmp_path: Path) -> None:
    tags = [tag for tag, _ in with_reason(tmp_path / "harmless", "harmless").tags]
    for number, name in enumerate(HOSTILE[:4]):
        page = with_reason(tmp_path / str(number), name)
        assert [tag for tag, _ in page.tags] == tags
        assert f"no autoregressive twin: excluded by the suite: {name}" in " ".join(page.texts)


def test_the_page_of_a_large_run_stays_small(tmp_path: Path) -> None:
    """The table is paged and its data is compact: what a cell adds to the page is bounded."""
    axes = {"batch_size": [1, 2, 4, 8], "block_length": [32, 64], "num_steps": [4, 8]}
    large = {"batch_size": list(range(1, 25)), "block_length": [32, 64], "num_steps": [4, 8]}
    few, many = (analysed(tmp_path / str(i), Scenario(axes=a)) for i, a in enumerate((axes, large)))
    tables_json = [json.dumps(tables.cell_table(a), separators=(",", ":")) for a in (few, many)]
    assert (len(tables_json[1]) - len(tables_json[0])) / (len(many.rows) - len(few.rows)) < 150
