"""How many steps canvases took, and for which kind of prompt, counted over every row of every finished round."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np

from harness.analysis.rows import CellRow
from harness.analysis.run_data import Run
from harness.analysis.summary import Share, Summary, summarise_share
from harness.analysis.values import prompt_of
from harness.records.types import Round

FEWEST_FOR_TENTHS = 10  # canvases: with fewer, nine of ten of them are no number of canvases


@dataclass(frozen=True, kw_only=True, slots=True)
class Category:
    """One kind of prompt in some cells of equal num_steps and stopping. A canvas after a row's end is left out."""

    name: str
    taken: Counter[int]  # steps -> canvases
    cap: int | None  # None: stopping is not adaptive
    canvas_fill: float | None
    exact_match: Summary | None

    @property
    def mean_steps(self) -> float | None:
        return sum(steps * count for steps, count in self.taken.items()) / self.taken.total() if self.taken else None

    @property
    def cap_share(self) -> float | None:
        return self.taken[self.cap] / self.taken.total() if self.cap and self.taken else None

    @property
    def capped_step_share(self) -> float | None:
        """Of all steps, those of canvases that took as many as they may."""
        steps = sum(steps * count for steps, count in self.taken.items())
        return self.cap * self.taken[self.cap] / steps if self.cap and steps else None

    def to_json(self) -> dict[str, Any]:
        return {
            "category": self.name,
            "canvases": self.taken.total(),
            "steps_per_canvas": {
                "p10": quantile(self.taken, 0.1),
                "p50": quantile(self.taken, 0.5),
                "p90": quantile(self.taken, 0.9),
                "max": max(self.taken, default=None),
                "mean": self.mean_steps,
            },
            "cap_share": self.cap_share,
            "capped_step_share": self.capped_step_share,
            "canvas_fill": self.canvas_fill,
            "exact_match": None if self.exact_match is None else self.exact_match._asdict(),
        }


def quantile(taken: Counter[int], share: float) -> int | None:
    """The fewest steps by which at least this share of the canvases has stopped; None where they are too few to say."""
    if not taken or (share != 0.5 and taken.total() < FEWEST_FOR_TENTHS):
        return None
    return int(np.quantile(list(taken.elements()), share, method="inverted_cdf"))


def steps_taken(run: Run, cell_ids: Iterable[str]) -> Counter[int]:
    """Steps -> how many canvases of these cells took so many, over all launches."""
    records = (record for cell_id in cell_ids for record in run.ok_records(cell_id))
    rounds = (round for record in records for round in record.rounds)
    return Counter(steps for round in rounds for row in round.steps_per_canvas for steps in row if steps)


def by_category(run: Run, rows: Iterable[CellRow]) -> list[Category]:
    """Categories of the prompts that these cells answered, by name. All cells have equal num_steps and stopping."""
    found: dict[str, _Found] = defaultdict(_Found)
    cap = None
    for row in rows:
        cap = row.cell.num_steps if row.cell.stopping == "adaptive" else None
        for launch, round in _rounds(run, row):
            for i, useful in enumerate(round.useful_tokens):
                category = round.categories[i] if round.categories else row.cell.prompt_set
                steps = [n for n in round.steps_per_canvas[i] if n] if round.steps_per_canvas else []
                one = found[category]
                one.steps.extend(steps)
                if steps and row.cell.block_length:
                    one.fills.append(useful / (row.cell.block_length * len(steps)))
                exact = round.exact[i] if round.exact else None
                if exact is not None:
                    share = Share(part=exact, whole=1, prompt=prompt_of(round, i, row.cell))
                    one.graded.setdefault(launch, {}).setdefault(round.index, []).append(share)
    return [
        Category(
            name=name,
            taken=Counter(one.steps),
            cap=cap,
            canvas_fill=fmean(one.fills) if one.fills else None,
            exact_match=_summary(one),
        )
        for name, one in sorted(found.items())
    ]


@dataclass(slots=True)
class _Found:
    steps: list[int] = field(default_factory=list)  # of every canvas
    fills: list[float] = field(default_factory=list)
    graded: dict[int, dict[int, list[Share]]] = field(default_factory=dict)  # launch -> round -> rows


def _summary(found: _Found) -> Summary | None:
    by_launch = [list(rounds.values()) for rounds in found.graded.values()]
    return summarise_share(by_launch, "share") if by_launch else None


def _rounds(run: Run, row: CellRow) -> Iterator[tuple[int, Round]]:
    for record in run.ok_records(row.cell_id):
        for round in record.rounds:
            yield record.launch, round
