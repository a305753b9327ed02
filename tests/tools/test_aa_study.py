"""The study of the method: both arms do the same work, the slower one a share more, and exclusions are counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median

import aa_simulation
import aa_study
import numpy
import pytest
from aa_study import BACKEND, CPU, ORDERS, SUITES, WALL, OneEngine, Outcome, measure, neighbours, outcome_of, work_of
from synthetic import Scenario, write_run

from engine.model import Model
from harness.analysis.analyse import analyse
from harness.analysis.rows import CellRow
from harness.analysis.run_data import Run, load_run
from harness.analysis.summary import summarise
from harness.measuring.backends.base import Answer
from harness.records.types import AUTOREGRESSIVE, Cell
from harness.spec.config import ConfigError, Protocol
from harness.spec.plan import Plan, build
from harness.spec.suite import compose

SMALL = ("axes.batch_size=[1]", "axes.prompt_tokens=[8]", "axes.output_tokens=[16]")
FIXED = ("protocol.warmup_rounds=0", "protocol.max_warmup_rounds=null", "protocol.rounds=2", "protocol.max_rounds=null",
         "protocol.counters=false")  # fmt: skip


def plan_of(*words: str) -> Plan:
    return build(compose(["suite=aa_study", *words], config_dir=str(SUITES), backends=[BACKEND]))


def measured(folder: Path, *words: str, order: str = "interleaved") -> Run:
    return load_run(measure((*SMALL, *FIXED, *words), folder, order))


def passes(run: Run) -> dict[str, set[int]]:
    """Decoding -> how many passes its rounds took in all."""
    found: dict[str, set[int]] = {}
    for record in run.final.values():
        for round in record.rounds:
            found.setdefault(record.cell.decoding, set()).add(sum(json.loads(round.resolved["work"]).values()))
    return found


def calls_of_the_model(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Of every pass that the model itself runs from now on."""
    calls: Counter[str] = Counter()
    for name in ("encode", "denoise", "causal_logits"):
        own = getattr(Model, name)

        def counted(self: Model, *args: object, own: object = own, name: str = name, **kwargs: object) -> object:
            calls[name] += 1
            return own(self, *args, **kwargs)  # type: ignore[operator]

        monkeypatch.setattr(Model, name, counted)
    return calls


def test_the_suite_has_thirty_groups_of_two() -> None:
    assert [len(group) for group in plan_of().groups.values()] == [2] * 30


def test_both_arms_do_the_same_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = calls_of_the_model(monkeypatch)
    run = measured(tmp_path)
    assert passes(run) == {AUTOREGRESSIVE: {20}, "block_diffusion": {20}}  # two canvases of nine steps, each after one
    assert calls == {"denoise": 2 * 2 * 18, "encode": 2 * 2 * 2}  # two arms, two rounds


def test_both_arms_give_the_same_tokens(tmp_path: Path) -> None:
    run = measured(tmp_path, "protocol.counters=true")
    answers = [record.counters["output_ids"] for record in run.final.values()]
    assert len(answers) == 2 and answers[0] == answers[1]


def test_the_slower_arm_takes_the_stated_share_of_passes_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = calls_of_the_model(monkeypatch)
    run = measured(tmp_path, "options.slower=0.1")
    assert passes(run) == {AUTOREGRESSIVE: {22}, "block_diffusion": {20}}
    assert calls["denoise"] + calls["encode"] == 2 * (22 + 20)


@pytest.mark.parametrize("slower", [0.0, 0.1, 0.2, 1.0])
def test_every_cell_of_the_suite_is_slowed_by_the_share(slower: float) -> None:
    def steps(cell: Cell) -> int:
        work = work_of(cell)
        assert work.num_steps is not None
        return work.num_steps + 1  # with the prefill or the commit before them

    for group in plan_of(*([f"options.slower={slower}"] if slower else [])).groups.values():
        slow, fast = (steps(planned.cell) for planned in group)
        assert slow / fast == pytest.approx(1 + slower)


def test_a_share_that_is_no_whole_number_of_passes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"0\.03 of 10 passes"):
        measured(tmp_path, "options.slower=0.03")


@pytest.mark.parametrize("order", ORDERS)
def test_a_run_of_either_order_passes_the_self_check(tmp_path: Path, order: str) -> None:
    run = measured(tmp_path, order=order)
    assert analyse([run]).self_check.broken == ()
    assert {(record.status, record.warnings) for record in run.final.values()} == {("ok", ())}


@pytest.mark.parametrize(("order", "changes"), [("sequential", 1), ("interleaved", 3)])
def test_arms_take_all_their_rounds_in_a_stretch_or_in_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str, changes: int
) -> None:
    asked: list[str] = []

    class Listener(OneEngine):
        def generate(self, cell: Cell, prepared: object) -> Answer:
            asked.append(cell.decoding)
            return super().generate(cell, prepared)

    monkeypatch.setattr(aa_study, "OneEngine", Listener)
    measured(tmp_path, "protocol.rounds=4", order=order)
    assert Counter(asked) == {AUTOREGRESSIVE: 4, "block_diffusion": 4}
    assert sum(a != b for a, b in pairwise(asked)) >= changes
    assert (asked[:4] == [asked[0]] * 4) == (order == "sequential")


def rows_with(folder: Path, *ratios: list[float]) -> list[CellRow]:
    """Rows whose speed-ups have these values in their rounds, and their twins."""
    rows = analyse([load_run(write_run(folder, Scenario(on_cpu=True)))]).rows
    base = next(row for row in rows if not row.is_autoregressive)
    changed = [
        replace(base, metrics={**base.metrics, CPU: summarise([values], "x"), WALL: summarise([[1.0] * 6], "x")})
        for values in ratios
    ]
    return [*(row for row in rows if row.is_autoregressive), *changed]


def test_intervals_without_1_are_counted_on_both_sides_and_those_with_it_are_not(tmp_path: Path) -> None:
    above, below = [1.02, 1.03, 1.04, 1.05, 1.06, 1.07], [0.92, 0.93, 0.94, 0.95, 0.96, 0.97]
    around, touching = [0.98, 0.99, 1.0, 1.01, 1.02, 1.03], [1.0, 1.01, 1.02, 1.03, 1.04, 1.05]
    rows = rows_with(tmp_path, above, below, around, touching)
    assert (outcome_of(rows, CPU).cells, outcome_of(rows, CPU).leaving_1_out) == (4, 2)
    assert outcome_of(rows, WALL).leaving_1_out == 0


def test_the_half_width_is_that_of_the_median_cell_as_a_share_of_its_speed_up(tmp_path: Path) -> None:
    narrow, wide, widest = [2.0] * 6, [1.8, *[2.0] * 4, 2.2], [1.0, *[2.0] * 4, 3.0]
    found = outcome_of(rows_with(tmp_path, narrow, wide, widest), CPU)  # six rounds: from the least to the greatest
    assert found == Outcome(cells=3, leaving_1_out=2, half_width=pytest.approx(0.1), speed_up=2.0, confidence=0.96875)


def test_a_cell_without_a_speed_up_is_no_silent_gap(tmp_path: Path) -> None:
    rows = analyse([load_run(write_run(tmp_path, Scenario()))]).rows  # on a GPU nothing is compared in CPU time
    with pytest.raises(KeyError):
        outcome_of(rows, CPU)


def test_neighbours_are_there_for_the_block_and_gone_after_it() -> None:
    def children() -> list[str]:
        out = subprocess.run(["ps", "-o", "args=", "--ppid", str(os.getpid())], capture_output=True, text=True)
        return [line for line in out.stdout.splitlines() if "noisy_neighbour" in line]

    with neighbours(2):
        assert len(children()) == 2
    assert children() == []


def ratios_of(noise: str, protocol: Protocol, *, interleaved: bool, trials: int = 200) -> list[list[float]]:
    draws = (numpy.random.default_rng([7, i]) for i in range(trials))
    return [aa_simulation.trial(aa_simulation.NOISES[noise], protocol, d, interleaved=interleaved) for d in draws]


CI = Protocol(rounds=6, max_rounds=15, half_width=0.05)


@pytest.mark.parametrize("noise", sorted(aa_simulation.NOISES))
def test_interleaved_intervals_hold_the_truth_as_often_as_they_say_under_any_noise(noise: str) -> None:
    share = aa_simulation.share_without_1(ratios_of(noise, CI, interleaved=True))
    assert share < 0.095  # 5 %, and three standard deviations of 200 trials


def test_sequential_intervals_do_not_under_drift() -> None:
    assert aa_simulation.share_without_1(ratios_of("drift", CI, interleaved=False)) > 0.2


def test_a_simulated_group_stops_between_the_least_and_the_most_rounds() -> None:
    rounds = [len(ratios) for ratios in ratios_of("heavy tails", CI, interleaved=True)]
    assert (min(rounds), max(rounds)) == (6, 15)
    assert 6 < median(rounds) < 15


def test_the_command_prints_a_row_for_each_order_and_refuses_impossible_overrides(tmp_path: Path) -> None:
    tool = [sys.executable, str(Path(aa_simulation.__file__).with_name("aa_study.py")), "--out", str(tmp_path)]
    done = subprocess.run([*tool, *SMALL, *FIXED], capture_output=True, text=True, check=True)
    assert [line.split(" | ")[0] for line in done.stdout.splitlines()[2:]] == ["| interleaved", "| sequential"]
    refused = subprocess.run([*tool, "axes.batch_sizes=[1]"], capture_output=True, text=True)
    assert (refused.returncode, "nearest valid" in refused.stderr) == (2, True)
