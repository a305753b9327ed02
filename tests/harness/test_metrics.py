"""Every metric recomputed from the record lines by plain arithmetic that shares no code with harness.analysis."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from synthetic import Scenario, plan_of, record_of, usual_pass_s, write_run

from harness.analysis.analyse import analyse
from harness.analysis.metrics import METRICS, Missing
from harness.analysis.run_data import CellPlan, load_run

Json = dict[str, Any]
SCENARIOS = {
    "fixed steps, eos ignored": Scenario(),
    "adaptive, eos respected, two launches": Scenario(eos="respect", launches=2, axes={"stopping": ["adaptive"]}),
    "one canvas, no roofs": Scenario(roofs=False, axes={"output_tokens": [128], "block_length": [128]}),
    "short answers": Scenario(axes={"output_tokens": [16], "block_length": [32]}),
}


def mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def tok_s(one: Json) -> float:
    return sum(one["useful_tokens"]) / one["wall_s"]


def decode_tok_s(one: Json, cell: Json, entry: Json) -> float | None:
    block = cell["block_length"] or 1
    tokens = sum(tokens - min(tokens, block) for tokens in one["useful_tokens"])
    return tokens / (one["block_s"][-1] - one["block_s"][0]) if len(one["block_s"]) > 1 and tokens else None


def time_to(count: int) -> Callable[[Json, Json, Json], float | None]:
    def expected(one: Json, cell: Json, entry: Json) -> float | None:
        times = []
        for tokens in one["useful_tokens"]:
            arrived = 0
            for at in one["block_s"]:
                arrived = min(tokens, arrived + (cell["block_length"] or 1))
                if arrived >= count:
                    times.append(at)
                    break
        return mean(times) if len(times) == len(one["useful_tokens"]) else None

    return expected


def block_s(one: Json, cell: Json, entry: Json) -> float:
    times = one["block_s"]
    return statistics.median([times[i] - times[i - 1] for i in range(1, len(times))] or times)


def steps_per_canvas(one: Json, cell: Json, entry: Json) -> float | None:
    return mean([n for row in one["steps_per_canvas"] for n in row if n > 0])


def tokens_per(one: Json, passes: int) -> float | None:
    return mean([tokens / passes for tokens in one["useful_tokens"]]) if passes else None


def straggler_share(one: Json, cell: Json, entry: Json) -> float:
    rows = len(one["useful_tokens"])
    if cell["decoding"] == "autoregressive":
        done, paid = sum(one["useful_tokens"]), rows * max(one["useful_tokens"])
    else:
        done, paid = sum(map(sum, one["steps_per_canvas"])), rows * one["passes"]["denoise"]
    return (paid - done) / paid


def post_eos_waste(one: Json, cell: Json, entry: Json) -> float:
    blocks = len(one["block_s"]) * (cell["block_length"] or 1)  # computed for every row until the last one is done
    return sum(blocks - tokens for tokens in one["useful_tokens"]) / (blocks * len(one["useful_tokens"]))


def canvas_fill(one: Json, cell: Json, entry: Json) -> float | None:
    if cell["decoding"] == "autoregressive":
        return None
    # a row runs its first canvas and every one that begins before its end
    own = [math.ceil(tokens / cell["block_length"]) * cell["block_length"] for tokens in one["useful_tokens"]]
    return mean([tokens / positions for tokens, positions in zip(one["useful_tokens"], own, strict=True)])


def floor_share(one: Json, cell: Json, entry: Json) -> float | None:
    floor = 0.0
    for kind, executed in one["passes"].items():
        if executed:
            phase = entry["phases"][kind]
            if phase["floor_s"] is None:
                return None
            floor += phase["floor_s"] * executed / phase["count"]
    return floor / one["wall_s"]


EXPECTED: dict[str, Callable[[Json, Json, Json], float | None]] = {
    "useful_tok_s": lambda one, cell, entry: tok_s(one),
    "request_s": lambda one, cell, entry: one["wall_s"],
    "decode_tok_s": decode_tok_s,
    "ttfb_s": lambda one, cell, entry: one["ttfb_s"],
    "time_to_1_s": time_to(1),
    "time_to_64_s": time_to(64),
    "time_to_256_s": time_to(256),
    "block_s": block_s,
    "step_s": lambda one, cell, entry: statistics.median(one["step_s"]),
    "steps_per_canvas": steps_per_canvas,
    "tpf_denoise": lambda one, cell, entry: tokens_per(one, one["passes"]["denoise"]),
    "tpf_total": lambda one, cell, entry: tokens_per(one, sum(one["passes"].values()) - one["passes"]["prefill"]),
    "useful_tokens_per_row": lambda one, cell, entry: mean(one["useful_tokens"]),
    "straggler_share": straggler_share,
    "post_eos_waste": post_eos_waste,
    "canvas_fill": canvas_fill,
    "floor_share": floor_share,
    "device_s": lambda one, cell, entry: one["device_s"],
    "device_share": lambda one, cell, entry: one["device_s"] / one["wall_s"],
    "cpu_s": lambda one, cell, entry: one["cpu_s"],
    "peak_memory_bytes": lambda one, cell, entry: one["peak_allocated_bytes"],
    "peak_device_bytes": lambda one, cell, entry: one["peak_device_bytes"],
}


def lines_of(run_dir: Path) -> list[Json]:
    return [json.loads(line) for path in run_dir.glob("records-*.jsonl") for line in path.read_text().splitlines()]


@pytest.fixture(scope="module", params=sorted(SCENARIOS))
def run_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), SCENARIOS[request.param])


@pytest.fixture(scope="module")
def cells(run_dir: Path) -> dict[str, Json]:
    document = analyse([load_run(run_dir)]).to_json()
    return {cell["cell_id"]: cell for cell in json.loads(json.dumps(document, allow_nan=False))["cells"]}


def assert_same(cell: Json, name: str, by_launch: list[list[float | None]]) -> None:
    known = [[value for value in values if value is not None] for values in by_launch]
    medians = [statistics.median(values) for values in known if values]
    if medians:
        assert cell["metrics"][name]["value"] == pytest.approx(statistics.median(medians), rel=1e-12)
    else:
        assert name not in cell["metrics"]
        assert cell["missing"][name]


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_metric_is_what_its_record_lines_say(run_dir: Path, cells: dict[str, Json], name: str) -> None:
    entries = {entry["cell_id"]: entry for entry in json.loads((run_dir / "plan.json").read_text())["cells"]}
    lines = lines_of(run_dir)
    for cell_id, cell in cells.items():
        records = [line for line in lines if line["cell_id"] == cell_id]
        values = [[EXPECTED[name](one, line["cell"], entries[cell_id]) for one in line["rounds"]] for line in records]
        assert_same(cell, name, values)


def test_the_speedup_is_the_ratio_of_throughputs_round_by_round(run_dir: Path, cells: dict[str, Json]) -> None:
    lines = {(line["cell_id"], line["launch"]): line for line in lines_of(run_dir)}
    launches = {launch for _, launch in lines}
    for cell_id, cell in cells.items():
        values: list[list[float | None]] = []
        for launch in launches if cell["twin_id"] else ():
            pairs = zip(lines[cell_id, launch]["rounds"], lines[cell["twin_id"], launch]["rounds"], strict=True)
            values.append([tok_s(one) / tok_s(other) for one, other in pairs])
        assert_same(cell, "speedup_vs_ar", values)


def test_distinct_experts_are_the_mean_over_passes_and_layers(run_dir: Path, cells: dict[str, Json]) -> None:
    for cell in cells.values():
        assert cell["metrics"]["distinct_experts"]["value"] == (4 + 6 + 8 + 5) / 4


def test_every_metric_is_recomputed_here() -> None:
    assert set(METRICS) == {*EXPECTED, "speedup_vs_ar", "distinct_experts"}


def test_every_metric_declares_unit_direction_kind_and_formula() -> None:
    for metric in METRICS.values():
        assert metric.unit
        assert metric.better in ("higher", "lower")
        assert metric.kind in ("counter", "time")
        assert len(metric.formula) > 20


def measured_round(**changes: Any) -> tuple[Any, CellPlan]:
    scenario = Scenario()
    cell = plan_of(scenario).cells[1].cell
    one = record_of(scenario, cell, 0, "r").rounds[0]
    planned = CellPlan(cell=cell, cell_id="", twin_id=None, floor_basis="exact", phases={}, missing={})
    return dataclasses.replace(one, **changes), planned


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("decode_tok_s", {"block_s": (0.5,)}, "one block"),
        ("useful_tok_s", {"useful_tokens": (0,)}, "no useful token"),
        ("useful_tok_s", {"wall_s": 0.0}, "no value"),
        ("time_to_64_s", {"useful_tokens": (63,)}, "fewer than 64 useful tokens"),
        ("step_s", {"step_s": (), "missing": {"step_s": "a server counts no steps"}}, "a server counts no steps"),
        ("device_s", {"device_s": None, "missing": {"device_s": "no GPU"}}, "no GPU"),
        ("floor_share", {"passes": {"verify": 3}}, "no verify pass"),
        ("straggler_share", {"useful_tokens": (), "steps_per_canvas": ()}, "no step counts"),
        ("canvas_fill", {"steps_per_canvas": (), "missing": {"steps_per_canvas": "a server"}}, "a server"),
        ("post_eos_waste", {"raw_tokens": 0}, "no value"),
        ("useful_tokens_per_row", {"useful_tokens": ()}, "no value"),
    ],
)
def test_what_cannot_be_had_is_missing_with_a_reason(name: str, changes: Json, reason: str) -> None:
    with pytest.raises(Missing, match=reason):
        METRICS[name].compute(*measured_round(**changes))


def test_a_faster_pass_gives_more_tokens_per_second(tmp_path: Path) -> None:
    slow = analyse([load_run(write_run(tmp_path / "slow"))]).rows
    quick = analyse([load_run(write_run(tmp_path / "quick", Scenario(pass_s=lambda c: usual_pass_s(c) / 2)))]).rows
    assert all(
        (a.value("useful_tok_s") or 0) < (b.value("useful_tok_s") or 0) for a, b in zip(slow, quick, strict=True)
    )


def test_two_canvases_of_which_one_row_needs_one_are_wasted_and_filled_as_written_out_here() -> None:
    """Rows of 100 and 300 useful tokens in canvases of 256: two canvases run, the first row takes part in one."""
    one, planned = measured_round(useful_tokens=(100, 300), raw_tokens=4 * 256, steps_per_canvas=((4, 0), (3, 8)))
    planned = dataclasses.replace(planned, cell=dataclasses.replace(planned.cell, block_length=256))
    assert METRICS["post_eos_waste"].compute(one, planned) == 1 - 400 / 1024
    assert METRICS["canvas_fill"].compute(one, planned) == (100 / 256 + 300 / 512) / 2
