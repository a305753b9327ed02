"""The sentences and tiles of the headline, computed in both directions: the page can say that diffusion is slower."""

from __future__ import annotations

from dataclasses import dataclass, replace

from harness.analysis.analyse import Analysis
from harness.analysis.assumptions import Assumptions
from harness.analysis.crossover import Crossing, Line
from harness.analysis.headline import Headline
from harness.analysis.quality import IsoQuality, quality, speed
from harness.analysis.ranges import ranges_of
from harness.analysis.rows import BELOW_FLOOR, CellRow
from harness.records.texts import short
from harness.records.types import BLOCK_DIFFUSION
from harness.report.wording import (
    AUTOREGRESSIVE_NAME,
    BASELINE,
    BLOCK_DIFFUSION_NAME,
    batch,
    counted,
    crossover_range,
    interval,
    is_clear,
    lead,
    lead_of,
    listed,
    percent,
    ratio,
    setting,
    tok_s,
    up_to,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    name: str
    value: str
    unit: str
    notes: tuple[str, ...]


def verdict(headline: Headline) -> str:
    """The result of one run in a plain sentence."""
    diffusion, autoregressive, speedup = headline.diffusion, headline.autoregressive, headline.speedup
    where = f"On {headline.where}"
    if diffusion is None and autoregressive is None:
        return f"{where}, no cell finished, so there is nothing to compare."
    if diffusion is None and autoregressive is not None:
        value = tok_s(autoregressive.metrics["useful_tok_s"].value)
        return (
            f"{where}, only {AUTOREGRESSIVE_NAME} was measured: {value} useful tok/s "
            f"at batch {headline.batch_size}, the smallest."
        )
    assert diffusion is not None
    value = tok_s(diffusion.metrics["useful_tok_s"].value)
    with_setting = f"with {setting(diffusion.cell)}"
    if speedup is None or autoregressive is None:
        why = diffusion.missing.get("speedup_vs_ar", "its twin gave no value")
        gives = f"{BLOCK_DIFFUSION_NAME} gives {value} useful tok/s at batch {headline.batch_size} {with_setting}"
        return f"{where}, {gives}; no comparison: {why}."
    baseline = tok_s(autoregressive.metrics["useful_tok_s"].value)
    at = f"at batch {headline.batch_size}"
    speeds = f"diffusion {value}, autoregressive {baseline} useful tok/s{_clocks(diffusion)}"
    numbers = f"({speeds}; {setting(diffusion.cell)})"
    if not is_clear(speedup):
        span = f"{ratio(speedup.value)}, {ratio(speedup.low)} to {ratio(speedup.high)}"
        return f"{where}, the two cannot be told apart {at}: {span} {numbers}{_beyond(headline.line)}."
    other = AUTOREGRESSIVE_NAME if speedup.value >= 1 else BLOCK_DIFFUSION_NAME
    words = lead(speedup.value)
    than = f" than {other}" if words.endswith("faster") else ""
    return f"{where}, {words}{than} {at} {numbers}{_beyond(headline.line)}."


def _clocks(diffusion: CellRow) -> str:
    """On a CPU: that all this is wall time, and what the other clock says."""
    in_cpu_time = diffusion.metrics.get("cpu_speedup_vs_ar")
    return "" if in_cpu_time is None else f" of wall time; by CPU time {lead_of(in_cpu_time)}"


def _beyond(line: Line | None) -> str:
    """What larger batches change, as far as noise lets one tell."""
    if line is None or len(line.speedups) < 2:
        return ""
    largest = line.speedups[-1][0]
    clear = {size: summary.value > 1 for size, summary in line.speedups if is_clear(summary)}
    unclear = [size for size, _ in line.speedups if size not in clear]
    if not clear:
        return f"; nor at any batch up to {largest}, the largest compared"
    if len(set(clear.values())) == 1:
        side = BLOCK_DIFFUSION_NAME if any(clear.values()) else AUTOREGRESSIVE_NAME
        if not unclear:
            return f"; {side} stays ahead up to batch {largest}, the largest compared"
        return f"; beyond the noise, {side} is ahead at batch {listed(list(clear))} and nobody at {listed(unclear)}"
    return _changes(line.crossings)


def _changes(crossings: list[Crossing]) -> str:
    places = listed([batch(crossing.batch_size) for crossing in crossings])
    if not all(crossing.is_clear for crossing in crossings):
        places += " (noise could move " + ("it)" if len(crossings) == 1 else "them)")
    if len(crossings) > 1:
        return f"; the lead changes at batches of about {places}"
    loser = BLOCK_DIFFUSION_NAME if crossings[0].slower_from_here == BLOCK_DIFFUSION else AUTOREGRESSIVE_NAME
    return f"; {loser} loses its lead at a batch of about {places}"


def at_equal_quality(iso: IsoQuality) -> str:
    """Who is faster among settings that are as good as autoregressive decoding, or how near the best one comes."""
    assert iso.autoregressive.exact_match is not None
    theirs = iso.autoregressive.exact_match
    where = f"At batch {iso.best.cell.batch_size}, on the same {counted(theirs.n_prompts or 0, 'prompt')}"
    if iso.reached is None:
        return (
            f"{where}, no configuration reaches the quality of autoregressive decoding ({percent(theirs.value)} exact "
            f"match): the nearest of {iso.num_compared}, {setting(iso.best.cell)}, has {percent(quality(iso.best))} "
            f"at a speed-up of {ratio(speed(iso.best))}."
        )
    assert iso.reached.speedup_vs_ar is not None
    fastest = iso.reached
    return (
        f"{where} and at no less exact match, {lead_of(iso.reached.speedup_vs_ar)}: the fastest of the settings that "
        f"are as good, {setting(fastest.cell)}, has {percent(quality(fastest))} at {ratio(speed(fastest))}, "
        f"autoregressive decoding {percent(theirs.value)}."
    )


def equal_quality(analysis: Analysis) -> list[str]:
    """Of each run whose answers were graded: who is faster at equal quality, at the batch with the most prompts."""
    told = []
    for run_id in analysis.runs:
        own = [iso for iso in analysis.iso_quality if iso.best.run_id == run_id]
        if own:
            told.append(at_equal_quality(max(own, key=lambda iso: (len(iso.best.prompts), -iso.best.cell.batch_size))))
    return told


def tiles(headline: Headline, analysis: Analysis) -> list[Tile]:
    """Six answers, each with its noise or its reason."""
    return [
        _speed(headline),
        _speedup(headline),
        _crossover(headline, analysis),
        _floors(headline),
        _energy(headline),
        _coverage(headline, analysis),
    ]


def _speed(headline: Headline) -> Tile:
    row = headline.diffusion or headline.autoregressive
    if row is None:
        return Tile(name="useful tokens per second", value="none", unit="", notes=("no cell finished",))
    side = AUTOREGRESSIVE_NAME if row.is_autoregressive else f"{BLOCK_DIFFUSION_NAME}, {setting(row.cell)}"
    summary = row.metrics["useful_tok_s"]
    prompts = f"prompts {short(row.cell.prompt_set)}, {row.cell.prompt_tokens} -> {row.cell.output_tokens} tokens"
    return Tile(
        name=f"useful tokens per second, batch {row.cell.batch_size}",
        value=tok_s(summary.value),
        unit="tok/s",
        notes=(interval(summary, tok_s), side, prompts),
    )


def _speedup(headline: Headline) -> Tile:
    name = "speed-up over autoregressive" + ("" if headline.batch_size is None else f", batch {headline.batch_size}")
    speedup = headline.speedup
    if speedup is None:
        row = headline.diffusion
        why = "no block-diffusion cell finished" if row is None else row.missing.get("speedup_vs_ar", "")
        return Tile(name=name, value="none", unit="", notes=(why,))
    notes = [BASELINE, lead_of(speedup), interval(speedup, ratio)]
    in_cpu_time = headline.diffusion.metrics.get("cpu_speedup_vs_ar") if headline.diffusion is not None else None
    if in_cpu_time is not None:
        notes += ["by wall time", f"by CPU time {ratio(in_cpu_time.value)}, {interval(in_cpu_time, ratio)}"]
    notes += headline.diffusion.marks if headline.diffusion is not None else ()
    return Tile(name=name, value=ratio(speedup.value), unit="", notes=tuple(notes))


def _crossover(headline: Headline, analysis: Analysis) -> Tile:
    """Where the lead changes; of weights that were never trained a range, because no single number tells it."""
    tile = _crossover_of(headline.line)
    if analysis.runs[headline.run_id].is_trained or headline.line is None or not headline.line.speedups:
        return tile
    (ranges,) = ranges_of([headline], analysis.lines, analysis.runs)
    measured = ranges.measured
    each = [f"with {short(name, 120)}: {up_to(measured.place(name), measured.batches)}" for name in measured.lines]
    if len(each) > 1:
        tile = replace(tile, value=crossover_range(measured), notes=(*each, *tile.notes))
    return replace(tile, notes=(*tile.notes, *_over_assumptions(ranges.predicted, ranges.why_not)))


def _crossover_of(line: Line | None) -> Tile:
    name = "crossover batch"
    if line is None or not line.speedups:
        return Tile(name=name, value="none", unit="", notes=("no speed-up to follow",))
    sizes = [size for size, _ in line.speedups]
    over = f"batches {listed(sizes)}" if len(sizes) > 1 else f"batch {sizes[0]} alone was measured"
    if not line.crossings:
        return Tile(name=name, value="none in the sweep", unit="", notes=(over, _throughout(line)))
    notes = [
        f"interpolated between {c.between[0]} and {c.between[1]}" + ("" if c.is_clear else "; noise could move it")
        for c in line.crossings
        if c.interpolated
    ]
    values = listed([batch(c.batch_size) for c in line.crossings])
    return Tile(name=name, value=values, unit="", notes=(*notes, f"same blocks and steps over {over}"))


def _over_assumptions(predicted: Assumptions | None, why_not: str) -> list[str]:
    """The range over routings and published steps that the floors predict around what was measured."""
    if predicted is None:
        return [f"untrained weights: its range over routings and steps is not known, because {short(why_not, 160)}"]
    if len(predicted.fixed) < 2:
        return []
    at_shares = predicted.range_at_shares
    kept = "" if at_shares is None else f"{crossover_range(at_shares)} at the measured floor shares, "
    span = f"{kept}{crossover_range(predicted.range_at_floors)} at the floors"
    return [f"untrained weights: over routings and published steps, {span} (predicted)"]


def _throughout(line: Line) -> str:
    values = [summary.value for _, summary in line.speedups]
    if all(value == 1 for value in values):
        return "both are equally fast"
    side = BLOCK_DIFFUSION_NAME if max(values) > 1 else AUTOREGRESSIVE_NAME
    doubt = "" if all(is_clear(summary) for _, summary in line.speedups) else ", partly within the noise"
    return f"{side} is faster " + ("there" if len(values) == 1 else "throughout") + doubt


def _floors(headline: Headline) -> Tile:
    name = "floor share: floor / measured"
    sides = ((BLOCK_DIFFUSION_NAME, headline.diffusion), ("autoregressive", headline.autoregressive))
    shares = [(side, row.value("floor_share")) for side, row in sides if row is not None]
    known = [(side, share) for side, share in shares if share is not None]
    if not known:
        rows = [row for _, row in sides if row is not None]
        why = rows[0].missing.get("floor_share", "") if rows else "no cell finished"
        return Tile(name=name, value="unknown", unit="", notes=(why,))
    notes = [listed([side for side, _ in known]), "100 % is a perfect engine that runs one operation after another"]
    roofs = dict.fromkeys(row.floor_roof for _, row in sides if row is not None and row.floor_roof)
    notes += [f"roof: {listed(list(roofs))}"] if roofs else []
    limit = None if headline.diffusion is None else headline.diffusion.value("limit_speedup_vs_ar")
    notes += [f"speed-up if both ran at their floors: {ratio(limit)}"] if limit is not None else []
    notes += [BELOW_FLOOR] if any(row is not None and BELOW_FLOOR in row.marks for _, row in sides) else []
    return Tile(name=name, value=" | ".join(percent(share) for _, share in known), unit="", notes=tuple(notes))


def _energy(headline: Headline) -> Tile:
    """Of both sides, as far as a window was measured."""
    name = "energy per useful token" + ("" if headline.batch_size is None else f", batch {headline.batch_size}")
    metric = "energy_per_useful_token_j"
    sides = ((BLOCK_DIFFUSION_NAME, headline.diffusion), ("autoregressive", headline.autoregressive))
    known = [(side, row.metrics[metric].value) for side, row in sides if row is not None and metric in row.metrics]
    if not known:
        why = next((row.missing[metric] for _, row in sides if row is not None), "no cell finished")
        return Tile(name=name, value="not measured", unit="", notes=(why,))
    sides_told = listed([side for side, _ in known])
    value = " | ".join(f"{joules:.3g}" for _, joules in known)
    return Tile(name=name, value=value, unit="J", notes=(sides_told, "the idle device's share included"))


def _coverage(headline: Headline, analysis: Analysis) -> Tile:
    counts = analysis.coverage(headline.run_id)
    rest = [f"{count} {name}" for name, count in counts.items() if count and name not in ("planned", "ok")]
    return Tile(
        name="cells that finished",
        value=f"{counts['ok']} of {counts['planned']}",
        unit="",
        notes=(", ".join(rest) or "none failed, missing or skipped",),
    )
