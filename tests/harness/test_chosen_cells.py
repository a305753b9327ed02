"""cells=[...] and reports_dir=null: a launch of the gate measures the cells it is asked for, and makes no page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.cli import main
from harness.records import store
from harness.spec.config import ConfigError
from harness.spec.plan import Plan, build
from harness.spec.suite import compose

WORDS = ("suite=smoke", "backend=fake", "axes.num_steps=[2,4]", "axes.stopping=[fixed]")


def plan_of(*words: str) -> Plan:
    return build(compose([*WORDS, *words], backends=["fake"]))


def ids_of(plan: Plan) -> list[str]:
    return [planned.cell_id for planned in plan.cells]


def word_of(ids: list[str]) -> str:
    return f"cells=[{','.join(map(repr, ids))}]"


def test_chosen_cells_are_the_plan_in_the_order_chosen() -> None:
    wanted = ids_of(plan_of())[::-2]
    assert ids_of(plan_of(word_of(wanted))) == wanted


def test_a_twin_that_is_not_chosen_is_no_twin_any_more() -> None:
    diffusion = next(planned for planned in plan_of().cells if planned.twin_id)
    assert diffusion.twin_id
    alone = plan_of(word_of([diffusion.cell_id])).cells
    both = plan_of(word_of([diffusion.twin_id, diffusion.cell_id])).cells
    assert [planned.twin_id for planned in alone] == [None]
    assert [planned.twin_id for planned in both] == [None, diffusion.twin_id]


def test_without_a_choice_all_cells_are_measured() -> None:
    assert len(plan_of().cells) == len(plan_of("cells=[]").cells) > 2


def test_an_unknown_id_is_refused_with_the_nearest() -> None:
    known = ids_of(plan_of())[0]
    with pytest.raises(ConfigError, match=f"is no cell of this suite; nearest valid: {known}"):
        plan_of(word_of([f"{known[:-1]}x"]))


def test_an_id_twice_and_a_skipped_cell_are_refused() -> None:
    plan = plan_of()
    with pytest.raises(ConfigError, match="twice"):
        plan_of(word_of(ids_of(plan)[:1] * 2))
    rule = "exclude=[{num_steps:[2],reason:no time}]"
    (skipped, *_) = plan_of(rule).skipped
    with pytest.raises(ConfigError, match="is skipped: excluded by the suite: no time"):
        plan_of(rule, word_of([skipped.cell.cell_id]))


def test_an_unknown_id_costs_a_user_one_message_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *WORDS, "cells=[1234]"]) == 2
    assert "write ids in quotes" in capsys.readouterr().err


@pytest.mark.parametrize(("fail", "code"), [("", 0), ("error", 3), ("oom", 0)])
def test_without_a_page_a_run_says_how_its_cells_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fail: str, code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = ids_of(plan_of(*([f"options.fail={fail}"] if fail else [])))[1:2]
    words = [*WORDS, word_of(chosen), "reports_dir=null", *([f"options.fail={fail}"] if fail else [])]
    assert main(["run", *words, "--json", "-q"]) == code
    told = json.loads(capsys.readouterr().out)
    assert told["page"] is None
    assert told["statuses"] == {fail or "ok": 1}
    assert [record.cell_id for record in store.read_records(Path(told["run_dirs"][0])).records] == chosen
    assert not (tmp_path / "reports").exists()
