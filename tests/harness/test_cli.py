"""The command line as a user meets it: exit codes, stdout, stderr."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from apart import ENVIRONMENT

TINY = ("backend=fake", "axes.batch_size=[1,2]", "axes.block_length=[16]", "axes.num_steps=[2]")
UNREPORTED = (*TINY, "reports_dir=null")  # a page takes longer than all that comes before it


def harness(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=ENVIRONMENT, timeout=300)


def test_run_measures_writes_records_and_leaves_a_page(tmp_path: Path) -> None:
    done = harness("run", *TINY, folder=tmp_path)
    assert (done.returncode, done.stderr.count("error")) == (0, 0)
    assert len(list(tmp_path.glob("results/smoke/*/records-*.jsonl"))) == 1
    assert (tmp_path / "reports" / "smoke.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert "reports/smoke.html" in done.stdout


def test_the_same_run_again_measures_nothing_and_reports_the_same(tmp_path: Path) -> None:
    harness("run", *TINY, folder=tmp_path)
    page = (tmp_path / "reports" / "smoke.html").read_bytes()
    again = harness("run", *TINY, folder=tmp_path)
    assert again.returncode == 0
    assert len(list(tmp_path.glob("results/smoke/*/records-*.jsonl"))) == 1
    assert (tmp_path / "reports" / "smoke.html").read_bytes() == page


def test_fresh_measures_again_beside_the_old_run(tmp_path: Path) -> None:
    harness("run", *UNREPORTED, folder=tmp_path)
    harness("run", *UNREPORTED, "fresh=true", folder=tmp_path)
    assert len(list(tmp_path.glob("results/smoke/*/plan.json"))) == 2


def test_a_changed_stack_opens_a_new_run_and_says_what_changed(tmp_path: Path) -> None:
    harness("run", *UNREPORTED, folder=tmp_path)
    (old,) = tmp_path.glob("results/smoke/*")
    plan = json.loads((old / "plan.json").read_text())
    plan["provenance"]["stack"]["packages"]["torch"] = "1.0"
    (old / "plan.json").write_text(json.dumps(plan))
    old.rename(old.with_name("elsewhere"))
    again = harness("run", *UNREPORTED, folder=tmp_path)
    assert "a new run: since elsewhere, stack.packages.torch changed" in again.stderr


def test_run_json_is_json_alone_on_stdout(tmp_path: Path) -> None:
    document = json.loads(harness("run", *TINY, "--json", folder=tmp_path).stdout)
    assert document["coverage"]["ok"] == 4


def test_plan_json_is_json_alone_on_stdout_and_names_the_run_that_run_makes(tmp_path: Path) -> None:
    planned = json.loads(harness("plan", *TINY, "--json", folder=tmp_path).stdout)
    harness("run", *UNREPORTED, folder=tmp_path)
    assert (tmp_path / "results" / "smoke" / planned["run_id"]).is_dir()


def test_plan_writes_nothing(tmp_path: Path) -> None:
    harness("plan", "suite=h100", folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_options_and_words_may_come_in_any_order(tmp_path: Path) -> None:
    assert harness("plan", "--json", "suite=smoke", "-q", "seed=1", folder=tmp_path).returncode == 0


def test_cfg_job_prints_the_composed_suite(tmp_path: Path) -> None:
    assert "batch_size" in harness("run", "suite=h100", "--cfg", "job", folder=tmp_path).stdout


def test_report_takes_a_run_by_its_suites_name(tmp_path: Path) -> None:
    harness("run", *UNREPORTED, folder=tmp_path)
    done = harness("report", "smoke", "-o", "page.html", folder=tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "page.html").stat().st_size > 10_000


def test_a_failed_cell_makes_the_run_incomplete_and_the_page_is_still_written(tmp_path: Path) -> None:
    done = harness("run", *TINY, "options.fail=error", "options.fail_batch=2", folder=tmp_path)
    assert done.returncode == 3
    assert (tmp_path / "reports" / "smoke.html").is_file()


def test_out_of_memory_is_a_result_and_no_failure(tmp_path: Path) -> None:
    assert harness("run", *UNREPORTED, "options.fail=oom", "options.fail_batch=2", folder=tmp_path).returncode == 0


ERRORS = [
    (2, ["plan", "suite=h10"], "nearest valid: h100"),
    (2, ["run", "axes.batchsize=[1]"], "batch_size"),
    (2, ["run", "+typo=1"], "typo"),
    (2, ["measure"], "invalid choice"),
    (2, ["plan", "--jsn"], "unknown option"),
    (2, [], "required"),
    (2, ["report", "nowhere"], "no run by that name"),
    (2, ["run", "model.path=nowhere"], "nowhere"),
    (2, ["run", "--config-dir", "nowhere"], "is not a folder"),
    (2, ["run", "results_dir=/proc/nowhere"], "cannot be written"),
    (4, ["run", "suite=h100"], "no GPU"),
    (4, ["run", "axes.prompt_tokens=[9000]"], "all cells are skipped"),
]


@pytest.mark.parametrize(("code", "words", "message"), ERRORS, ids=[" ".join(e[1]) or "no verb" for e in ERRORS])
def test_an_error_is_one_short_message_with_its_exit_code(
    tmp_path: Path, code: int, words: list[str], message: str
) -> None:
    done = harness(*words, folder=tmp_path)
    assert done.returncode == code
    assert message in done.stderr
    assert 1 <= len(done.stderr.strip().splitlines()) <= 5
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
