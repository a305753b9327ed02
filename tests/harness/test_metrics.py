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
from scipy import stats
from synthetic import Scenario, plan_of, record_of, usual_pass_s, write_run

from harness.analysis.analyse import analyse
from harness.analysis.metrics import METRICS, Missing
from harness.analysis.run_data import CellPlan, load_run
from harness.analysis.stats import share_interval

Json = dict[str, Any]
SCENARIOS = {
    "fixed steps, eos ignored": Scenario(),
    "adaptive, eos respected, two launches": Scenario(eos="respect", launches=2, axes={"stopping": ["adaptive"]}),
    "one canvas, no roofs": Scenario(roofs=False, axes={"output_tokens": [128], "block_length": [128]}),
    "short answers": Scenario(axes={"output_tokens": [16], "block_length": [32]}),
    "graded, adaptive, two launches": Scenario(
        eos="respect", launches=2, quality=lambda cell: 0.6, observed=True, categories=("easy", "hard"),
        axes={"stopping": ["adaptive"], "prompt_set": ["code", "maths"], "batch_size": [1, 12]},
    ),
}  # fmt: skip


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
    "passes": lambda one, cell, entry: sum(one["passes"].values()),
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


def cap_share(one: Json, cell: Json) -> list[tuple[float, float]]:
    """Of each row: canvases at the cap, canvases."""
    rows = [[n for n in row if n] for row in one["steps_per_canvas"]]
    return [(sum(n == cell["num_steps"] for n in row), len(row)) for row in rows]


def capped_step_share(one: Json, cell: Json) -> list[tuple[float, float]]:
    return [(sum(n for n in row if n == cell["num_steps"]), sum(row)) for row in one["steps_per_canvas"]]


def mean_of(name: str) -> Callable[[Json, Json], list[tuple[float, float]]]:
    return lambda one, cell: [(value, 1) for value in one[name] or [] if value is not None]


# Metrics that pool the rows of all rounds: (part, whole) of each row.
SHARES = {
    "exact_match": mean_of("exact"),
    "token_accuracy": mean_of("token_accuracy"),
    "cap_share": cap_share,
    "capped_step_share": capped_step_share,
}


def tau_b(settled: list[int]) -> float | None:
    """Kendall's tau-b against the positions, by counting pairs."""
    pairs = [(settled[j] > settled[i]) - (settled[j] < settled[i]) for j in range(len(settled)) for i in range(j)]
    untied = sum(abs(sign) for sign in pairs)
    return sum(pairs) / math.sqrt(len(pairs) * untied) if untied else None


def left_to_right(line: Json, most: Json) -> float | None:
    taus = [tau_b(row) for canvas in line["counters"]["settled_steps"] for row in canvas]
    return mean([tau for tau in taus if tau is not None])


def agreement(line: Json, most: Json) -> float | None:
    if line is most:
        return None
    shares = []
    for mine, other in zip(line["counters"]["output_ids"], most["counters"]["output_ids"], strict=True):
        same = [i for i in range(min(len(mine), len(other))) if mine[i] == other[i]]
        shares.append(len(same) / max(len(mine), len(other)))
    return mean(shares)


# Metrics of the counting round: from a record's line, and that of the most steps at equal conditions.
COUNTED = {
    "left_to_right": left_to_right,
    "proxy_agreement": agreement,
    "proxy_nll_nats": lambda line, most: mean(line["counters"]["nll_nats"]),
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


@pytest.mark.parametrize("name", sorted(SHARES))
def test_a_share_pools_the_rows_of_all_rounds_and_launches(run_dir: Path, cells: dict[str, Json], name: str) -> None:
    lines = lines_of(run_dir)
    for cell_id, cell in cells.items():
        own = [line for line in lines if line["cell_id"] == cell_id]
        has_cap = own[0]["cell"]["stopping"] == "adaptive" or not name.startswith("cap")
        rows = [row for line in own for one in line["rounds"] for row in SHARES[name](one, line["cell"]) if has_cap]
        if sum(whole for _, whole in rows):
            value = sum(part for part, _ in rows) / sum(whole for _, whole in rows)
            assert cell["metrics"][name]["value"] == pytest.approx(value, rel=1e-12)
        else:
            assert cell["missing"][name]


@pytest.mark.parametrize("name", sorted(COUNTED))
def test_a_counted_metric_is_what_its_record_lines_say(run_dir: Path, cells: dict[str, Json], name: str) -> None:
    lines = lines_of(run_dir)
    for cell_id, cell in cells.items():
        own = [line for line in lines if line["cell_id"] == cell_id]
        if "nll_nats" not in own[0]["counters"] or (name != "proxy_nll_nats" and not own[0]["cell"]["num_steps"]):
            assert cell["missing"][name]
            continue
        values = []
        for line in own:
            alike = [x for x in lines if {**x["cell"], "num_steps": 0} == {**line["cell"], "num_steps": 0}]
            most = max((x for x in alike if x["launch"] == line["launch"]), key=lambda x: x["cell"]["num_steps"] or 0)
            values.append([COUNTED[name](line, most)])
        assert_same(cell, name, values)


def test_an_interval_of_a_share_counts_each_prompt_once(tmp_path: Path) -> None:
    """Two launches repeat their requests: 3 rounds of 12 rows are 36 prompts, as one launch says, too."""
    axes = {"batch_size": [12], "prompt_set": ["code"], "block_length": [128], "num_steps": [8]}
    found = []
    for launches in (1, 2):
        scenario = Scenario(axes=axes, launches=launches, quality=lambda cell: 0.6)
        (summary,) = (
            row.metrics["exact_match"]
            for row in analyse([load_run(write_run(tmp_path / str(launches), scenario))]).rows
            if not row.is_autoregressive
        )
        interval = stats.binomtest(round(summary.value * 36), 36).proportion_ci(0.95, method="wilson")
        assert (summary.low, summary.high) == pytest.approx((interval.low, interval.high))
        assert (summary.n_prompts, summary.basis, summary.n_launches) == (36, "over prompts", launches)
        found.append(summary)
    assert (found[0].low, found[0].high) == (found[1].low, found[1].high)


@pytest.mark.parametrize("right", [0, 1, 7, 12])
def test_an_interval_of_a_share_is_wilsons(right: int) -> None:
    interval, own = (
        stats.binomtest(right, 12).proportion_ci(0.95, method="wilson"),
        share_interval(right / 12, [1.0] * 12),
    )
    assert (own.low, own.high) == pytest.approx((interval.low, interval.high), abs=1e-15)


def test_unequal_weights_count_as_fewer_prompts() -> None:
    """All weight on 10 of 1000 prompts is hardly more than 10 prompts."""
    few, uneven = share_interval(0.3, [1.0] * 10), share_interval(0.3, [1.0] * 10 + [1e-6] * 990)
    assert (uneven.low, uneven.high) == pytest.approx((few.low, few.high), abs=1e-3)


@pytest.mark.parametrize("share", [(2.0, 1.0), (-1.0, 1.0)])
def test_what_is_no_share_is_missing(share: tuple[float, float]) -> None:
    one, planned = measured_round(token_accuracy=(share[0],))
    with pytest.raises(Missing, match="no share"):
        METRICS["token_accuracy"].parts(one, planned)


def test_every_metric_is_recomputed_here() -> None:
    elsewhere = {"cpu_speedup_vs_ar", "cold_s", "slowdown_vs_default"}  # test_two_clocks.py, test_ablation.py
    elsewhere |= {"measured_floor_share", "bound_share", "mbu", "mfu", "limit_speedup_vs_ar"}  # test_measured_floors.py
    elsewhere |= {"peer_speedup", "peer_step_speedup", "computing_over_moving"}  # test_peers.py, test_claims.py
    elsewhere |= {"peer_speedup", "peer_step_speedup"}  # test_peers.py
    elsewhere |= {"forwards", "torch_operations", "torch_flops", "torch_bytes", "peak_tensor_bytes"}  # below
    elsewhere |= {name for name, metric in METRICS.items() if metric.function.__module__.endswith(".energy")}
    assert set(METRICS) == {*EXPECTED, *SHARES, *COUNTED, *elsewhere, "speedup_vs_ar", "distinct_experts"}


@pytest.mark.parametrize("name", ["forwards", "torch_operations", "torch_flops", "torch_bytes", "peak_tensor_bytes"])
def test_a_gates_counter_is_the_records_own_or_missing(run_dir: Path, name: str) -> None:
    run = load_run(run_dir)
    planned = run.cells[0]
    record = run.final[planned.cell_id, 0]
    counted = dataclasses.replace(record, counters={name: 12345})
    assert METRICS[name].compute(counted, planned) == 12345
    for absent in ({}, {name: "many"}, {name: None}):
        with pytest.raises(Missing):
            METRICS[name].compute(dataclasses.replace(record, counters=absent), planned)


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
        ("straggler_share", {"useful_tokens": (), "steps_per_canvas": ()}, "no step counts"),
        ("straggler_share", {"row_passes": {}, "missing": {"passes": "a server"}}, "a server"),
        ("canvas_fill", {"steps_per_canvas": (), "missing": {"steps_per_canvas": "a server"}}, "a server"),
        ("post_eos_waste", {"raw_tokens": 0}, "no value"),
        ("useful_tokens_per_row", {"useful_tokens": ()}, "no value"),
    ],
)
def test_what_cannot_be_had_is_missing_with_a_reason(name: str, changes: Json, reason: str) -> None:
    with pytest.raises(Missing, match=reason):
        METRICS[name].compute(*measured_round(**changes))


@pytest.mark.parametrize(
    ("row_passes", "lost"),
    [({"denoise": 24}, 1 - 15 / 24), ({"denoise": 15}, 0.0)],
    ids=["a static batch", "rows leave"],
)
def test_rows_of_four_and_eleven_steps_lose_what_was_executed_beyond_them(
    row_passes: dict[str, int], lost: float
) -> None:
    """Two canvases of at most 4 and 8 steps: 12 passes. A static batch runs each for both rows."""
    one, planned = measured_round(steps_per_canvas=((4, 0), (3, 8)), row_passes=row_passes)
    assert METRICS["straggler_share"].compute(one, planned) == lost


def test_autoregressive_rows_of_two_and_five_tokens_lose_what_was_decoded_beyond_them() -> None:
    """The prefill gives each row's first token."""
    one, planned = measured_round(useful_tokens=(2, 5))
    planned = dataclasses.replace(planned, cell=planned.cell.twin)
    for decoded, lost in ((8, 1 - 7 / 10), (5, 0.0)):
        left = dataclasses.replace(one, row_passes={"prefill": 2, "decode": decoded})
        assert METRICS["straggler_share"].compute(left, planned) == lost


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
