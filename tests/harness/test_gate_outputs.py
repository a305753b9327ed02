"""What is rendered from a verdict, for people and for CI.

To accept a deliberate change of the golden texts:
CANVASBENCH_UPDATE_GOLDEN=1 pytest tests/harness/test_gate_outputs.py
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from synthetic import Scenario, write_run
from verdicts import EXAMPLE, example, only, with_cells

from harness import cli
from harness.analysis.verdict import State
from harness.report.gate import entries as lines_of
from harness.report.gate.annotations import MOST, annotations_text
from harness.report.gate.benchmark_json import benchmark_json
from harness.report.gate.html import page
from harness.report.gate.junit import junit_text
from harness.report.gate.markdown import comment_text, marker, summary_text
from harness.report.gate.outputs import OUTPUTS, write_outputs
from harness.report.gate.terminal import terminal_text
from harness.spec.gate_rules import GateRule

GOLDEN = Path(__file__).parents[1] / "golden"
RED = {State.OUTPUT_CHANGED, State.BROKEN, State.MISSING, State.REGRESSED, State.INCOMPARABLE, State.NO_BASELINE}


@pytest.mark.parametrize("name", ["verdict.txt", "summary.md", "comment.md", "junit.xml", "annotations.txt"])
def test_the_text_outputs_are_golden(name: str) -> None:
    seen = OUTPUTS[name](example())
    golden = GOLDEN / f"gate_{name}"
    if os.environ.get("CANVASBENCH_UPDATE_GOLDEN"):
        golden.write_text(seen, encoding="utf-8")
    assert seen == golden.read_text(encoding="utf-8")


def test_every_output_is_written_and_equal_verdicts_give_equal_bytes(tmp_path: Path) -> None:
    first, second = (write_outputs(example(), tmp_path / name) for name in ("a", "b"))
    assert {path.name for path in first} == set(OUTPUTS)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_the_first_words_of_every_text_are_the_verdict_and_what_to_do() -> None:
    verdict = example()
    assert terminal_text(verdict).startswith(verdict.headline)
    assert summary_text(verdict).startswith("**RED: 3 cells are incomplete")
    assert comment_text(verdict).splitlines()[1].startswith("**RED: 3 cells are incomplete")
    assert annotations_text(verdict).startswith(f"::error title=canvasbench::{verdict.headline}")
    assert re.search(r"<main>\s*<section[^>]*>\s*<h2[^>]*>May I merge\?</h2>\s*<p[^>]*>RED: 3 cells", page(verdict))
    assert ElementTree.fromstring(junit_text(verdict)).find(".//failure").attrib["message"] == verdict.headline


def test_rules_of_the_suite_that_no_cell_has_a_value_for_are_named() -> None:
    verdict = only(State.OK)
    rule = GateRule(metric="passes")
    of = {"request_time": rule, "flops": rule, "memory": replace(rule, enabled=False)}
    rules = {name: asdict(one) for name, one in of.items()}
    shown = lines_of.notes(replace(verdict, settings={"rules": rules}))
    assert shown[0] == "rules without a value in any cell: flops"
    nothing_compared = only(State.INCOMPARABLE)
    assert "without a value" not in terminal_text(replace(nothing_compared, settings={"rules": rules}))


def test_the_terminal_wraps_a_long_reason_and_shows_its_end() -> None:
    verdict = only(State.INCONCLUSIVE)
    reason = f"{'3.1 % slower, ' * 14}and slowdowns of 8.0 % or more would show"
    shown = terminal_text(with_cells(verdict, [replace(verdict.cells[0], reason=reason, rules=())]))
    assert " ".join(reason.split()) in " ".join(shown.split())
    table = shown.split("\n\n")[1].splitlines()
    assert max(map(len, table)) <= 114
    assert all(line.startswith("    ") for line in table[2:])


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("inconclusive", ["warn", "fail"])
def test_junit_fails_where_and_only_where_the_exit_code_is_not_zero(state: State, inconclusive: str) -> None:
    verdict = only(state, inconclusive=inconclusive)
    suite = ElementTree.fromstring(junit_text(verdict)).find("testsuite")
    assert (suite.get("failures") == "0") == (verdict.exit_code == 0)
    cell_failures = suite.findall("testcase/failure")[1:]
    assert bool(cell_failures) == (verdict.exit_code != 0)


def test_junit_has_one_case_a_rule_and_cell_and_a_failure_for_each_red_one() -> None:
    verdict = example()
    suite = ElementTree.fromstring(junit_text(verdict)).find("testsuite")
    num_rules = sum(len(cell.rules) or 1 for cell in verdict.cells)
    cases = suite.findall("testcase")
    assert int(suite.get("tests")) == len(cases) == num_rules + 1
    failed = {
        case.find("properties/property[@name='state']").get("value")
        for case in cases[1:]
        if case.find("failure") is not None
    }
    assert failed == {str(state) for state in RED | {State.BROKEN_BOTH}}  # 1 of 15 cells is beyond the budget
    assert int(suite.get("failures")) == len(suite.findall("testcase/failure"))


def test_junit_holds_value_baseline_and_noise_as_numbers() -> None:
    root = ElementTree.fromstring(junit_text(only(State.REGRESSED)))
    found = {p.get("name"): p.get("value") for p in root.findall(".//testcase[3]/properties/property")}
    assert (float(found["value"]), float(found["baseline"])) == (0.2196, 0.2002)
    assert float(found["noise"]) == pytest.approx(0.0055, abs=1e-4)  # (log 1.104 - log 1.092) / 2


def test_cells_that_fail_on_both_sides_are_red_only_beyond_their_budget() -> None:
    few = with_cells(example(), [*only(State.OK, times=99).cells, *only(State.BROKEN_BOTH).cells])
    assert few.exit_code == 0
    assert not [entry for entry in lines_of.entries(few) if entry.is_red]
    assert [entry for entry in lines_of.entries(only(State.BROKEN_BOTH)) if entry.is_red]


def test_worse_states_come_first_and_then_what_stands_out_most_from_its_noise() -> None:
    states = [entry.state for entry in lines_of.by_cell(example())]
    assert states == sorted(states, key=list(State).index)
    (cell,) = only(State.IMPROVED).cells
    ratios = (0.92, 0.80, 0.88)
    cells = [
        replace(
            cell, cell_id=str(ratio), rules=(replace(cell.rules[0], ratio=ratio, low=0.9 * ratio, high=1.1 * ratio),)
        )
        for ratio in ratios
    ]
    shown = lines_of.by_cell(with_cells(example(), cells))
    assert [entry.cell.cell_id for entry in shown] == ["0.8", "0.88", "0.92"]


def test_an_exact_counter_that_changed_stands_out_most() -> None:
    counter, time = lines_of.by_cell(only(State.REGRESSED))
    assert (counter.name, time.name) == ("forwards", "request_time")
    assert counter.change_over_noise == float("inf")
    assert 15 < time.change_over_noise < 20  # log 1.098 / 0.00546


@pytest.mark.parametrize("num_cells", [1, 9, 10, 11, 200])
def test_there_are_at_most_ten_annotations_and_the_rest_is_counted(num_cells: int) -> None:
    lines = annotations_text(only(State.MISSING, times=num_cells)).splitlines()
    assert len(lines) == min(num_cells + 1, MOST)
    assert all(re.fullmatch(r"::(error|warning|notice) title=[^:,]+::[^:].*", line) for line in lines)
    told = sum(line.startswith("::error") for line in lines[1:])
    left = re.search(r"::(\d+) more cell", lines[-1])
    assert told + (int(left[1]) if left else 0) == num_cells


def test_a_per_cent_sign_in_an_annotation_is_escaped() -> None:
    assert "9.8 %25 slower" in annotations_text(only(State.REGRESSED))


def test_a_green_verdict_is_a_notice_and_never_an_error() -> None:
    assert annotations_text(only(State.OK)).startswith("::notice title=canvasbench::GREEN")


@pytest.mark.parametrize(("text_of", "limit"), [(summary_text, 1024 * 1024), (comment_text, 64 * 1024)])
@pytest.mark.parametrize("state", [State.MISSING, State.OK])
def test_markdown_stays_under_githubs_limits_and_counts_what_it_leaves_out(text_of, limit: int, state: State) -> None:
    num_cells = 10_000
    long = [replace(cell, label="<" * 400, reason="&" * 400) for cell in only(state, times=num_cells).cells]
    text = text_of(with_cells(example(), long))
    assert len(text.encode()) < limit
    left = sum(int(number.replace(",", "")) for number in re.findall(r"^([\d,]+) cells? left out", text, re.MULTILINE))
    assert 0 < left < num_cells
    assert len(re.findall(rf"^\| {state} ", text, re.MULTILINE)) + left == num_cells


def test_twenty_cells_stand_open_in_the_summary_and_the_rest_is_folded() -> None:
    opened, folded = summary_text(only(State.MISSING, times=30)).split("<details>")
    assert (opened.count("| MISSING |"), folded.count("| MISSING |")) == (20, 10)


def test_the_comments_marker_names_its_suite_and_ends_no_comment() -> None:
    assert marker(example()) == "<!-- canvasbench-gate smoke -->"
    evil = marker(replace(example(), suite="a --> <b>\n"))
    assert evil.count("-->") == 1
    assert comment_text(example()).startswith(marker(example()) + "\n")


def test_the_terminal_shows_twenty_cells_and_counts_the_rest() -> None:
    text = terminal_text(only(State.MISSING, times=30))
    assert text.count("MISSING  ") == 20
    assert "10 more cells in verdict.json" in text


def test_a_shift_of_all_cells_that_no_cell_shows_is_named() -> None:
    for text in (terminal_text(example()), summary_text(example()).replace("\\", ""), page(example())):
        assert "all cells: request_time +2.1 % (+1.5 % to +2.7 %; 5 cells, 3 pairs): slower as a whole" in text


@pytest.mark.parametrize("better", ["lower", "higher"])
def test_the_benchmark_json_has_every_value_once_under_a_name_of_its_own(better: str) -> None:
    rows = json.loads(benchmark_json(example(), better))
    rules = [rule for cell in example().cells for rule in cell.rules if rule.better == better]
    assert sorted(row["value"] for row in rows) == sorted(rule.head for rule in rules)
    assert len({row["name"] for row in rows}) == len(rows)
    assert all({"name", "unit", "value", "range", "extra"} == set(row) for row in rows)


def test_the_page_folds_what_is_unchanged_and_draws_a_known_interval() -> None:
    shown, folded = page(example()).split("<details>")
    assert ">REGRESSED<" in shown
    assert ">OK<" not in shown
    assert ">OK<" in folded
    rules = [rule for cell in example().cells for rule in cell.rules if rule.low is not None]
    assert shown.count("<svg") == sum(rule.state not in lines_of.UNCHANGED for rule in rules) == 5


def test_the_report_opens_with_the_verdict_it_is_given(tmp_path: Path) -> None:
    run, output = str(write_run(tmp_path, Scenario())), tmp_path / "page.html"
    assert cli.main(["report", run, "-q", "-o", str(output)]) == 0
    assert "<dt>May I merge?</dt>" in output.read_text(encoding="utf-8")  # among what could not be drawn, and why
    assert cli.main(["report", run, "-q", "-o", str(output), "--verdict", str(EXAMPLE)]) == 0
    page = output.read_text(encoding="utf-8")
    first = re.search(r"<main>\s*<section[^>]*>\s*<h2[^>]*>([^<]*)", page)
    assert first[1] == "May I merge?"
    assert "<dt>May I merge?</dt>" not in page


def test_a_damaged_verdict_is_no_section_but_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, damaged = str(write_run(tmp_path, Scenario())), tmp_path / "verdict.json"
    damaged.write_text("{}")
    assert cli.main(["report", run, "-o", str(tmp_path / "page.html"), "--verdict", str(damaged)]) == cli.USAGE
    assert capsys.readouterr().err.startswith(f"error: {damaged}: ")
    assert not (tmp_path / "page.html").exists()
