"""What a reader must know before believing the headline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from harness.analysis.analyse import Analysis
from harness.analysis.headline import Headline
from harness.records.texts import short
from harness.records.types import FAILED_STATUSES
from harness.report.headlines import equal_quality
from harness.report.peers import against_peers
from harness.report.wording import counted, listed, percent, ratio


def qualifiers(analysis: Analysis) -> list[str]:
    """Sentences; those that no reader may miss begin otherwise than with "The headline" or "Beside"."""
    found = []
    if any(row.is_synthetic for row in analysis.rows):
        found.append("Made-up test data: no number on this page was measured.")
    found += [
        _without_a_number(headline, analysis)
        for headline in analysis.headlines
        if headline.diffusion is None and headline.autoregressive is None
    ]
    if drawn := list(dict.fromkeys(what for row in analysis.rows for what in row.cell.drawn)):
        found.append(
            f"Simulated: {listed(drawn)}. Times are measured, but for what was drawn instead of what the model would "
            "choose; the text is nobody's."
        )
    if any(row.cell.backend == "fake" for row in analysis.rows):
        found.append("Simulated: the fake backend made up these times; nothing was computed.")
    if not all(run.is_trained for run in analysis.runs.values()):
        found.append(
            "Random weights: the speed of fixed steps is real, but the text is noise, so nothing here speaks of "
            "quality, of adaptive stopping or of how many steps a model needs. Untrained routers also choose their "
            "experts degenerately, which flatters the speed."
        )
    if any("speedup_vs_ar" in row.metrics for row in analysis.rows):
        found.append(
            "The baseline is plain autoregressive decoding, one token a pass: neither multi-token prediction nor a "
            "draft model is measured here, and either can make it faster."
        )
    if any("cpu_speedup_vs_ar" in row.metrics for row in analysis.rows):
        found.append(
            "Two clocks: speed-ups and tok/s are of wall time; those that name CPU time take the processor time of our "
            "process over all its threads, which other processes on the machine disturb less."
        )
    ranges = [
        _chosen_from(headline, len(analysis.headlines) > 1)
        for headline in analysis.headlines
        if len(headline.speedups_at_batch) > 1
    ]
    is_fixed = any(row.cell.stopping == "fixed" for row in analysis.rows)
    if ranges or (is_fixed and any(headline.diffusion for headline in analysis.headlines)):
        alone = f", chosen for speed alone: {_quality_of(analysis.headlines)}." if is_fixed else "."
        found.append(" ".join([f"The headline is the fastest setting{alone}", *ranges]))
    return [*found, *equal_quality(analysis), *against_peers(analysis)]


def _without_a_number(headline: Headline, analysis: Analysis) -> str:
    """What became of most cells of a run in which none finished."""
    ended = Counter(
        (row.status, row.reason or "no reason recorded") for row in analysis.rows if row.run_id == headline.run_id
    )
    (status, reason), count = ended.most_common(1)[0]
    became = "ended in" if status in FAILED_STATUSES else "are"
    return f"On {headline.where} {count} of {counted(ended.total(), 'cell')} {became} {status}: {short(reason, 200)}."


def _quality_of(headlines: Sequence[Headline]) -> str:
    """What is known of the quality of the settings that the headlines speak of."""
    graded = [
        (one.diffusion.metrics["exact_match"], one.autoregressive.metrics["exact_match"])
        for one in headlines
        if one.diffusion and one.autoregressive and "exact_match" in one.diffusion.metrics
        if "exact_match" in one.autoregressive.metrics
    ]
    if not graded:
        return "fixed steps say nothing of quality"
    told = [
        f"{percent(ours.value)} exact match over {counted(ours.n_prompts or 0, 'prompt')} against "
        f"{percent(theirs.value)}"
        for ours, theirs in graded
    ]
    return f"it has {listed(told)} of autoregressive decoding"


def _chosen_from(headline: Headline, names_device: bool) -> str:
    """The whole range that the headline's setting is the best end of."""
    speedups = headline.speedups_at_batch
    where = f"On {headline.where}, over" if names_device else "Over"
    return (
        f"{where} all {len(speedups)} settings measured at batch {headline.batch_size}, the speed-up runs from "
        f"{ratio(min(speedups))} to {ratio(max(speedups))}."
    )
