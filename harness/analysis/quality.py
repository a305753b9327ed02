"""Quality beside speed: what one setting gives over all its prompts, and who is faster at equal quality."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from harness.analysis.canvases import Category, by_category
from harness.analysis.metrics import METRICS, Missing
from harness.analysis.rows import CellRow
from harness.analysis.run_data import CellPlan, Run
from harness.analysis.summary import Summary, summarise, summarise_share
from harness.analysis.values import inputs_of, values_of
from harness.records import processes
from harness.records.types import Cell, equal_but_for, to_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Cells of a run that are equal in all but their prompt set, together: one setting over all its prompts.

    Where some prompt sets have checkers, only their cells are here, so that speed and quality speak of equal prompts.
    speedup_vs_ar: of the time that all prompt sets take together, no mean of ratios. tpf_denoise: the mean of theirs.
    prompts: those that were graded.
    """

    run_id: str
    rows: tuple[CellRow, ...]
    exact_match: Summary | None
    speedup_vs_ar: Summary | None
    tpf_denoise: Summary | None
    categories: tuple[Category, ...]
    prompts: frozenset[Hashable]

    @property
    def cell(self) -> Cell:
        """Any cell of the setting: for what all of them share."""
        return self.rows[0].cell

    @property
    def mean_steps(self) -> float | None:
        """Of a canvas."""
        taken = [one for one in self.categories if one.taken]
        canvases = sum(one.taken.total() for one in taken)
        return sum((one.mean_steps or 0) * one.taken.total() for one in taken) / canvases if canvases else None

    def to_json(self) -> dict[str, Any]:
        cell = to_json(self.cell)
        del cell["prompt_set"]
        pooled = ("exact_match", "speedup_vs_ar", "tpf_denoise")
        return {
            "run_id": self.run_id,
            "setting": cell,
            "prompt_sets": [row.cell.prompt_set for row in self.rows],
            "cell_ids": [row.cell_id for row in self.rows],
            "mean_steps": self.mean_steps,
            **{name: None if (s := getattr(self, name)) is None else s._asdict() for name in pooled},
            "categories": [category.to_json() for category in self.categories],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class IsoQuality:
    """Of settings with one twin: the fastest of those whose exact match is at least the twin's, on equal prompts.

    reached: None where no setting is as good. best: the one with the highest exact match, by which to judge the miss.
    """

    autoregressive: Setting
    reached: Setting | None
    best: Setting
    num_compared: int

    def to_json(self) -> dict[str, Any]:
        def side(setting: Setting | None) -> dict[str, Any] | None:
            return None if setting is None else {**setting.to_json(), "categories": None}

        return {
            "run_id": self.best.run_id,
            "reached": side(self.reached),
            "best": side(self.best),
            "autoregressive": side(self.autoregressive),
            "settings_compared": self.num_compared,
        }


def settings_of(runs: Mapping[str, Run], rows: Iterable[CellRow]) -> list[Setting]:
    """The measured settings of these rows, in plan order. runs: run id -> run."""
    grouped: dict[tuple[str, Hashable], list[CellRow]] = {}
    for row in rows:
        if row.metrics:
            grouped.setdefault((row.run_id, _key(row.cell)), []).append(row)
    settings = [_graded_or_all(members) for members in grouped.values()]
    pooled = processes.of_each(
        lambda members: _setting(runs[members[0].run_id], members),
        settings,
        is_worth_it=sum(map(len, settings)) >= processes.WORTH_IT,
    )
    return [replace(one, rows=members) for one, members in zip(pooled, settings, strict=True)]


def _graded_or_all(rows: list[CellRow]) -> tuple[CellRow, ...]:
    return tuple(row for row in rows if "exact_match" in row.metrics) or tuple(rows)


def iso_quality_of(settings: Sequence[Setting]) -> list[IsoQuality]:
    """One for each autoregressive setting that settings on the same prompts can be compared with."""
    found = []
    for twin in settings:
        if not twin.rows[0].is_autoregressive or twin.exact_match is None:
            continue
        key = _key(twin.cell)
        alike = [
            one
            for one in settings
            if not one.rows[0].is_autoregressive and _key(one.cell.twin) == key and one.prompts == twin.prompts
        ]
        compared = [one for one in alike if one.exact_match is not None and one.speedup_vs_ar is not None]
        if compared:
            found.append(_iso_quality(twin, compared))
    return found


def quality(setting: Setting) -> float:
    """Of a graded setting."""
    assert setting.exact_match is not None
    return setting.exact_match.value


def speed(setting: Setting) -> float:
    """Of a setting that has a speed-up."""
    assert setting.speedup_vs_ar is not None
    return setting.speedup_vs_ar.value


def _iso_quality(twin: Setting, compared: list[Setting]) -> IsoQuality:
    as_good = [one for one in compared if quality(one) >= quality(twin)]
    return IsoQuality(
        autoregressive=twin,
        reached=max(as_good, key=speed, default=None),
        best=max(compared, key=lambda one: (quality(one), speed(one))),
        num_compared=len(compared),
    )


def _key(cell: Cell) -> Hashable:
    return equal_but_for(cell, "prompt_set")


def _setting(run: Run, rows: Sequence[CellRow]) -> Setting:
    """Without its rows, which whoever asks for it has."""
    planned = [run.planned[row.cell_id] for row in rows]
    is_graded = "exact_match" in rows[0].metrics
    exact_match, prompts = _exact_match(run, planned) if is_graded else (None, frozenset())
    return Setting(
        run_id=rows[0].run_id,
        rows=(),
        exact_match=exact_match,
        speedup_vs_ar=_speedup(run, planned),
        tpf_denoise=_over_prompt_sets(run, "tpf_denoise", planned),
        categories=tuple(by_category(run, rows)),
        prompts=prompts,
    )


def _exact_match(run: Run, planned: list[CellPlan]) -> tuple[Summary, frozenset[Hashable]]:
    """Over the rows of all prompt sets alike."""
    by_launch: dict[int, list[Any]] = {}
    for one in planned:
        for launch, rounds in values_of(METRICS["exact_match"], one, run).items():
            by_launch.setdefault(launch, []).extend(rounds)
    prompts = frozenset(row.prompt for rounds in by_launch.values() for rows in rounds for row in rows)
    return summarise_share(list(by_launch.values()), METRICS["exact_match"].unit), prompts


def _over_prompt_sets(run: Run, name: str, planned: list[CellPlan]) -> Summary | None:
    """The metric's mean over prompt sets, round by round; None unless all of them have it."""
    by_set = [values_of(METRICS[name], one, run) for one in planned]
    launches = set(by_set[0]).intersection(*by_set)
    by_launch = [
        [fmean(values) for values in zip(*(one[launch] for one in by_set), strict=False)] for launch in sorted(launches)
    ]
    return summarise(by_launch, METRICS[name].unit) if by_launch else None


def _speedup(run: Run, planned: list[CellPlan]) -> Summary | None:
    """Rounds of one index of all prompt sets are taken as one long round of each side."""
    metric = METRICS["speedup_vs_ar"]
    pairs: dict[int, dict[int, list[Any]]] = {}  # launch -> round -> (round, the twin's) of each prompt set
    for one in planned:
        for record in run.ok_records(one.cell_id):
            try:
                for pair in inputs_of(metric.scope, one, record, run):
                    pairs.setdefault(record.launch, {}).setdefault(pair[0].index, []).append(pair)
            except Missing:
                continue
    by_launch = [
        [_ratio(all_sets) for all_sets in rounds.values() if len(all_sets) == len(planned)] for rounds in pairs.values()
    ]
    whole = [ratios for ratios in by_launch if ratios]
    return summarise(whole, metric.unit) if whole else None


def _ratio(pairs: Sequence[tuple[Any, Any]]) -> float:
    def tok_s(rounds: Iterable[Any]) -> float:
        rounds = list(rounds)
        return float(sum(sum(round.useful_tokens) for round in rounds) / sum(round.wall_s for round in rounds))

    return tok_s(one for one, _ in pairs) / tok_s(twin for _, twin in pairs)
