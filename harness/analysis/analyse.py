"""From runs to everything that a page, a table or another program shows of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from harness.analysis.apart import names_apart, same_cell_warnings
from harness.analysis.claims import Judgement, judge_claims
from harness.analysis.crossover import Line, lines_of
from harness.analysis.headline import Headline, headline_of
from harness.analysis.metrics import METRICS
from harness.analysis.prediction import Predictions, predict
from harness.analysis.published import Judged, judge
from harness.analysis.quality import IsoQuality, Setting, iso_quality_of, settings_of
from harness.analysis.ranges import Ranges, ranges_of
from harness.analysis.rows import INCOMPLETE_STATUSES, MISSING, CellRow, rows_of
from harness.analysis.run_data import Run, SkippedCell
from harness.analysis.self_check import SelfCheck, self_check_of
from harness.records.types import FAILED_STATUSES, PRUNED
from harness.spec.published import load_published

REPORT_SCHEMA = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Analysis:
    """All rows of all runs. `runs` maps the run id that a row carries to its run."""

    runs: dict[str, Run]
    rows: tuple[CellRow, ...]
    skipped: tuple[tuple[str, SkippedCell], ...]  # (run id, cell)
    lines: tuple[Line, ...]
    headlines: tuple[Headline, ...]  # one a run
    settings: tuple[Setting, ...]  # of the runs that know of quality or of adaptive stopping
    warnings: tuple[str, ...]
    apart: dict[str, str]  # run id -> what tells it from other runs on its device; "" where there are none
    usd_per_hour: Mapping[str, float]  # device -> a price given in place of its file's
    claims: tuple[Judgement, ...]  # the launch's claims, judged by all rows

    @property
    def iso_quality(self) -> list[IsoQuality]:
        """Of every run and batch whose answers were graded."""
        return [
            one
            for run_id in self.runs
            for one in iso_quality_of([setting for setting in self.settings if setting.run_id == run_id])
        ]

    @property
    def predictions(self) -> Predictions:
        """Both decoders on every device file with roofs."""
        return predict(self.rows, self.runs, load_published(), self.published, self.usd_per_hour)

    @property
    def priced_devices(self) -> list[str]:
        """Names of the devices whose price changes anything here: those that ran, and those that are predicted."""
        ran = {run.device.name for run in self.runs.values()}
        return sorted(ran | {one.device.name for one in self.predictions.devices})

    @property
    def crossover_ranges(self) -> list[Ranges]:
        """Of every headline with a speed-up: over routings and step counts, measured and predicted."""
        return ranges_of(self.headlines, self.lines, self.runs)

    @property
    def published(self) -> list[Judged]:
        """What others published, beside its floors."""
        return judge(load_published())

    @property
    def self_check(self) -> SelfCheck:
        return self_check_of(record for run in self.runs.values() for record in run.final.values())

    @property
    def has_rows(self) -> bool:
        """Whether any cell came to an end, were it a bad one."""
        return any(row.status != MISSING or row.metrics for row in self.rows)

    @property
    def is_incomplete(self) -> bool:
        """Whether a cell ended in an error or a timeout, or has no record; out of memory is a result."""
        return any(row.status in INCOMPLETE_STATUSES for row in self.rows)

    def coverage(self, run_id: str | None = None) -> dict[str, int]:
        """How many cells were planned, and what became of them; skipped ones were not planned.

        failed: ended in an error or a timeout. oom and unsupported are results; pruned: not tried, because a smaller
        batch of the same line ran out of memory.
        """
        rows = [row for row in self.rows if run_id in (None, row.run_id)]
        statuses = Counter(row.status for row in rows)
        return {
            "planned": len(rows),
            "ok": statuses["ok"],
            "oom": statuses["oom"],
            "pruned": statuses[PRUNED],
            "unsupported": statuses["unsupported"],
            "failed": sum(statuses[status] for status in FAILED_STATUSES),
            "missing": statuses[MISSING],
            "skipped": sum(1 for owner, _ in self.skipped if run_id in (None, owner)),
        }

    def discarded(self, run_id: str) -> Counter[str]:
        """Why rounds of the run were thrown away -> how many."""
        return Counter(reason for record in self.runs[run_id].final.values() for reason in record.discarded)

    def to_json(self) -> dict[str, Any]:
        """The whole analysis as plain JSON values, in one fixed order."""
        return {
            "report_schema": REPORT_SCHEMA,
            "runs": [_run_json(run_id, run) for run_id, run in self.runs.items()],
            "metrics": {
                m.name: {"unit": m.unit, "better": m.better, "kind": m.kind, "formula": m.formula}
                for m in METRICS.values()
            },
            "headline": self.headlines[0].to_json() if self.headlines else {},
            "headlines": [headline.to_json() for headline in self.headlines],
            "coverage": self.coverage(),
            "cells": [row.to_json() for row in self.rows],
            "skipped": [
                {"run_id": run_id, "cell_id": s.cell_id, "cell": asdict(s.cell), "reason": s.reason}
                for run_id, s in self.skipped
            ],
            "crossovers": [line.to_json() for line in self.lines],
            "crossover_ranges": [one.to_json() for one in self.crossover_ranges],
            "settings": [setting.to_json() for setting in self.settings],
            "iso_quality": [one.to_json() for one in self.iso_quality],
            "claims": [one.to_json() for one in self.claims],
            "predictions": self.predictions.to_json(),
            "published": [one.to_json() for one in self.published],
            "self_check": self.self_check.to_json(),
            "warnings": list(self.warnings),
        }


def analyse(runs: Sequence[Run], usd_per_hour: Mapping[str, float] | None = None) -> Analysis:
    """Summarise every planned cell of the runs. A directory named twice counts once.

    usd_per_hour: the same prices that the runs were loaded with (harness/analysis/run_data.py::load_run).
    """
    by_id = _by_id(runs)
    apart = names_apart(by_id)
    rows = rows_of(by_id)
    return Analysis(
        runs=by_id,
        rows=tuple(rows),
        skipped=tuple((run_id, skipped) for run_id, run in by_id.items() for skipped in run.skipped),
        lines=tuple(lines_of(rows)),
        headlines=tuple(replace(headline_of(run, run_id, rows), apart=apart[run_id]) for run_id, run in by_id.items()),
        settings=tuple(settings_of(by_id, _where_settings_say_more(rows))),
        warnings=(*_named_twice(runs), *same_cell_warnings(by_id), *_warnings(by_id)),
        apart=apart,
        usd_per_hour=usd_per_hour or {},
        claims=tuple(judge_claims(rows, by_id, load_published())),
    )


def _where_settings_say_more(rows: Sequence[CellRow]) -> list[CellRow]:
    """Rows of the runs in which settings say more than their cells do: it takes another pass over all records."""
    known = {row.run_id for row in rows if "exact_match" in row.metrics or row.cell.stopping == "adaptive"}
    return [row for row in rows if row.run_id in known]


def _by_id(runs: Sequence[Run]) -> dict[str, Run]:
    """Runs under ids that are unique on the page; equal plans of two suites share a run_id."""
    distinct = {run.directory: run for run in runs}
    named: dict[str, Run] = {}
    for run in distinct.values():
        name, number = run.run_id, 1
        while name in named:
            number += 1
            name = f"{run.suite}/{run.run_id}" + (f" ({number})" if number > 2 else "")
        named[name] = run
    return named


def _named_twice(runs: Sequence[Run]) -> list[str]:
    counts = Counter(run.directory for run in runs)
    return [f"{path.name} was named {count} times and counts once" for path, count in counts.items() if count > 1]


def _warnings(runs: dict[str, Run]) -> list[str]:
    warnings = []
    for run_id, run in runs.items():
        prefix = f"{run_id}: " if len(runs) > 1 else ""
        warnings += [prefix + warning for warning in run.warnings]
        said: dict[str, list[str]] = {}
        for record in run.final.values():
            for warning in record.warnings:
                said.setdefault(warning, []).append(record.cell.label)
        for warning, labels in said.items():
            others = f" and {len(labels) - 1} more records" if len(labels) > 1 else ""
            warnings.append(f"{prefix}{warning} ({labels[0]}{others})")
        warnings += [prefix + warning for warning in run.machine_warnings]
    return warnings


def _run_json(run_id: str, run: Run) -> dict[str, Any]:
    plan = run.plan
    return {
        "suite": run.suite,
        "run_id": run_id,
        "description": plan.get("description", ""),
        "environment_ids": sorted(run.environments),
        "device": plan["device"]["name"],
        "device_name": run.device_name,
        "model": plan["model"].get("name", ""),
        "trained": run.is_trained,
        "trained_block_length": run.trained_block_length,
        "protocol": plan["protocol"],
        "seed": plan.get("seed"),
        "weights_hash": (plan.get("provenance") or {}).get("weights_hash"),
        "source_hash": (plan.get("provenance") or {}).get("source_hash"),
        "command": plan.get("command"),
    }
