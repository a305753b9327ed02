"""A badge for a README, as https://shields.io/badges/endpoint-badge reads it: one number, its device and its month."""

from __future__ import annotations

from typing import Any

from harness.analysis.analyse import Analysis
from harness.records.texts import plain, short
from harness.report.wording import is_clear, tok_s


def badge(analysis: Analysis) -> dict[str, Any]:
    """The first run's headline. Blue: block diffusion is clearly faster than its twin; orange: clearly slower; grey:
    the two cannot be told apart or were not compared.
    """
    headline = analysis.headlines[0] if analysis.headlines else None
    row = None if headline is None else headline.diffusion or headline.autoregressive
    if headline is None or row is None:
        return {"schemaVersion": 1, "label": "canvasbench", "message": "no cell finished", "color": "lightgrey"}
    month = max((r.started_at for r in analysis.runs[row.run_id].ok_records(row.cell_id)), default="")[:7]
    parts = [f"{tok_s(row.metrics['useful_tok_s'].value)} tok/s", short(headline.device, 30), plain(month)]
    label = "autoregressive" if row.is_autoregressive else "block diffusion"
    speedup = headline.speedup
    colour = "lightgrey" if speedup is None or not is_clear(speedup) else "blue" if speedup.value > 1 else "orange"
    made_up = " (synthetic)" if row.is_synthetic else " (simulated)" if row.is_simulated else ""
    return {"schemaVersion": 1, "label": label + made_up, "message": " · ".join(filter(None, parts)), "color": colour}
