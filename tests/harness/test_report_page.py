"""The page: what it says follows from the rows, what it is given stays text, and it needs nothing from elsewhere."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import json
import math
import re
import xml.etree.ElementTree as ET
import zlib
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hostile import HOSTILE, hostile_scenario
from synthetic import Scenario, write_run
from whole import build_page

from harness.analysis.analyse import Analysis, analyse
from harness.analysis.run_data import load_run
from harness.records.types import Cell
from harness.report import headlines, outcomes, tables
from harness.report.figures.base import NotDrawn
from harness.report.figures.registry import FIGURES, PAGE_FIGURES
from harness.report.slices import Slice, slices_of
from harness.report.svg import spread
from harness.report.wording import interval, is_clear, lead, plain, ratio, tok_s

SPOKEN_OF = ("useful_tok_s", "speedup_vs_ar", "floor_share")


def slow_diffusion(cell: Cell) -> float:
    """Autoregressive decoding wins everywhere."""
    return 0.01 * (80 if cell.block_length else 1)


def mixed(cell: Cell, launch: int) -> str:
    if cell.block_length and cell.block_length * cell.batch_size >= 4096:
        return "oom" if cell.batch_size < 32 else "pruned"
    return "error" if (cell.block_length, cell.num_steps, cell.batch_size) == (128, 16, 4) else "ok"


Answers = dict[str, list[tuple[Slice, str]]]  # figure -> (slice, what it answers there)

SCENARIOS = {
    "usual": [Scenario()],
    "autoregressive always wins": [Scenario(pass_s=slow_diffusion)],
    "noise": [Scenario(wobble=0.9, trained=False)],
    "about equal": [Scenario(pass_s=lambda cell: 0.01 * (30 if cell.block_length else 1), wobble=0.05)],
    "failures": [Scenario(outcome=mixed, exclude=[{"batch_size": [4], "block_length": [256], "reason": "not asked"}])],
    "only failures": [Scenario(outcome=lambda cell, _: "error")],
    "nothing measured": [Scenario(outcome=lambda cell, _: "absent")],
    "diffusion alone": [Scenario(outcome=lambda cell, _: "ok" if cell.block_length else "oom")],
    "autoregression alone": [Scenario(axes={"decoding": ["autoregressive"]})],
    "one cell": [Scenario(axes={"batch_size": [2], "block_length": [256], "num_steps": [8]}, rounds=1)],
    "no roofs": [Scenario(roofs=False)],
    "two devices": [Scenario(), Scenario(name="other", display_name="Other GPU", pass_s=slow_diffusion)],
    "graded": [
        Scenario(
            eos="respect",
            observed=True,
            quality=lambda cell: 0.9 - 1 / (cell.num_steps or 8),
            categories=("easy", "hard"),
            axes={"stopping": ["fixed", "adaptive"], "prompt_set": ["code", "maths"], "block_length": [32, 256]},
        )
    ],
    "proxies": [Scenario(observed=True, axes={"prompt_set": ["code"], "stopping": ["fixed", "adaptive"]})],
    "many conditions": [
        Scenario(eos="respect", launches=5, axes={"stopping": ["adaptive", "fixed"], "prompt_tokens": [64, 96]})
    ],
}


@pytest.fixture(scope="module", params=sorted(SCENARIOS))
def analysis(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    folder = tmp_path_factory.mktemp("runs")
    return analyse([load_run(write_run(folder, scenario)) for scenario in SCENARIOS[request.param]])


@pytest.fixture(scope="module")
def page(analysis: Analysis) -> str:
    return build_page(analysis)


@pytest.fixture(scope="module")
def frame(analysis: Analysis) -> pd.DataFrame:
    return frame_of(analysis)


def analysed(folder: Path, scenario: Scenario) -> Analysis:
    return analyse([load_run(write_run(folder, scenario))])


def frame_of(analysis: Analysis) -> pd.DataFrame:
    """One line per cell of the JSON document: what a sceptic recomputes everything from."""
    document = json.loads(json.dumps(analysis.to_json()))
    lines = []
    for cell in document["cells"]:
        shown = {name: s for name, s in cell["metrics"].items() if name in SPOKEN_OF}
        metrics = {f"{name}.{key}": value for name, s in shown.items() for key, value in s.items()}
        lines.append({**cell["cell"], **{k: cell[k] for k in ("run_id", "cell_id", "twin_id", "status")}, **metrics})
    found = pd.DataFrame(lines)
    for name in SPOKEN_OF:
        found[f"{name}.value"] = found[f"{name}.value"] if f"{name}.value" in found else float("nan")
    return found


class Elements(HTMLParser):
    """Every start tag with its attributes, and all text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def parsed(page: str) -> Elements:
    elements = Elements()
    elements.feed(page)
    return elements


def json_of(page: str) -> str:
    """The table's data, unpacked."""
    return zlib.decompress(base64.b64decode(packed_of(page), validate=True)).decode()


def packed_of(page: str) -> str:
    """What stands between the data element's tags, of which the closing one is followed by the page's script."""
    return page.split('<script type="text/plain" id="data">')[1].rsplit("</script>\n<script>", 1)[0]


def island_of(page: str) -> dict[str, Any]:
    """The table's data, its texts in place of their numbers."""
    island: dict[str, Any] = json.loads(json_of(page))
    for i, column in enumerate(island["columns"]):
        for row in island["rows"] if "texts" in column else ():
            row[i] = None if row[i] is None else column["texts"][row[i]]
    return island


# The page as a file


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


# What the page says


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


def expected_crossover(rows: pd.DataFrame, best: pd.Series) -> str:
    """Straight lines on logarithms between neighbouring batches of the best cell's line, written out again."""
    line = rows[rows["speedup_vs_ar.value"].notna()]
    for key in ("block_length", "num_steps", "stopping", "prompt_tokens", "prompt_set"):
        line = line[line[key] == best[key]]
    points = line.sort_values("batch_size")[["batch_size", "speedup_vs_ar.value"]].to_numpy()
    places = []
    for (x0, y0), (x1, y1) in pairwise(points):
        if (y0 > 1) != (y1 > 1):
            slope = (math.log(y1) - math.log(y0)) / (math.log(x1) - math.log(x0))
            places.append(math.exp(math.log(x0) - math.log(y0) / slope))
    texts = [f"{place:.3g}" for place in places]
    if not texts:
        return "none in the sweep" if len(points) else "none"
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def rows_of_slice(part: Slice, frame: pd.DataFrame) -> pd.DataFrame:
    return frame[(frame.run_id == part.run_id) & frame.cell_id.isin([row.cell_id for row in part.rows])]


@pytest.fixture(scope="module")
def answers(analysis: Analysis) -> Answers:
    """Figure -> (slice, answer) of every slice that has it."""
    found: Answers = {kind.name: [] for kind in FIGURES}
    for kind in FIGURES:
        for part in slices_of(analysis, is_wide=kind.is_wide):
            with contextlib.suppress(NotDrawn):
                found[kind.name].append((part, kind.draw(part, "x").answer))
    return found


def sides_of(rows: pd.DataFrame) -> pd.Series:
    """faster, slower, or within the noise, from each row's speed-up and its interval."""

    def side(row: pd.Series) -> str:
        if row["speedup_vs_ar.n_rounds"] > 1 and row["speedup_vs_ar.low"] <= 1 <= row["speedup_vs_ar.high"]:
            return "within the noise"
        return "faster" if row["speedup_vs_ar.value"] > 1 else "slower"

    return rows.apply(side, axis=1)


def test_every_answer_is_on_the_page(answers: Answers, page: str) -> None:
    texts = " ".join(parsed(page).texts)
    assert all(answer in texts for found in answers.values() for _, answer in found)


def test_the_heat_maps_answer_counts_its_cells(answers: Answers, frame: pd.DataFrame) -> None:
    for part, answer in answers["speedup"]:
        rows = rows_of_slice(part, frame)
        rows = rows[rows["speedup_vs_ar.value"].notna()]
        counts = sides_of(rows).value_counts()
        if len(counts) == 1:
            where = "the one measured cell" if len(rows) == 1 else f"all {len(rows)} measured cells"
            assert answer.startswith(f"In {where} block diffusion is {counts.index[0]}")
        else:
            assert answer.startswith(f"Of {len(rows)} measured cells block diffusion is ")
            assert all(f"{side} in {count}" in answer for side, count in counts.items())
        assert ratio(rows["speedup_vs_ar.value"].max()) in answer
        assert ratio(rows["speedup_vs_ar.value"].min()) in answer


def test_the_steps_answer_names_the_steps_at_which_each_side_is_faster(answers: Answers, frame: pd.DataFrame) -> None:
    for part, answer in answers["steps"]:
        rows = rows_of_slice(part, frame)
        rows = rows[(rows.decoding == "block_diffusion") & rows["useful_tok_s.value"].notna()]
        rows = rows[rows.batch_size == rows.batch_size.min()]
        best = rows.loc[rows["useful_tok_s.value"].idxmax()]
        rows = rows[(rows.block_length == best.block_length) & rows["speedup_vs_ar.value"].notna()]
        assert f"At batch {best.batch_size} with {best.block_length:.0f}-token blocks" in answer
        if rows.empty:
            assert "no comparison" in answer
            continue
        for side, steps in rows.groupby(sides_of(rows)).num_steps:
            counts = [f"{count:.0f}" for count in sorted(steps)]
            assert re.search(rf"{side}[a-z ]* at " + r"(?:, | and )".join(counts) + " steps", answer), answer


def test_the_throughput_answer_gives_both_ends_of_its_line(answers: Answers, frame: pd.DataFrame) -> None:
    for part, answer in answers["throughput"]:
        rows = rows_of_slice(part, frame)
        diffusion = rows[(rows.decoding == "block_diffusion") & rows["useful_tok_s.value"].notna()]
        if diffusion.empty or diffusion["speedup_vs_ar.value"].isna().all():
            assert "No block-diffusion cell finished" in answer or "no comparison" in answer
            continue
        smallest = diffusion[diffusion.batch_size == diffusion.batch_size.min()]
        best = smallest.loc[smallest["useful_tok_s.value"].idxmax()]
        line = diffusion[(diffusion.block_length == best.block_length) & (diffusion.num_steps == best.num_steps)]
        line = line[line["speedup_vs_ar.value"].notna()].sort_values("batch_size")
        for _, row in line.iloc[[0, -1]].iterrows():
            assert f"at batch {row.batch_size} {lead(row['speedup_vs_ar.value'])}" in answer
        crossover = expected_crossover(rows, best)
        assert ("no " in answer) if crossover == "none in the sweep" else (crossover.split(" ")[0] in answer)


def test_the_histogram_counts_the_canvases_of_the_records(answers: Answers) -> None:
    for part, answer in answers["canvases"]:
        block = int(re.search(r"With (\d+)", answer)[1])  # type: ignore[index]
        caps = {row.cell.num_steps for row in part.diffusion if row.metrics and row.cell.block_length == block}
        for cap in caps:
            taken = []
            for path in sorted(part.run.directory.glob("records-*.jsonl")):
                for line in map(json.loads, path.read_text().splitlines()):
                    wanted = {"block_length": block, "num_steps": cap, "stopping": part.stopping}
                    wanted |= {"prompt_tokens": part.cell.prompt_tokens, "prompt_set": part.cell.prompt_set}
                    if line["status"] == "ok" and all(line["cell"][key] == value for key, value in wanted.items()):
                        taken += [n for one in line["rounds"] for row in one["steps_per_canvas"] for n in row if n]
            middle = sorted(taken)[(len(taken) + 1) // 2 - 1]
            share = 100 * taken.count(cap) / len(taken)
            shown = f"{share:.0f} %" if share >= 9.95 else f"{share:.2g} %"
            assert f"a cap of {cap} steps, half of {len(taken):,} canvases stop by step {middle}, and {shown}" in answer


def test_fixed_stopping_says_that_every_canvas_took_exactly_num_steps(tmp_path: Path) -> None:
    texts = " ".join(parsed(build_page(analysed(tmp_path, Scenario()))).texts)
    assert "stopping is fixed, and every canvas took exactly its num_steps (8 or 16)" in texts


def test_a_canvas_that_broke_fixed_stopping_is_drawn(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path)
    (path,) = run_dir.glob("records-*.jsonl")
    path.write_text(path.read_text().replace('"steps_per_canvas":[[8,', '"steps_per_canvas":[[7,', 1))
    (part,) = slices_of(analyse([load_run(run_dir)]))
    taken = "".join(kind.draw(part, "x").answer for kind in FIGURES if kind.name == "canvases")
    assert "with a cap of 8 steps, half of" in taken


def test_the_link_of_a_figure_finds_rows_of_its_slice_alone(analysis: Analysis, page: str) -> None:
    island = island_of(page)
    shown = pd.DataFrame(island["rows"], columns=[column["key"] for column in island["columns"]], dtype=object)
    filters = {a["data-filter"] or "" for _, a in parsed(page).tags if "data-filter" in a}
    parts = [part for is_wide in (False, True) for part in slices_of(analysis, is_wide=is_wide)]
    slices = [{row.cell_id for row in part.rows} | {s.cell_id for s in part.skipped} for part in parts]
    for words in filters:
        if words.startswith("status=") and " " not in words:
            continue  # of the table of outcomes, which speaks of all slices
        found = shown
        for word in words.split():
            key, _, values = word.partition("=")
            texts = found[key].map(lambda value: "" if value is None else str(value).lower())
            found = found[texts.isin(values.split("|"))]
        assert len(found)
        assert any(set(found.cell_id) <= cells for cells in slices)


def test_random_weights_are_announced_at_the_top(tmp_path: Path) -> None:
    page = build_page(analysed(tmp_path, Scenario(trained=False)))
    assert page.index("Random weights: ") < page.index('class="tiles"')
    assert "RANDOM weights" in page


def test_trained_weights_are_not_called_random(tmp_path: Path) -> None:
    assert "andom weights" not in build_page(analysed(tmp_path, Scenario(trained=True)))


def test_made_up_data_is_announced_at_the_top(page: str) -> None:
    assert "Made-up test data" in page[: page.index("<main>")]


def test_every_picture_prints_its_conditions(analysis: Analysis, page: str) -> None:
    part = slices_of(analysis)[0]
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        text = " ".join(parsed(svg).texts)
        if any(f'"{kind.name}-title ' in svg for kind in PAGE_FIGURES):  # which are of no run
            assert "PREDICTED" in text
            continue
        assert any(f"prompts {row.cell.prompt_set}" in text for row in analysis.rows)
        for said in ("stopping ", f"eos {part.cell.eos}", "weights", "static batch"):
            assert said in text


def test_a_slower_diffusion_is_reported_as_plainly_as_a_faster_one(tmp_path: Path) -> None:
    analysis = analysed(tmp_path, Scenario(pass_s=slow_diffusion))
    sentence = headlines.verdict(analysis.headlines[0])
    assert re.search(r"autoregressive decoding is [\d.]+x faster than block diffusion at batch 1", sentence)
    assert headlines.tiles(analysis.headlines[0], analysis)[1].value.startswith("0.")


def test_skips_are_listed_with_their_reasons(tmp_path: Path) -> None:
    scenario = Scenario(exclude=[{"batch_size": [4], "block_length": [256], "reason": "not <asked>"}])
    (one,) = outcomes.outcomes(analysed(tmp_path, scenario))
    assert (one.status, one.reason, one.count) == ("skipped", "excluded by the suite: not <asked>", 2)
    assert one.among == "batch 4; block 256"


def test_the_outcomes_count_every_cell_without_a_number_once(analysis: Analysis, frame: pd.DataFrame) -> None:
    shown = outcomes.outcomes(analysis)
    counts = frame.status[frame.status != "ok"].value_counts().to_dict()
    if analysis.skipped:
        counts["skipped"] = len(analysis.skipped)
    for status, count in counts.items():
        assert sum(one.count for one in shown if one.status == status) == count
    assert {one.status for one in shown} == set(counts)


def test_a_pruned_cell_is_not_shown_as_a_measured_out_of_memory(tmp_path: Path) -> None:
    found = {1: "ok", 4: "oom", 16: "pruned"}
    page = build_page(analysed(tmp_path, Scenario(outcome=lambda cell, _: found[cell.batch_size])))
    island = island_of(page)
    shown = pd.DataFrame(island["rows"], columns=[column["key"] for column in island["columns"]])
    assert {size: set(rows.status) for size, rows in shown.groupby("batch_size")} == {k: {v} for k, v in found.items()}
    assert "out of memory at batch 4, so batch 16 was not tried" in " ".join(parsed(page).texts)


def test_reasons_that_differ_in_numbers_alone_are_one_line(tmp_path: Path) -> None:
    runs = [
        load_run(write_run(tmp_path, Scenario(outcome=lambda cell, _: "oom", reason=f"needs {size} of 80 GB")))
        for size in ("1,200.5", "90")
    ]
    (one,) = outcomes.outcomes(analyse(runs))
    assert (one.count, one.reason) == (30, "needs 1,200.5 of 80 GB (and 1 reason like it with other numbers)")


def test_the_coverage_of_a_device_sums_its_runs(tmp_path: Path) -> None:
    scenarios = [Scenario(), Scenario(name="b"), Scenario(name="c", display_name="Other", outcome=lambda c, _: "oom")]
    columns, devices = outcomes.coverage_by_device(analyse([load_run(write_run(tmp_path, s)) for s in scenarios]))
    counts = {name: dict(zip(columns, values, strict=True)) for name, values in devices}
    assert (counts["Made-up GPU 80 GB"]["planned"], counts["Made-up GPU 80 GB"]["ok"]) == (30, 30)
    assert (counts["Other"]["planned"], counts["Other"]["oom"]) == (15, 15)


def test_a_status_leads_to_its_rows(page: str, frame: pd.DataFrame) -> None:
    links = {a["data-filter"] for _, a in parsed(page).tags if (a.get("data-filter") or "").startswith("status=")}
    assert links >= {f"status={status}" for status in set(frame.status) - {"ok"}}


def test_warnings_stand_on_the_page(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path, Scenario(outcome=lambda cell, _: "interrupted" if cell.batch_size == 4 else "ok"))
    (path,) = run_dir.glob("records-*.jsonl")
    path.write_bytes(path.read_bytes()[:-50])
    texts = " ".join(parsed(build_page(analyse([load_run(run_dir)]))).texts)
    assert "torn" in texts
    assert "attempts that were interrupted: 5; the rounds that they finished are kept and not counted: 10" in texts


def test_the_manifest_tells_how_to_repeat_the_run(tmp_path: Path) -> None:
    page = build_page(analysed(tmp_path, Scenario(discarded=("throttled",), warnings=("the clock fell",))))
    for said in (
        "python -m harness run suite=made_up",
        "0123abcd",
        "15 x throttled",
        "the clock fell",
        "seed",
        "driver",
    ):
        assert said in page


# What the page is given stays text


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_shown_as_text_and_never_as_markup(tmp_path: Path, name: str) -> None:
    usual = dataclasses.replace(hostile_scenario("harmless"))
    plan_changes = {"suite": name, "description": name}
    tame = parsed(build_page(analyse([load_run(write_run(tmp_path / "tame", usual))])))
    run_dir = write_run(tmp_path / "wild", hostile_scenario(name), plan_changes=plan_changes)
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
    assert not re.search("[<>]", packed_of(page))
    assert any(name in str(value) for row in island_of(page)["rows"] for value in row)


@pytest.mark.parametrize("name", HOSTILE[:4])
def test_a_hostile_reason_in_an_answer_is_text_too(tmp_path: Path, name: str) -> None:
    pages = []
    for reason in ("harmless", name):
        scenario = Scenario(exclude=[{"decoding": ["autoregressive"], "reason": reason}])
        pages.append(parsed(build_page(analysed(tmp_path / str(len(pages)), scenario))))
    assert [tag for tag, _ in pages[0].tags] == [tag for tag, _ in pages[1].tags]
    assert f"no autoregressive twin: excluded by the suite: {name}" in " ".join(pages[1].texts)


# Words and placing


@pytest.mark.parametrize(
    ("speedup", "words"),
    [
        (2.31, "block diffusion is 2.3x faster"),
        (0.41, "autoregressive decoding is 2.4x faster"),
        (1.5, "block diffusion is 1.50x faster"),
        (1.04, "block diffusion is 4.0 % faster"),
        (1 / 1.04, "autoregressive decoding is 4.0 % faster"),
        (1.0, "both are equally fast"),
        (0.01, "autoregressive decoding is 100x faster"),
    ],
)
def test_a_lead_is_told_in_the_same_words_in_both_directions(speedup: float, words: str) -> None:
    assert lead(speedup) == words


def test_one_round_claims_no_interval(tmp_path: Path) -> None:
    scenario = Scenario(axes={"batch_size": [1], "block_length": [256], "num_steps": [8]}, rounds=1)
    summary = analysed(tmp_path, scenario).rows[1].metrics["speedup_vs_ar"]
    assert interval(summary, ratio) == "one round, so no interval"
    assert is_clear(summary)
    assert not is_clear(dataclasses.replace(summary, low=0.9, high=1.1))


def test_labels_keep_their_order_and_their_distance() -> None:
    placed = spread([0.5, 0.52, 0.1, 0.51, 0.9], 0.1)
    assert sorted(range(5), key=lambda i: placed[i]) == [2, 0, 3, 1, 4]
    ordered = sorted(placed)
    assert min(b - a for a, b in pairwise(ordered)) == pytest.approx(0.1)
    assert (placed[2], placed[4]) == (0.1, 0.9)


def test_a_heat_map_of_many_values_is_thinned_and_says_so(tmp_path: Path) -> None:
    axes = {"batch_size": list(range(1, 15)), "block_length": [256], "num_steps": list(range(1, 9))}
    (part,) = slices_of(analysed(tmp_path, Scenario(axes=axes, rounds=1)))
    kind = next(kind for kind in FIGURES if kind.name == "speedup")
    answer = kind.draw(part, "x").answer
    assert "Of 112 measured cells" in answer
    assert answer.endswith("Drawn are 12 of 14 batch sizes and 6 of 8 step counts; the table has all.")


def test_labels_stay_inside_the_figure() -> None:
    placed = spread([0.97, 0.98, 0.99, 1.0, 0.01, 0.0], 0.1)
    assert placed == pytest.approx([0.7, 0.8, 0.9, 1.0, 0.1, 0.0])


def test_the_page_of_a_large_run_stays_small(tmp_path: Path) -> None:
    """The table is paged and its data is compact: what a cell adds to the page is bounded."""
    axes = {"batch_size": [1, 2, 4, 8], "block_length": [32, 64], "num_steps": [4, 8]}
    large = {"batch_size": list(range(1, 25)), "block_length": [32, 64], "num_steps": [4, 8]}
    few, many = (analysed(tmp_path / str(i), Scenario(axes=a)) for i, a in enumerate((axes, large)))
    tables_json = [json.dumps(tables.cell_table(a), separators=(",", ":")) for a in (few, many)]
    assert (len(tables_json[1]) - len(tables_json[0])) / (len(many.rows) - len(few.rows)) < 150
