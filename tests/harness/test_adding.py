"""docs/adding.md done for real: every block of it is put outside the package, and measured with."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_cli import harness
from whole import with_data

from engine.sampling import SAMPLERS
from harness.analysis.analyse import Analysis, analyse
from harness.analysis.metrics import METRICS
from harness.analysis.run_data import load_run
from harness.measuring import environment
from harness.measuring.backends import registry
from harness.measuring.jobs import due_jobs
from harness.measuring.session import Session
from harness.records import store
from harness.records.journal import RoundJournal
from harness.report import frame, tables
from harness.spec import published
from harness.spec.plan import build, identified
from harness.spec.plan_json import to_json
from harness.spec.suite import compose

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adding.md"
BLOCKS = dict(re.findall(r"^```\w+ (\S+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with the files of the page, whose Python can be imported."""
    folder = tmp_path / "outside"
    for name, text in BLOCKS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.fixture
def toy_metric(outside: Path) -> Iterator[str]:
    before = set(METRICS)
    runpy.run_path(str(outside / "toy_metric.py"))
    (name,) = set(METRICS) - before
    yield name
    del METRICS[name]


def measured(folder: Path, outside: Path, *words: str) -> Analysis:
    """The toy suite planned, measured in this process, and read again from disk."""
    config = compose(["suite=toy", *words], config_dir=str(outside), backends=list(registry.BACKENDS))
    plan = identified(build(config), {})
    here = environment.collect()
    store.write_environment(folder, here)
    store.write_atomic(folder / "plan.json", json.dumps(to_json(plan)))
    writer, journal = store.RecordWriter(folder, "w"), RoundJournal(folder, "w")
    session = Session(
        plan=plan, run_id="r", worker="w", environment_id=here.environment_id, writer=writer, journal=journal,
        backends=registry.create_all(config), tell=lambda event: None,
    )  # fmt: skip
    for job in due_jobs(plan, {}):
        session.measure(job)
    writer.close()
    journal.close()
    return analyse([load_run(folder)])


def toy(monkeypatch: pytest.MonkeyPatch) -> str:
    """The override that chooses the toy backend, registered."""
    monkeypatch.setitem(registry.BACKENDS, "toy", ("toy_backend", "ToyBackend", None))
    return "backend=toy"


def test_the_page_has_a_block_for_each_thing_that_can_be_added() -> None:
    assert set(BLOCKS) == {
        "device/toy_gpu.yaml", "model/toy_model.yaml", "protocol/toy_protocol.yaml", "prompts/toy_prompts.jsonl",
        "prompts/toy_checked.jsonl", "suite/toy.yaml", "toy_backend.py", "toy_metric.py", "toy_figure.py",
        "toy_sampler.py", "toy_published.yaml",
    }  # fmt: skip


def test_a_gpu_type_gives_every_cell_its_floor(outside: Path, tmp_path: Path) -> None:
    done = harness(
        "plan", "suite=toy", "device=toy_gpu", "--json", "--config-dir", str(outside), folder=tmp_path
    )  # fmt: skip
    plan = json.loads(done.stdout)
    assert plan["device"]["display_name"] == "Toy GPU"
    assert all(cell["floor_s"] > 0 for cell in plan["cells"])


def test_a_gpu_type_is_refused_on_a_machine_without_it(outside: Path, tmp_path: Path) -> None:
    words = ("run", "suite=toy", "device=toy_gpu", "backend=fake", "--config-dir", str(outside))
    assert harness(*words, folder=tmp_path).returncode == 4


def test_a_suite_with_its_model_protocol_and_prompts_runs_from_the_command_line(outside: Path, tmp_path: Path) -> None:
    done = harness("run", "suite=toy", "--json", "--config-dir", str(outside), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["coverage"]["ok"], document["coverage"]["skipped"]) == (5, 1)
    (run,) = document["runs"]
    assert (run["suite"], run["model"], run["protocol"]["rounds"]) == ("toy", "toy_model", 2)
    assert {cell["cell"]["prompt_set"] for cell in document["cells"]} == {"toy_prompts"}


def test_a_checked_prompt_set_is_graded_by_category(outside: Path, tmp_path: Path) -> None:
    analysis = measured(tmp_path / "run", outside, "axes.prompt_set=[toy_checked]", "axes.batch_size=[2]")
    for row in analysis.rows:
        assert (row.metrics["exact_match"].value, row.metrics["exact_match"].n_prompts) == (0.0, 2)  # random weights
    assert {category.name for one in analysis.settings for category in one.categories} == {"sums", "words"}


def test_a_backend_is_measured(outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    analysis = measured(tmp_path / "run", outside, toy(monkeypatch))
    assert {row.status for row in analysis.rows} == {"ok"}
    assert all("speedup_vs_ar" in row.metrics for row in analysis.rows if not row.is_autoregressive)


def test_what_a_backend_cannot_do_is_a_result(outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    analysis = measured(tmp_path / "run", outside, toy(monkeypatch), "eos=respect")
    assert {(row.status, row.reason) for row in analysis.rows} == {("unsupported", "the toy knows no end of sequence")}
    assert not analysis.is_incomplete


def test_a_metric_is_on_every_row_and_can_be_a_column_of_the_page(
    outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy_metric: str
) -> None:
    analysis = measured(tmp_path / "run", outside, toy(monkeypatch))
    assert all(toy_metric in row.metrics for row in analysis.rows)
    assert analysis.to_json()["metrics"][toy_metric]["formula"].startswith("useful_tok_s / rows")
    monkeypatch.setitem(tables._METRICS, toy_metric, ("tok/s of a row", "", 1))
    assert "tok/s of a row" in with_data(frame.build_page(analysis))


def test_a_figure_is_on_the_page(outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = runpy.run_path(str(outside / "toy_figure.py"))
    monkeypatch.setattr(frame, "FIGURES", (*frame.FIGURES, figure["TOY"]))
    page = with_data(frame.build_page(measured(tmp_path / "run", outside, toy(monkeypatch))))
    assert figure["QUESTION"] in page
    assert "s at most." in page


def test_a_published_figure_and_a_claim_are_judged(
    outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped, toys = (yaml.safe_load(path.read_text()) for path in (published.PATH, outside / "toy_published.yaml"))
    path = tmp_path / "published.yaml"
    path.write_text(yaml.safe_dump({**shipped, **{key: [*shipped[key], *toys[key]] for key in toys}}))
    monkeypatch.setattr(published, "PATH", path)
    analysis = measured(tmp_path / "run", outside, toy(monkeypatch))
    claim, figure = analysis.claims[-1], analysis.published[-1]
    assert (claim.claim.id, claim.verdict) == ("toy", "reproduced")  # 2 and 4 steps for 16 tokens of a pass each
    assert figure.figure.id == "toy-h100"
    assert 0.4 < (figure.share or 0) < 0.6
    assert claim.claim.claim in with_data(frame.build_page(analysis))


def test_a_sampler_decodes(outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler: Any = runpy.run_path(str(outside / "toy_sampler.py"))["toy_sampler"]
    monkeypatch.setitem(SAMPLERS, "toy", sampler)
    analysis = measured(tmp_path / "run", outside, "options.sampler=toy")
    (run,) = analysis.runs.values()
    used = {r.resolved.get("sampler") for record in run.final.values() for r in record.rounds}
    assert {row.status for row in analysis.rows} == {"ok"}
    assert used == {"toy", None}  # autoregressive decoding has none
