"""What the page says of quality and content, recomputed from the record lines by a few plain lines."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from scipy import stats
from synthetic import Scenario, usual_pass_s, write_run

from harness.analysis.analyse import Analysis, analyse
from harness.analysis.canvases import quantile, steps_taken
from harness.analysis.run_data import load_run
from harness.records.types import Cell
from harness.report.figures.base import Figure, NotDrawn
from harness.report.figures.registry import FIGURES
from harness.report.frame import build_page
from harness.report.headlines import at_equal_quality
from harness.report.slices import Slice, slices_of
from harness.report.terminal import result_text
from harness.report.wording import ratio

Json = dict[str, Any]
AXES = {
    "stopping": ["fixed", "adaptive"], "prompt_set": ["code", "maths"], "block_length": [32], "num_steps": [1, 4, 16],
    "batch_size": [2, 16], "output_tokens": [96],
}  # fmt: skip


def rising(cell: Cell) -> float:
    """More steps are better, adaptive stopping is as good as its cap, maths is harder; 4 steps equal the twin."""
    steps = 4 if cell.num_steps is None else cell.num_steps
    return (0.95 if cell.prompt_set == "code" else 0.75) * (1 - math.exp(-steps / 3))


GRADED = Scenario(eos="respect", observed=True, quality=rising, categories=("easy", "hard"), axes=AXES, launches=2)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("graded"), GRADED)


@pytest.fixture(scope="module")
def analysis(run_dir: Path) -> Analysis:
    return analyse([load_run(run_dir)])


@pytest.fixture(scope="module")
def lines(run_dir: Path) -> list[Json]:
    return [json.loads(line) for path in run_dir.glob("records-*.jsonl") for line in path.read_text().splitlines()]


def drawn(analysis: Analysis, name: str) -> Figure:
    kind = next(kind for kind in FIGURES if kind.name == name)
    (part,) = slices_of(analysis, is_wide=kind.is_wide)
    return kind.draw(part, "x")


def matching(lines: list[Json], **wanted: Any) -> list[Json]:
    return [line for line in lines if all(line["cell"][key] == value for key, value in wanted.items())]


def rows(lines: list[Json]) -> Iterator[tuple[Json, int]]:
    """(round, row) of every row of every round."""
    for line in lines:
        for one in line["rounds"]:
            for i in range(len(one["useful_tokens"])):
                yield one, i


def exact(lines: list[Json]) -> float:
    return statistics.mean(one["exact"][i] for one, i in rows(lines))


def canvases(lines: list[Json]) -> list[int]:
    return [n for one, i in rows(lines) for n in one["steps_per_canvas"][i] if n]


def speedup(lines: list[Json], **setting: Any) -> float:
    """Of the work of both prompt sets together: the ratio round by round, its median in each launch, their median."""
    medians = []
    for launch in (0, 1):
        ratios = []
        for index in range(3):
            rates = []
            for wanted in (setting, {"batch_size": setting["batch_size"], "decoding": "autoregressive"}):
                rounds = [one["rounds"][index] for one in matching(lines, **wanted) if one["launch"] == launch]
                assert len(rounds) == 2
                rates.append(sum(sum(r["useful_tokens"]) for r in rounds) / sum(r["wall_s"] for r in rounds))
            ratios.append(rates[0] / rates[1])
        medians.append(statistics.median(ratios))
    return statistics.median(medians)


def share(value: float) -> str:
    return f"{100 * value:.0f} %" if value >= 0.0995 else f"{100 * value:.2g} %"


# Quality against steps


def test_the_quality_answer_pools_all_prompts_of_its_setting(analysis: Analysis, lines: list[Json]) -> None:
    answer = drawn(analysis, "quality").answer
    first, last = (exact(matching(lines, batch_size=16, stopping="fixed", num_steps=n)) for n in (1, 16))
    adaptive = matching(lines, batch_size=16, stopping="adaptive", num_steps=16)
    steps = statistics.mean(canvases(adaptive))
    assert answer.startswith("At batch 16 with 32-token blocks, over 96 prompts: ")
    assert f"from {share(first)} with 1 step to {share(last)} with 16 steps" in answer
    assert f"at most 16 steps has {share(exact(adaptive))} with {steps:.3g} a canvas" in answer
    twin = exact(matching(lines, batch_size=16, decoding="autoregressive"))
    assert f"autoregressive decoding has {share(twin)}" in answer


def test_the_quality_answer_names_the_fewest_steps_within_the_noise_of_the_best(
    analysis: Analysis, lines: list[Json]
) -> None:
    values = {n: exact(matching(lines, batch_size=16, stopping="fixed", num_steps=n)) for n in (1, 4, 16)}
    highs = {n: stats.binomtest(round(96 * v), 96).proportion_ci(0.95, method="wilson").high for n, v in values.items()}
    enough = min(n for n in values if all(highs[m] >= max(values.values()) for m in values if m >= n))
    assert f"from {enough} steps on it stays within the noise of the best" in drawn(analysis, "quality").answer


def test_every_category_has_a_small_picture(analysis: Analysis) -> None:
    picture = str(drawn(analysis, "quality").picture)
    assert ">easy</text>" in picture
    assert ">hard</text>" in picture


# Equal quality


def test_the_speed_at_equal_quality_is_that_of_the_fastest_setting_as_good(
    analysis: Analysis, lines: list[Json]
) -> None:
    for batch_size in (2, 16):
        twin = exact(matching(lines, batch_size=batch_size, decoding="autoregressive"))
        speeds = {}
        for stopping in ("fixed", "adaptive"):
            for num_steps in (1, 4, 16):
                setting = {"batch_size": batch_size, "stopping": stopping, "num_steps": num_steps}
                if exact(matching(lines, **setting)) >= twin:
                    speeds[stopping, num_steps] = speedup(lines, **setting)
        assert 0 < len(speeds) < 6  # some are as good, some are not
        fastest = max(speeds, key=lambda setting: speeds[setting])
        (iso,) = (one for one in analysis.iso_quality if one.best.cell.batch_size == batch_size)
        assert iso.reached is not None
        assert (iso.reached.cell.stopping, iso.reached.cell.num_steps) == fastest
        assert iso.reached.speedup_vs_ar.value == pytest.approx(speeds[fastest])  # type: ignore[union-attr]
        assert f"has {share(iso.reached.exact_match.value)} at {ratio(speeds[fastest])}" in at_equal_quality(iso)  # type: ignore[union-attr]


def test_the_answer_at_equal_quality_is_in_the_figure_on_the_page_and_in_the_terminal(analysis: Analysis) -> None:
    answer = drawn(analysis, "tradeoff").answer
    assert answer == at_equal_quality(next(one for one in analysis.iso_quality if one.best.cell.batch_size == 16))
    assert build_page(analysis).count(answer) >= 2
    assert answer in result_text(analysis)


def test_where_no_setting_is_as_good_the_nearest_is_named(tmp_path: Path) -> None:
    def worse(cell: Cell) -> float:
        return 0.9 if cell.num_steps is None else 0.1 if cell.num_steps == 4 else 0.5

    run_dir = write_run(tmp_path, Scenario(quality=worse, axes={**AXES, "stopping": ["fixed"], "num_steps": [4, 8]}))
    answer = drawn(analyse([load_run(run_dir)]), "tradeoff").answer
    assert "no configuration reaches the quality of autoregressive decoding" in answer
    assert "the nearest of 2, 32-token blocks and 8 steps, has" in answer


def test_settings_on_other_prompts_are_not_compared(tmp_path: Path) -> None:
    """One prompt set of the diffusion cells failed: their quality is of other prompts than the twin's."""

    def lost(cell: Cell, launch: int) -> str:
        return "error" if cell.prompt_set == "maths" and cell.num_steps == 4 else "ok"

    axes = {**AXES, "stopping": ["fixed"], "num_steps": [4, 16], "batch_size": [16]}
    run_dir = write_run(tmp_path, Scenario(quality=lambda cell: 0.9, axes=axes, outcome=lost))
    (iso,) = analyse([load_run(run_dir)]).iso_quality
    assert (iso.num_compared, iso.best.cell.num_steps) == (1, 16)


def test_a_setting_pools_its_prompt_sets_in_the_document(analysis: Analysis, lines: list[Json]) -> None:
    document = json.loads(json.dumps(analysis.to_json(), allow_nan=False))
    assert len(document["settings"]) == 2 * (1 + 6)
    for setting in document["settings"]:
        own = matching(lines, **{k: setting["setting"][k] for k in ("batch_size", "decoding", "stopping", "num_steps")})
        assert setting["prompt_sets"] == ["code", "maths"]
        assert setting["exact_match"]["value"] == pytest.approx(exact(own))
        for category in setting["categories"]:
            name = category["category"]
            mine = [(one, i) for one, i in rows(own) if one["categories"][i] == name]
            steps = sorted(n for one, i in mine for n in one["steps_per_canvas"][i] if n)
            assert category["exact_match"]["value"] == pytest.approx(statistics.mean(r["exact"][i] for r, i in mine))
            assert category["canvases"] == len(steps)
            if steps:
                fills = [r["useful_tokens"][i] / 32 / sum(n > 0 for n in r["steps_per_canvas"][i]) for r, i in mine]
                told = category["steps_per_canvas"]
                assert (told["max"], told["mean"]) == (steps[-1], pytest.approx(statistics.mean(steps)))
                for key, part in (("p10", 0.1), ("p50", 0.5), ("p90", 0.9)):
                    assert told[key] == min(n for n in steps if sum(m <= n for m in steps) >= part * len(steps))
                assert category["canvas_fill"] == pytest.approx(statistics.mean(fills))


# Content


def test_the_content_answer_gives_means_the_cap_and_what_it_costs(analysis: Analysis, lines: list[Json]) -> None:
    answer = drawn(analysis, "content").answer
    adaptive = matching(lines, stopping="adaptive", num_steps=16)
    taken = {
        name: [n for one, i in rows(adaptive) if one["categories"][i] == name for n in one["steps_per_canvas"][i] if n]
        for name in ("easy", "hard")
    }
    means = {name: statistics.mean(steps) for name, steps in taken.items()}
    most, least = max(means, key=lambda n: means[n]), min(means, key=lambda n: means[n])
    assert f"takes {means[most]:.3g} steps on average for {most} and {means[least]:.3g} for {least}" in answer
    every = canvases(adaptive)
    capped = every.count(16)
    assert f"{share(capped / len(every))} of {len(every):,} canvases run to the cap" in answer
    assert f"take {share(16 * capped / sum(every))} of all steps" in answer


def test_a_tenth_of_fewer_than_ten_canvases_is_not_told() -> None:
    from collections import Counter

    assert quantile(Counter({3: 9}), 0.1) is None
    assert quantile(Counter({3: 1, 5: 9}), 0.1) == 3
    assert quantile(Counter({3: 2, 9: 1}), 0.5) == 3
    assert quantile(Counter(), 0.5) is None


def test_steps_are_counted_without_canvases_behind_a_rows_end(analysis: Analysis, lines: list[Json]) -> None:
    (run,) = analysis.runs.values()
    for row in analysis.rows:
        own = [line for line in lines if line["cell_id"] == row.cell_id]
        assert sorted(steps_taken(run, [row.cell_id]).elements()) == sorted(canvases(own))


# Order


def test_the_order_answer_is_kendalls_tau_over_the_rows_of_its_cells(analysis: Analysis, lines: list[Json]) -> None:
    answer = drawn(analysis, "settling").answer
    own = matching(lines, stopping="adaptive", num_steps=16, batch_size=16)
    kept = [row for line in own for canvas in line["counters"]["settled_steps"] for row in canvas if row]
    taus = [stats.kendalltau(range(len(row)), row).statistic for row in kept if len(set(row)) > 1]
    assert f"over {len(kept)} canvases" in answer
    assert f"is {statistics.mean(taus):.2f} on average" in answer
    quarters = [row[: len(row) // 4] for row in kept if len(row) >= 4]
    assert f"settles at step {statistics.mean(n for row in quarters for n in row):.3g}, the last" in answer


@pytest.mark.parametrize(
    ("settled", "words"),
    [
        ([1, 2, 3, 4], "mostly from left to right"),
        ([4, 3, 2, 1], "mostly from right to left"),
        ([1, 2, 2, 1], "no clear"),
    ],
)
def test_the_order_is_told_in_both_directions(tmp_path: Path, settled: list[int], words: str) -> None:
    axes = {"batch_size": [1], "block_length": [32], "num_steps": [4], "output_tokens": [32]}
    run_dir = write_run(tmp_path, Scenario(observed=True, axes=axes))
    (path,) = run_dir.glob("records-*.jsonl")
    path.write_text(re.sub(r'"settled_steps":\[\[\[[\d,]+\]\]\]', f'"settled_steps":[[{settled}]]', path.read_text()))
    assert words in drawn(analyse([load_run(run_dir)]), "settling").answer


# Waste


def test_the_waste_answer_gives_fill_and_what_waiting_costs(analysis: Analysis, lines: list[Json]) -> None:
    answer = drawn(analysis, "waste").answer

    def median_over(cell: list[Json], value: Any) -> float:
        return statistics.median(statistics.median(value(one) for one in line["rounds"]) for line in cell)

    def fill(one: Json) -> float:
        rows = zip(one["useful_tokens"], one["steps_per_canvas"], strict=True)
        return statistics.mean(useful / 32 / sum(n > 0 for n in steps) for useful, steps in rows)

    def lost(one: Json) -> float:
        steps = one["steps_per_canvas"]
        return 1 - sum(map(sum, steps)) / (len(steps) * one["passes"]["denoise"])

    for stopping in ("adaptive", "fixed"):
        fills, costs = [], []
        for batch_size in (2, 16):
            sets = [
                matching(lines, batch_size=batch_size, stopping=stopping, num_steps=16, prompt_set=name)
                for name in ("code", "maths")
            ]
            fills.append(statistics.mean(median_over(cell, fill) for cell in sets))
            costs.append(statistics.mean(median_over(cell, lost) for cell in sets))
        told = f"({stopping}) a row fills {share(statistics.mean(fills))} of the canvases that it takes part in, "
        told += "on average over batches, and "
        told += f"waiting for the slowest row costs {share(costs[0])} of the work at batch 2 and {share(costs[1])} of"
        assert told in answer


# Proxies


@pytest.fixture(scope="module")
def proxies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Analysis, list[Json]]:
    run_dir = write_run(tmp_path_factory.mktemp("proxy"), Scenario(observed=True, axes=AXES))
    (path,) = run_dir.glob("records-*.jsonl")
    return analyse([load_run(run_dir)]), [json.loads(line) for line in path.read_text().splitlines()]


def test_the_proxy_answer_says_that_it_is_one_and_what_it_is(proxies: tuple[Analysis, list[Json]]) -> None:
    analysis, lines = proxies
    answer = drawn(analysis, "proxy").answer
    for num_steps in (1, 16):
        own = matching(lines, batch_size=2, stopping="fixed", num_steps=num_steps)
        nll = statistics.mean(statistics.mean(line["counters"]["nll_nats"]) for line in own)
        assert f"{nll:.3g} nats with {num_steps} step" in answer
    assert (
        "one proxy of quality, the negative log-likelihood of the output under the same weights in causal mode"
        in answer
    )
    assert "another proxy, the share of tokens that equal those of the cell with the most steps" in answer


def test_title_axes_and_metric_names_of_proxies_say_so(proxies: tuple[Analysis, list[Json]]) -> None:
    figure = drawn(proxies[0], "proxy")
    kind = next(kind for kind in FIGURES if kind.name == "proxy")
    assert "proxy" in kind.question
    assert str(figure.picture).count("PROXY: ") == 2
    assert {name for name in proxies[0].rows[1].metrics if "nll" in name or "agree" in name} == {
        "proxy_nll_nats", "proxy_agreement",
    }  # fmt: skip


def test_no_marker_and_no_label_of_the_proxies_is_cut(
    proxies: tuple[Analysis, list[Json]], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawings: list[Any] = []
    monkeypatch.setattr("harness.report.svg.to_svg", lambda drawing, **_: drawings.append(drawing))
    drawn(proxies[0], "proxy")
    (drawing,) = drawings
    renderer = FigureCanvasAgg(drawing).get_renderer()
    markers = 0
    for axes in drawing.axes:
        box, label = axes.get_window_extent(), axes.yaxis.label.get_window_extent(renderer)
        assert 0 <= label.y0 < label.y1 <= drawing.bbox.height
        for line in axes.lines:
            if line.get_marker() != "None":
                reach = (line.get_markersize() + line.get_markeredgewidth()) / 2 * drawing.dpi / 72
                heights = axes.transData.transform(line.get_xydata())[:, 1]
                assert box.y0 <= min(heights) - reach
                assert max(heights) + reach <= box.y1
                markers += len(heights)
    assert markers >= 4


@pytest.mark.parametrize(
    ("scenario", "name", "why"),
    [
        (GRADED, "proxy", "no proxy is needed"),
        (Scenario(observed=True, trained=False), "proxy", "random weights"),
        (Scenario(), "proxy", "neither likelihoods nor outputs"),
        (Scenario(), "quality", "prompt set random has no checkers"),
        (Scenario(), "tradeoff", "prompt set random has no checkers"),
        (Scenario(), "content", "adaptive stopping was not measured"),
        (Scenario(), "settling", "did not count when positions settle"),
        (Scenario(), "waste", "every canvas is full and no row waits"),
    ],
)
def test_what_cannot_be_drawn_says_what_it_lacks_on_the_page(
    tmp_path: Path, scenario: Scenario, name: str, why: str
) -> None:
    analysis = analyse([load_run(write_run(tmp_path, scenario))])
    with pytest.raises(NotDrawn, match=why):
        drawn(analysis, name)
    assert why in build_page(analysis)


def test_the_headline_owns_up_to_the_quality_of_its_setting(tmp_path: Path) -> None:
    axes = {**AXES, "batch_size": [16], "stopping": ["fixed"], "prompt_set": ["code"]}
    scenario = Scenario(quality=lambda cell: 0.3 if cell.num_steps == 1 else 0.9, axes=axes, pass_s=usual_pass_s)
    analysis = analyse([load_run(write_run(tmp_path, scenario))])
    ours, theirs = (row.metrics["exact_match"] for row in (analysis.rows[1], analysis.rows[0]))
    told = f"it has {share(ours.value)} exact match over {ours.n_prompts} prompts against {share(theirs.value)} of auto"
    assert told in build_page(analysis)


def test_a_wide_slice_holds_all_prompt_sets_and_stopping_rules_of_its_conditions(tmp_path: Path) -> None:
    axes = {**AXES, "prompt_tokens": [32, 64]}
    analysis = analyse([load_run(write_run(tmp_path, Scenario(quality=rising, axes=axes, rounds=1)))])
    wide: list[Slice] = slices_of(analysis, is_wide=True)
    assert [{(row.cell.prompt_set, row.cell.prompt_tokens) for row in part.rows} for part in wide] == [
        {("code", tokens), ("maths", tokens)} for tokens in (32, 64)
    ]
    assert [part.title for part in wide] == ["prompt tokens 32", "prompt tokens 64"]
    assert sum(len(part.settings) for part in wide) == len(analysis.settings)
