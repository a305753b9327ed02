"""The figures' answers follow from the rows that their links show."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from pages import analysed, expected_crossover, island_of, parsed
from synthetic import Scenario, write_run
from whole import build_page

from harness.analysis.analyse import Analysis, analyse
from harness.analysis.run_data import load_run
from harness.report.figures.base import NotDrawn
from harness.report.figures.registry import FIGURES, PAGE_FIGURES
from harness.report.slices import Slice, slices_of
from harness.report.wording import lead, ratio

Answers = dict[str, list[tuple[Slice, str]]]  # figure -> (slice, what it answers there)


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


def test_no_answer_has_the_star_that_pictures_explain(answers: Answers) -> None:
    assert not [answer for found in answers.values() for _, answer in found if "*" in answer]


def test_a_caption_speaks_of_bands_where_there_are_some(page: str) -> None:
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        if "bands: smallest to largest round" in " ".join(parsed(svg).texts):
            assert re.search(r"opacity: 0\.(18|4)\b", svg), svg[:80]


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


def test_a_heat_map_of_many_values_is_thinned_and_says_so(tmp_path: Path) -> None:
    axes = {"batch_size": list(range(1, 15)), "block_length": [256], "num_steps": list(range(1, 9))}
    (part,) = slices_of(analysed(tmp_path, Scenario(axes=axes, rounds=1)))
    kind = next(kind for kind in FIGURES if kind.name == "speedup")
    answer = kind.draw(part, "x").answer
    assert "Of 112 measured cells" in answer
    assert answer.endswith("Drawn are 12 of 14 batch sizes and 6 of 8 step counts; the table has all.")
