"""How many steps canvases took, counted over every row of every finished round: nothing is averaged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from harness.analysis.run_data import Run


def steps_taken(run: Run, cell_ids: Iterable[str]) -> Counter[int]:
    """Steps -> how many canvases of these cells took so many, over all launches.

    A canvas after a row's end, where the row takes no step, is left out.
    """
    launches = range(int(run.plan["protocol"]["launches"]))
    records = (run.final.get((cell_id, launch)) for cell_id in cell_ids for launch in launches)
    return Counter(
        steps
        for record in records
        if record is not None and record.status == "ok"
        for round in record.rounds
        for row in round.steps_per_canvas
        for steps in row
        if steps
    )
