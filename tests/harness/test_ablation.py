"""Cells that differ in options alone: one group, a twin each, and a ratio to the cell without options."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic import Scenario, write_run
from whole import with_data

from harness.analysis.analyse import analyse
from harness.analysis.run_data import load_run
from harness.report.frame import build_page
from harness.spec.config import ConfigError
from harness.spec.plan import build
from harness.spec.suite import compose

AXIS = "axes.options=[{},{sampler: plain}]"


def test_options_of_an_axis_are_laid_over_the_suites_and_measured_in_one_group() -> None:
    plan = build(compose(["suite=cpu", "options.linear=plain", AXIS, "axes.batch_size=[1]"], backends=["reference"]))
    (group,) = plan.groups.values()
    by_id = {planned.cell_id: planned.cell for planned in group}
    assert {planned.cell.options.get("sampler") for planned in group} == {None, "plain"}
    assert all(planned.cell.options["linear"] == "plain" for planned in group)
    assert all(p.cell.options == by_id[p.twin_id].options for p in group if p.twin_id)


def test_options_named_twice_or_no_dictionary_are_refused() -> None:
    for words, message in (("[{},{}]", "names a value twice"), ("[plain]", "options")):
        with pytest.raises(ConfigError, match=message):
            compose([f"axes.options={words}"], backends=["reference"])


def test_the_slowdown_is_the_ratio_to_the_cell_without_its_options_and_the_page_shows_it(tmp_path: Path) -> None:
    axes = {"batch_size": [1], "block_length": [128], "num_steps": [8], "options": [{}, {"sampler": "plain"}]}
    analysis = analyse([load_run(write_run(tmp_path, Scenario(axes=axes)))])
    assert "slowdown_vs_default" in with_data(build_page(analysis))
    rows = {(row.is_autoregressive, "sampler" in row.cell.options): row for row in analysis.rows}
    for is_autoregressive in (True, False):
        default, plain = (rows[is_autoregressive, has_option] for has_option in (False, True))
        assert "slowdown_vs_default" not in default.metrics
        ratio = plain.metrics["request_s"].value / default.metrics["request_s"].value
        assert plain.metrics["slowdown_vs_default"].value == pytest.approx(ratio, rel=0.1)
