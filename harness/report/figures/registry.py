"""Every figure of the page, in the order of the page. A new one is a function and a line here.

The page shows FIGURES slice by slice first, then PAGE_FIGURES, each once.
"""

from __future__ import annotations

from harness.report.figures import (
    assumptions,
    canvases,
    content,
    energy,
    experts,
    heat_map,
    heat_map_together,
    interactivity,
    latency,
    merge,
    parts,
    peers,
    prediction,
    proxy,
    published,
    quality,
    roofline,
    settling,
    steps,
    throughput,
    throughput_together,
    tradeoff,
    trend,
    trust,
    waste,
)
from harness.report.figures.base import FigureKind, PageFigureKind

FIGURES = (
    FigureKind(
        name="throughput",
        question=throughput.QUESTION,
        draw=throughput.throughput,
        draw_together=throughput_together.throughput_together,
    ),
    FigureKind(
        name="speedup",
        question=heat_map.QUESTION,
        draw=heat_map.heat_map,
        draw_together=heat_map_together.heat_map_together,
    ),
    FigureKind(name="peers", question=peers.QUESTION, draw=peers.peers),
    FigureKind(name="steps", question=steps.QUESTION, draw=steps.steps),
    FigureKind(name="quality", question=quality.QUESTION, draw=quality.quality, is_wide=True),
    FigureKind(name="tradeoff", question=tradeoff.QUESTION, draw=tradeoff.tradeoff, is_wide=True),
    FigureKind(name="proxy", question=proxy.QUESTION, draw=proxy.proxy, is_wide=True),
    FigureKind(name="interactivity", question=interactivity.QUESTION, draw=interactivity.interactivity),
    FigureKind(name="latency", question=latency.QUESTION, draw=latency.latency),
    FigureKind(name="parts", question=parts.QUESTION, draw=parts.parts),
    FigureKind(name="roofline", question=roofline.QUESTION, draw=roofline.roofline),
    FigureKind(name="experts", question=experts.QUESTION, draw=experts.experts, is_wide=True),
    FigureKind(name="canvases", question=canvases.QUESTION, draw=canvases.canvases),
    FigureKind(name="content", question=content.QUESTION, draw=content.content, is_wide=True),
    FigureKind(name="settling", question=settling.QUESTION, draw=settling.settling, is_wide=True),
    FigureKind(name="assumptions", question=assumptions.QUESTION, draw=assumptions.assumptions, is_wide=True),
    FigureKind(name="waste", question=waste.QUESTION, draw=waste.waste, is_wide=True),
    FigureKind(name="energy", question=energy.QUESTION, draw=energy.energy),
    FigureKind(name="trust", question=trust.QUESTION, draw=trust.trust, is_wide=True),
)
PAGE_FIGURES: tuple[PageFigureKind, ...] = (
    PageFigureKind(name="merge", question=merge.QUESTION, draw=merge.merge),
    PageFigureKind(name="prediction", question=prediction.QUESTION, draw=prediction.prediction),
    PageFigureKind(name="published", question=published.QUESTION, draw=published.published),
    PageFigureKind(name="trend", question=trend.QUESTION, draw=trend.trend),
)
