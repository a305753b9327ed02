"""One plan on several machines: how it is split, and what a part says of itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_cli import harness

from harness.spec.config import ConfigError
from harness.spec.plan import Plan, build, identified, work_of
from harness.spec.plan_json import to_json
from harness.spec.suite import compose

WORDS = ("backend=fake", "axes.batch_size=[1,2,4,8]", "axes.block_length=[16]", "axes.num_steps=[2,4]")


def plan_of(*words: str) -> Plan:
    return identified(build(compose([*WORDS, *words], backends=["fake", "reference"])), {})


def own_ids(plan: Plan) -> list[str]:
    return [planned.cell.cell_id for group in plan.own_groups for planned in group]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_the_shares_of_all_shards_are_the_suite_and_no_cell_is_in_two(count: int) -> None:
    shares = [own_ids(plan_of(f"shard={i}/{count}")) for i in range(1, count + 1)]
    assert sorted(cell_id for share in shares for cell_id in share) == sorted(p.cell.cell_id for p in plan_of().cells)


def test_twins_stay_together() -> None:
    for i in (1, 2, 3):
        plan = plan_of(f"shard={i}/3")
        ids = set(own_ids(plan))
        assert all(p.twin_id in ids for p in plan.cells if p.cell.cell_id in ids and p.twin_id)


@pytest.mark.parametrize("suite", ["suite=h100", "suite=cpu"])
def test_no_two_shares_differ_by_more_work_than_the_heaviest_group(suite: str) -> None:
    plans = [build(compose([suite, f"shard={i}/3"], backends=["reference"])) for i in (1, 2, 3)]
    loads = [sum(work_of(p) for group in plan.own_groups for p in group) for plan in plans]
    heaviest = max(sum(work_of(p) for p in group) for group in plans[0].groups.values())
    assert max(loads) - min(loads) <= heaviest * 1.000001


def test_a_shard_has_the_plan_and_the_run_id_of_the_whole_suite() -> None:
    whole, part = to_json(plan_of()), to_json(plan_of("shard=2/3"))
    assert part["run_id"] == whole["run_id"]
    assert [c["cell_id"] for c in part["cells"]] == [c["cell_id"] for c in whole["cells"]]


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1/0", "1", "1/3/5", "a/b", "-1/3", "''", "1.5/3"])
def test_a_share_that_does_not_exist_is_refused(shard: str) -> None:
    with pytest.raises(ConfigError, match=r"shard: .* expected i/n"):
        plan_of(f"shard={shard}")


def test_plan_shows_the_share_and_its_cells_alone(tmp_path: Path) -> None:
    done = harness("plan", *WORDS, "shard=2/4", folder=tmp_path)
    assert "shard 2/4: 3 of these cells" in done.stdout
    assert done.stdout.count("mini_mix 48->96") == 3


def test_a_shard_that_measured_its_share_is_complete(tmp_path: Path) -> None:
    done = harness("run", *WORDS, "shard=2/4", "--json", folder=tmp_path)
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert (document["coverage"]["planned"], document["coverage"]["missing"]) == (3, 0)
    assert any("shard 2/4: 9 cells" in warning for warning in document["warnings"])


def test_a_failed_cell_of_its_own_share_makes_a_shard_incomplete(tmp_path: Path) -> None:
    assert harness("run", *WORDS, "shard=2/4", "options.fail=error", folder=tmp_path).returncode == 3


def test_shards_in_one_folder_are_one_run_that_a_command_without_shard_reports(tmp_path: Path) -> None:
    for i in (1, 2):
        harness("run", *WORDS, f"shard={i}/2", "reports_dir=null", folder=tmp_path)
    before = {path.name for path in tmp_path.glob("results/smoke/*/records-*")}
    whole = harness("run", *WORDS, "--json", folder=tmp_path)
    assert whole.returncode == 0
    assert json.loads(whole.stdout)["coverage"]["ok"] == 12
    assert {path.name for path in tmp_path.glob("results/smoke/*/records-*")} == before


def test_an_empty_share_says_how_many_there_can_be(tmp_path: Path) -> None:
    done = harness("run", *WORDS, "shard=5/5", folder=tmp_path)
    assert (done.returncode, done.stdout) == (4, "")
    assert "n is at most 4, one share a group" in done.stderr
