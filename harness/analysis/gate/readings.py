"""What launches say of a metric: a value for each round, for each prompt, for a pair."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Any

from harness.analysis.gate.samples import Pair, Sample
from harness.analysis.metrics import Metric, Missing
from harness.analysis.values import inputs_of, prompt_of
from harness.records.types import Round

Key = tuple[int, int]  # index and seed of a round; a record's own values have those of its first round


def by_round(metric: Metric, cell_id: str, sample: Sample | None) -> dict[Key, float]:
    """Round -> value; {} where the cell did not count, or the metric cannot be had."""
    record = sample.record(cell_id) if sample is not None else None
    run = sample.run_of(cell_id) if sample is not None else None
    if run is None or record is None or not record.rounds:
        return {}
    first = record.rounds[0]
    values: dict[Key, float] = {}
    try:
        for inputs in inputs_of(metric.scope, run.planned[cell_id], record, run):
            of = inputs[0] if isinstance(inputs[0], Round) else first
            try:
                values[of.index, of.seed] = _value(metric, inputs)
            except Missing:
                continue
    except Missing:
        pass
    return values


def mean_over_rounds(metric: Metric, cell_id: str, samples: Sequence[Sample]) -> float | None:
    """Of the first launch that has the metric: what no clock decides repeats in the others."""
    found = next((of for one in samples if (of := by_round(metric, cell_id, one))), None)
    return None if found is None else fmean(found.values())


def _value(metric: Metric, inputs: tuple[Any, ...]) -> float:
    if metric.scope != "share":
        return metric.compute(*inputs)
    parts = [part for part in metric.parts(*inputs) if part]
    return sum(part[0] for part in parts) / sum(part[1] for part in parts)


@dataclass(frozen=True, slots=True)
class Paired:
    """What a pair of launches says of a metric.

    base, head: median over the rounds that both have. ratio: median over them of head / base, round by round, because
    equal rounds do equal work and, where sides take turns, did it at nearly the same time; NaN where there is none.
    """

    base: float
    head: float
    ratio: float


def paired(metric: Metric, cell_id: str, pair: Pair, left_out: Collection[Key]) -> Paired | None:
    """Of a pair of launches; None where they have no round in common."""
    base, head = (by_round(metric, cell_id, sample) for sample in pair)
    common = (base.keys() & head.keys()) - set(left_out)
    if not common:
        return None
    ratios = [head[key] / base[key] for key in common if base[key] > 0 and head[key] > 0]
    return Paired(
        base=median(base[key] for key in common),
        head=median(head[key] for key in common),
        ratio=median(ratios) if ratios else float("nan"),
    )


def by_prompt(metric: Metric, cell_id: str, samples: Sequence[Sample]) -> dict[Any, float]:
    """Prompt -> mean value of the rows that answered it, in the first launch that has any: repeated launches draw the
    same, and are no new evidence. A row counts as a batch of its own.
    """
    for sample in samples:
        record, run = sample.record(cell_id), sample.run_of(cell_id)
        if record is None or run is None:
            continue
        planned = run.planned[cell_id]
        found: dict[Any, list[float]] = {}
        for one in record.rounds:
            for row in range(len(one.useful_tokens)):
                try:
                    found.setdefault(prompt_of(one, row, planned.cell), []).append(
                        _value(metric, (_row(one, row), planned))
                    )
                except Missing:
                    continue
        if found:
            return {prompt: fmean(values) for prompt, values in found.items() if values}
    return {}


_ROW_FIELDS = ("steps_per_canvas", "useful_tokens", "prompt_ids", "categories", "exact", "token_accuracy")


def _row(one: Round, row: int) -> Round:
    """The round as if it had this row alone, and so as many denoise passes as the row took steps."""
    kept: dict[str, Any] = {
        name: (values[row],) for name in _ROW_FIELDS if (values := getattr(one, name)) and len(values) > row
    }
    if "steps_per_canvas" in kept:
        kept["passes"] = {**one.passes, "denoise": sum(one.steps_per_canvas[row])}
    return replace(one, **kept)
