"""docs/fairness.md says what enforces each demand: all of it exists, and what no other test covers is tested here."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import check_fairness
import pytest
from synthetic import write_run
from test_session import Notes, plan_of, run

from harness.analysis.analyse import analyse
from harness.analysis.metrics import METRICS
from harness.analysis.run_data import load_run
from harness.measuring import cell as live_cell
from harness.measuring import environment
from harness.records import store
from harness.records.types import Cell
from harness.report.headlines import tiles
from harness.report.qualifiers import qualifiers
from harness.report.slices import conditions, slices_of
from harness.report.terminal import result_text
from harness.report.wording import BASELINE
from harness.spec import suite
from harness.spec.check import _check_honesty
from harness.spec.config import Axes, ConfigError, ModelSource, SuiteConfig

ROOT = Path(__file__).resolve().parents[2]
NOT_YET = "not enforced yet: "


def rows() -> list[list[str]]:
    """[number, demand, enforced by, tested by] of every row."""
    lines = (ROOT / "docs" / "fairness.md").read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if re.match(r"\| \d", line)]


def names_in(path: Path) -> set[str]:
    """Functions and classes of a file, methods as Class.method."""

    def walk(node: ast.AST, prefix: str) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                yield prefix + child.name
                yield from walk(child, f"{prefix}{child.name}.")

    return set(walk(ast.parse(path.read_text(encoding="utf-8")), ""))


def missing(text: str) -> list[str]:
    """Of the places that a cell of the table names, those that do not exist."""
    wrong = []
    for place in re.findall(r"`([^`]+)`", text):
        file, _, name = place.partition("::")
        if not (ROOT / file).is_file() or (name and name not in names_in(ROOT / file)):
            wrong.append(place)
    return wrong


def test_every_demand_of_the_checklist_has_a_row() -> None:
    assert {int(re.match(r"\d+", row[0]).group()) for row in rows()} == set(range(1, 16))  # type: ignore[union-attr]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_a_demand_is_enforced_and_tested_by_what_exists_or_says_why_not(row: list[str]) -> None:
    _, _, enforced_by, tested_by = row
    if enforced_by.startswith(NOT_YET):
        assert len(enforced_by) > len(NOT_YET) + 20 and not tested_by
    else:
        assert "`" in enforced_by and "`tests/" in tested_by
        assert missing(enforced_by) + missing(tested_by) == []


@pytest.mark.parametrize("row", [row for row in rows() if not row[2].startswith(NOT_YET)], ids=lambda row: row[0])
def test_a_demand_has_a_removal_that_one_of_its_tests_must_notice(row: list[str]) -> None:
    removals = [one for one in check_fairness.mutations() if one["row"] == row[0]]
    assert removals
    for one in removals:
        assert f"`{one['test']}`" in row[3]
        assert f"`{one['file']}" in row[2]
    assert set(re.findall(r"`(tests/[^`]+)`", row[3])) == {one["test"] for one in removals}
    assert {place.split("::")[0] for place in re.findall(r"`([^`]+::[^`]+)`", row[2])} <= {r["file"] for r in removals}


@pytest.mark.parametrize("removal", check_fairness.mutations(), ids=lambda one: f"{one['row']} {one['file']}")
def test_a_removal_of_enforcement_still_fits_the_code(removal: dict[str, str]) -> None:
    before = (ROOT / removal["file"]).read_text(encoding="utf-8")
    assert check_fairness.mutated(before, removal) != before


def test_a_removal_that_no_longer_fits_is_refused() -> None:
    with pytest.raises(ValueError, match="0 times, expected once"):
        check_fairness.mutated("a = 1", {"file": "a.py", "find": "b = 1", "become": ""})


def test_a_name_that_does_not_exist_would_be_found() -> None:
    wrong = ["harness/cli.py::nothing", "nowhere.py"]
    assert missing("`harness/cli.py::run`, `" + "`, `".join(wrong) + "`") == wrong


def test_an_environment_says_what_machine_and_software_it_was() -> None:
    here = environment.collect()
    assert {"gpu", "num_gpus", "cpu", "cpu_count", "memory_bytes"} <= here.identity.keys()
    assert {"driver", "python", "system", "packages", "project_commit", "project_dirty"} <= here.stack.keys()
    assert here.stack["packages"]["torch"]
    assert {"load_1min", "affinity_cpus", "governor"} <= here.circumstance.keys()


def test_context_and_output_length_are_swept_over_the_edges_of_canvases() -> None:
    context, output_length = (
        suite.compose([f"suite={name}"], backends=["reference"]).axes for name in ("context", "output_length")
    )
    assert {1024, 8192, 32768} <= set(context.prompt_tokens)
    assert {16, 64, 256, 257, 1024} <= set(output_length.output_tokens)
    assert 256 in output_length.block_length


def test_every_speedup_is_said_to_be_over_plain_autoregressive_decoding(tmp_path: Path) -> None:
    analysis = analyse([load_run(write_run(tmp_path))])
    assert any("speedup_vs_ar" in row.metrics for row in analysis.rows)
    assert any("neither multi-token prediction nor a draft model" in text for text in qualifiers(analysis))
    tile = next(tile for tile in tiles(analysis.headlines[0], analysis) if tile.name.startswith("speed-up"))
    assert BASELINE in tile.notes
    assert BASELINE in result_text(analysis)
    assert all(BASELINE in conditions(part, "") for part in slices_of(analysis))
    assert "no speculation" in BASELINE and "no speculation" in METRICS["speedup_vs_ar"].formula


def test_speculative_decoding_and_made_up_acceptance_are_refused() -> None:
    words = {
        "axes.decoding=[speculative]": "no acceptance rate can stand in for it",
        "+acceptance_rate=0.8": "unknown key 'acceptance_rate'",
    }
    for word, message in words.items():
        with pytest.raises(ConfigError, match=message):
            suite.compose(["suite=smoke", word], backends=["reference"])


@pytest.mark.parametrize(
    ("trained", "prompt_set", "message"),
    [(False, "code", "needs trained weights"), (True, "random", "random token ids never converge")],
)
def test_random_ids_and_untrained_weights_are_refused_with_adaptive_stopping(
    trained: bool, prompt_set: str, message: str
) -> None:
    axes = Axes(stopping=["adaptive"], prompt_set=[prompt_set])
    with pytest.raises(ConfigError, match=message):
        _check_honesty(SuiteConfig(model=ModelSource(trained=trained), axes=axes))


def test_wall_time_is_that_of_the_whole_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Notes):
        """Everything takes time by a clock of its own: only generate's may be charged."""

        now = 0.0

        def prepare(self, cell: Cell, texts: tuple[str, ...], seed: int) -> int:
            self.now += 100
            return super().prepare(cell, texts, seed)

        def generate(self, cell: Cell, prepared: int) -> Any:
            self.now += 3
            answer = super().generate(cell, prepared)
            self.now += 2  # what follows the last block is part of the request, too
            return answer

        def tokenizer(self) -> None:
            self.now += 100

    backend = Slow()
    for clock in ("perf_counter", "process_time"):
        monkeypatch.setattr(live_cell, clock, lambda: backend.now)
    run(plan_of("axes.batch_size=[1]"), tmp_path, backend)
    times = {(r.wall_s, r.cpu_s) for record in store.read_records(tmp_path).records for r in record.rounds}
    assert times == {(5.0, 5.0)}
