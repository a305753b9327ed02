"""Every figure of the page, in the order of the page. A new one is a function and a line here."""

from __future__ import annotations

from harness.report.figures import canvases, heat_map, steps, throughput
from harness.report.figures.base import FigureKind

FIGURES = (
    FigureKind(name="throughput", question=throughput.QUESTION, draw=throughput.throughput),
    FigureKind(name="speedup", question=heat_map.QUESTION, draw=heat_map.heat_map),
    FigureKind(name="steps", question=steps.QUESTION, draw=steps.steps),
    FigureKind(name="canvases", question=canvases.QUESTION, draw=canvases.canvases),
)
