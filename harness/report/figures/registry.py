"""Every figure of the page, in the order of the page. A new one is a function and a line here.

The page shows FIGURES slice by slice first, then PAGE_FIGURES, each once.
"""

from __future__ import annotations

from harness.report.figures import (
    assumptions,
    canvases,
    content,
    heat_map,
    parts,
    peers,
    proxy,
    quality,
    settling,
    steps,
    throughput,
    tradeoff,
    waste,
)
from harness.report.figures.base import FigureKind, PageFigureKind

FIGURES = (
    FigureKind(name="throughput", question=throughput.QUESTION, draw=throughput.throughput),
    FigureKind(name="speedup", question=heat_map.QUESTION, draw=heat_map.heat_map),
    FigureKind(name="peers", question=peers.QUESTION, draw=peers.peers),
    FigureKind(name="steps", question=steps.QUESTION, draw=steps.steps),
    FigureKind(name="parts", question=parts.QUESTION, draw=parts.parts),
    FigureKind(name="quality", question=quality.QUESTION, draw=quality.quality, is_wide=True),
    FigureKind(name="tradeoff", question=tradeoff.QUESTION, draw=tradeoff.tradeoff, is_wide=True),
    FigureKind(name="proxy", question=proxy.QUESTION, draw=proxy.proxy, is_wide=True),
    FigureKind(name="canvases", question=canvases.QUESTION, draw=canvases.canvases),
    FigureKind(name="content", question=content.QUESTION, draw=content.content, is_wide=True),
    FigureKind(name="settling", question=settling.QUESTION, draw=settling.settling, is_wide=True),
    FigureKind(name="assumptions", question=assumptions.QUESTION, draw=assumptions.assumptions, is_wide=True),
    FigureKind(name="waste", question=waste.QUESTION, draw=waste.waste, is_wide=True),
)
PAGE_FIGURES: tuple[PageFigureKind, ...] = ()
