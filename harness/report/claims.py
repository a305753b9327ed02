"""The launch's claims in words: the verdict, what was measured here, what the floors allow, and how it was obtained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.analysis.claim_measures import BY_FLOORS, BY_FORMULA, COUNTED, SPEEDS
from harness.analysis.claims import CONTRADICTED, NOT_TESTED, ONLY_IF, REPRODUCED, Extreme, Judgement, Subject
from harness.analysis.floors import DATASHEET, MEASURED
from harness.analysis.prediction import PROMPT_TOKENS
from harness.records.texts import short
from harness.report import claim_conditions
from harness.report.claim_conditions import device_name
from harness.report.wording import AUTOREGRESSIVE_NAME, counted, either, listed, percent, ratio, setting, tok_s

QUESTION = "Do the launch's claims hold here?"
RULE = (
    (
        REPRODUCED,
        "all rows that can test the claim have a median past its bar, and one of them was obtained as it was",
    ),
    (f"{ONLY_IF}…", "rows pass the bar, but not all of them do, or none was obtained as the claim was"),
    (CONTRADICTED, "no row passes the bar, though one was obtained as the claim was"),
    (NOT_TESTED, "no row can test the claim, or none was obtained as it was and none passes the bar"),
)
_SIGNS = {REPRODUCED: "✓", ONLY_IF: "◐", CONTRADICTED: "✗", NOT_TESTED: "○"}
_CLASSES = {REPRODUCED: "holds", ONLY_IF: "partly", CONTRADICTED: "fails", NOT_TESTED: "untested"}
_MOST_SUBJECTS = 8
_LAUNCHED, _UNTRAINED, _OTHER = "launched", "untrained", "other"
_APART = {_UNTRAINED: "with random weights in place of the launch's", _OTHER: "not the launch's model"}
_REACHING, _STAYING = ("reaches", "reach"), ("stays at or below", "stay at or below")
_ROOFS = {DATASHEET: "the data sheet's roofs", MEASURED: "roofs that were measured"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """One claim as the page shows it."""

    claim: str
    verdict: str
    sign: str
    style: str  # a class of the style sheet
    measured: str
    facts: tuple[tuple[str, str], ...]  # what reaches it, what the floors allow, how it was obtained, who says so


def cards(judgements: Sequence[Judgement]) -> tuple[list[Card], list[Card]]:
    """Those that this page tests, and the others."""
    made = [(one.verdict != NOT_TESTED, _card(one)) for one in judgements]
    return [card for tested, card in made if tested], [card for tested, card in made if not tested]


def summary(judgements: Sequence[Judgement]) -> str:
    """How many claims got which verdict."""
    counts = Counter(one.verdict for one in judgements)
    words = {REPRODUCED: "reproduced", ONLY_IF: "only under conditions", CONTRADICTED: "contradicted"}
    told = [f"{counts[verdict]} {word}" for verdict, word in words.items() if counts[verdict]]
    told += [f"{counts[NOT_TESTED]} not tested here"] if counts[NOT_TESTED] else []
    if len(judgements) == counts[NOT_TESTED]:
        return f"None of the launch's {len(judgements)} claims is tested here."
    return f"Of the launch's {len(judgements)} claims: {listed(told)}."


def lines(judgements: Sequence[Judgement]) -> list[str]:
    """A line for each claim that was tested, for a terminal."""
    return [f'"{one.claim.claim}" {_in_short(one)}' for one in judgements if one.verdict != NOT_TESTED]


def _in_short(one: Judgement) -> str:
    only = f" {claim_conditions.in_short(one)}" if one.verdict == ONLY_IF else ""
    num_runs = len({subject.run_id for subject in one.subjects})
    runs = f", of {num_runs} runs" if num_runs > 1 else ""
    num_others = sum(_kind(subject) != _LAUNCHED for subject in one.subjects)
    whose = f"; {'not all' if num_others < len(one.subjects) else 'not'} the launch's model" if num_others else ""
    return f"({'by formula ' if _is_by_formula(one) else ''}{_span(one)}{runs}{whose}): {one.verdict}{only}"


def _is_by_formula(one: Judgement) -> bool:
    return one.claim.measure in BY_FORMULA


def _card(one: Judgement) -> Card:
    claim = one.claim
    allowed = listed([f"{amount(value, claim.unit)} ({name})" for name, value in one.allowed.items()])
    where = f", {device_name(claim.allowed_on)} and {claim.format} weights" if claim.allowed_on else ""
    asked = f", {PROMPT_TOKENS:,} tokens in and one canvas out" if claim.measure in BY_FLOORS else ""
    whose = {"vendor": "the vendors", "framework": "a framework's authors", "independent": "somebody independent"}
    return Card(
        claim=claim.claim,
        verdict=f"{ONLY_IF}…" if one.verdict == ONLY_IF else one.verdict,
        sign=_SIGNS[one.verdict],
        style=_CLASSES[one.verdict],
        measured=measured(one),
        facts=(
            *([("whose rows", _runs(one.subjects))] if len(one.subjects) > 1 else []),
            ("the bar", f"{_wanted(one)}: {_reading(one)}"),
            (
                "predicted floors allow" if claim.measure in BY_FLOORS else "by formula",
                f"{allowed}: the released shape{where}{asked}",
            ),
            ("how it was obtained", claim.conditions),
            ("measured by", claim.meaning),
            ("said by", f"{whose[claim.who]}, {claim.date}; {claim.source}"),
        ),
    )


def _reading(one: Judgement) -> str:
    """How the words of the claim make its bar."""
    reading, claim = one.reading, one.claim
    if not reading.tolerance:
        return reading.meaning
    sign = "less" if claim.at_least is not None else "plus"
    return f"{amount(claim.number, claim.unit)} {sign} {percent(reading.tolerance)}, because {reading.meaning}"


def measured(one: Judgement) -> str:
    """What the rows say, in a few sentences."""
    if not one.rows.tested:
        return f"Not tested: {one.why}."
    told = [f"{_how(one)}: {_span(one, in_full=True)}, {_whose(one.subjects)}.", _verdict(one)]
    drawn = [f"{what} ({count} of {counted(one.rows.tested, 'row')})" for what, count in one.simulated.items()]
    if drawn:
        told.append(f"Simulated: {listed(drawn)}.")
    if one.claim.obtained_with and one.rows.as_obtained:
        told.append(_as_obtained(one))
    if one.rows.by_tolerance:
        does = "passes" if one.rows.by_tolerance == 1 else "pass"
        all_of = f"All {one.rows.tested:,}" if one.rows.by_tolerance == one.rows.tested else ""
        who = "It" if one.rows.tested == 1 else all_of or f"{one.rows.by_tolerance:,} of the {one.rows.tested:,}"
        told.append(f"{who} {does} the bar by the tolerance of {percent(one.reading.tolerance)} alone.")
    if one.rows.worse_answers and one.claim.measure in SPEEDS:
        told.append(f"{_of_those(one)} with fewer right answers than autoregressive decoding gives.")
    if one.rows.unclear:
        told.append(f"In {counted(one.rows.unclear, 'row')} the interval spans the bar, so that noise may decide.")
    return " ".join(told)


def _how(one: Judgement) -> str:
    if _is_by_formula(one):
        return f"By formula, without a clock, at {either([_ROOFS[roof] for roof in one.roofs])}"
    return "Counted" if one.claim.measure in COUNTED else "Measured"


def _verdict(one: Judgement) -> str:
    rows, wanted = one.rows, amount(one.bar, one.claim.unit)
    one_does, many_do = _REACHING if one.claim.at_least is not None else _STAYING
    if one.verdict == NOT_TESTED:
        return f"Not tested: {claim_conditions.unmet(one.unmet)}, and none that is here {one_does} {wanted}."
    if one.verdict == CONTRADICTED:
        none = f"It does not {many_do}" if rows.tested == 1 else f"None of the {rows.tested:,} rows {one_does}"
        return f"{none} {wanted}."
    if rows.reached < rows.tested:
        some = f"{rows.reached:,} of {rows.tested:,} rows {one_does if rows.reached == 1 else many_do}"
        told = f"{some} {wanted}: {claim_conditions.differences(one.differences)}."
        lacking = claim_conditions.unmet(one.unmet)
        return told if rows.as_obtained else f"{told} Not one was obtained as the claim was: {lacking}."
    every = {1: f"It {one_does}", 2: f"Both rows {many_do}"}.get(rows.tested, f"All {rows.tested:,} rows {many_do}")
    if one.verdict == ONLY_IF:
        none = "it was not" if rows.tested == 1 else "none was"
        return f"{every} {wanted}, but {none} obtained as the claim was: {claim_conditions.unmet(one.unmet)}."
    return f"{every} {wanted}."


def _as_obtained(one: Judgement) -> str:
    """How many rows were obtained as the claim was, and where rows differ, how many of those reach it."""
    rows, wanted = one.rows, claim_conditions.named(one.claim.obtained_with)
    is_one, is_all = rows.as_obtained == 1, rows.as_obtained == rows.tested
    who = "It" if rows.tested == 1 else "All" if is_all else f"{rows.as_obtained:,} of the {rows.tested:,}"
    told = f"{who} {'was' if is_one else 'were'} obtained as the claim was, with {wanted}"
    if rows.reached in (0, rows.tested) or is_all:
        return f"{told}."
    if is_one:
        return f"{told}; that one {'passes' if rows.as_obtained_reached else 'misses'} the bar."
    does = "pass" if rows.as_obtained_reached > 1 else "passes"
    return f"{told}; {f'{rows.as_obtained_reached:,}' if rows.as_obtained_reached else 'none'} of these {does} the bar."


def _of_those(one: Judgement) -> str:
    """The rows that reach the claim and answer worse than their twins."""
    if one.rows.reached == 1:
        return "The one that passes it does so"
    count = one.rows.worse_answers
    all_of = "All" if count == one.rows.reached else f"{count:,}"
    return f"{all_of} of those that pass it {'does' if count == 1 else 'do'} so"


def _whose(subjects: Sequence[Subject]) -> str:
    """Of which model on which device; of several runs, how many, and whether they are of the launch's model."""
    rows = counted(sum(one.num_rows for one in subjects), "row")
    kinds = {_kind(one) for one in subjects}
    told = "not all the launch's model" if len(kinds) > 1 else _APART.get(kinds.pop(), "")
    kind = f", {told}" if told else ""
    if len(subjects) == 1:
        return f"{rows} of {subjects[0].model} on {short(subjects[0].run, 120)}{kind}"
    return f"{rows} of {counted(len({one.run_id for one in subjects}), 'run')}{kind}"


def _runs(subjects: Sequence[Subject]) -> str:
    """How many rows each run has, and which are not of the launch's model."""
    shown = [
        f"{one.num_rows:,} of {one.model} on {short(one.run, 120)}"
        + ("" if _kind(one) == _LAUNCHED else f" ({_APART[_kind(one)]})")
        for one in subjects[:_MOST_SUBJECTS]
    ]
    rest = subjects[_MOST_SUBJECTS:]
    return "; ".join([*shown, *([f"{sum(one.num_rows for one in rest):,} of {len(rest)} more"] if rest else [])])


def _kind(one: Subject) -> str:
    return _LAUNCHED if one.is_released_shape and one.is_trained else _UNTRAINED if one.is_released_shape else _OTHER


def _wanted(one: Judgement) -> str:
    return f"at {'least' if one.claim.at_least is not None else 'most'} {amount(one.bar, one.claim.unit)}"


def _span(one: Judgement, *, in_full: bool = False) -> str:
    """Lowest to highest. in_full: with what sets the two rows apart."""
    if one.lowest is None or one.highest is None:
        return "nothing"
    ends = (one.lowest, one.highest)
    low, high = (amount(end.value, one.claim.unit, beside=one.bar) for end in ends)
    if low == high:
        return low
    first, last = _ends(ends, len({subject.run_id for subject in one.subjects}) > 1) if in_full else ("", "")
    return f"{low}{first} to {high}{last}"


def _ends(ends: Sequence[Extreme], is_of_several_runs: bool) -> list[str]:
    """Of the row of each end: its run where there are several, and its setting where the two differ."""
    settings = [setting(end.cell) if end.cell.block_length else AUTOREGRESSIVE_NAME for end in ends]
    shown = [f" ({text})" if len(set(settings)) > 1 else "" for text in settings]
    runs = [f" on {short(end.run, 120)}" if is_of_several_runs else "" for end in ends]
    return [run + text for run, text in zip(runs, shown, strict=True)]


def amount(value: float, unit: str, beside: float | None = None) -> str:
    """A number of a claim with its unit; with more digits where it would read as the bar `beside` it and is not."""
    text = _rounded(value, unit)
    if beside is None or value == beside or text != _rounded(beside, unit):
        return text
    scale, name = _SCALES.get(unit, (1e9, " B"))
    return f"{value / scale:,.6g}{name}"


_SCALES: Mapping[str, tuple[float, str]] = {"x": (1.0, "x"), "tok/s": (1.0, " tok/s"), "bytes": (1e9, " GB")}


def _rounded(value: float, unit: str) -> str:
    if unit == "x":
        return ratio(value)
    if unit == "tok/s":
        return f"{tok_s(value)} tok/s"
    if unit == "bytes":
        return f"{value / 1e9:.3g} GB"
    return f"{value / 1e9:.3g} B" if value >= 1e8 else f"{value / 1e6:.3g} M"
