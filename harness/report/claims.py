"""The launch's claims in words: the verdict, what was measured here, what the floors allow, and how it was obtained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from harness.analysis.claims import (
    BY_FORMULA,
    CONTRADICTED,
    NOT_TESTED,
    ONLY_IF,
    QUALITY,
    REPRODUCED,
    Difference,
    Judgement,
)
from harness.report.wording import counted, either, listed, ratio, tok_s
from harness.spec.data import devices

QUESTION = "Do the launch's claims hold here?"
_SIGNS = {REPRODUCED: "✓", ONLY_IF: "◐", CONTRADICTED: "✗", NOT_TESTED: "○"}
_CLASSES = {REPRODUCED: "holds", ONLY_IF: "partly", CONTRADICTED: "fails", NOT_TESTED: "untested"}
_MOST_DIFFERENCES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """One claim as the page shows it."""

    claim: str
    verdict: str
    sign: str
    style: str  # a class of the style sheet
    measured: str
    facts: tuple[tuple[str, str], ...]  # what the floors allow, how it was obtained, who says so


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
    return [
        f"claim {one.verdict}: {one.claim.claim} ({'by formula ' if _is_by_formula(one) else ''}{_span(one)})"
        for one in judgements
        if one.verdict != NOT_TESTED
    ]


def _is_by_formula(one: Judgement) -> bool:
    return one.claim.measure in BY_FORMULA


def _card(one: Judgement) -> Card:
    claim = one.claim
    allowed = listed([f"{amount(value, claim.unit)} ({name})" for name, value in one.allowed.items()])
    where = f", {_device(claim.allowed_on)} and {claim.format} weights" if claim.allowed_on else ""
    whose = {"vendor": "the vendors", "framework": "a framework's authors", "independent": "somebody independent"}
    return Card(
        claim=claim.claim,
        verdict=one.verdict,
        sign=_SIGNS[one.verdict],
        style=_CLASSES[one.verdict],
        measured=measured(one),
        facts=(
            ("predicted floors allow", f"{allowed}: the released shape{where}"),
            ("how it was obtained", claim.conditions),
            ("measured by", claim.meaning),
            ("said by", f"{whose[claim.who]}, {claim.date}; {claim.source}"),
        ),
    )


def _device(name: str) -> str:
    return devices()[name].display_name if name in devices() else name


def measured(one: Judgement) -> str:
    """What the rows say, in a sentence or two."""
    how = "By formula, without a clock" if _is_by_formula(one) else "Measured"
    if one.verdict == NOT_TESTED:
        span = f"{how}: {_span(one)}. " if one.num_tested else ""
        return f"{span}Not tested: {one.why}."
    told = [f"{how}: {_span(one)}, {_about(one)}."]
    if one.verdict == ONLY_IF:
        told.append(only_if(one))
    elif one.verdict == CONTRADICTED:
        none = "It does not reach" if one.num_tested == 1 else f"None of {one.num_tested} rows reaches"
        told.append(f"{none} {_wanted(one)}.")
    return " ".join(told)


def only_if(one: Judgement) -> str:
    """Under which conditions rows reach the claim, and under which they do not."""
    verb = "reaches" if one.num_reached == 1 else "reach"
    reach = f"{one.num_reached} of {counted(one.num_tested, 'row')} {verb} {_wanted(one)}"
    if one.num_reached == one.num_tested:
        wanted = ", ".join(
            f"{_named(name)} {either([str(value).replace('_', ' ') for value in values])}"
            for name, values in one.claim.obtained_with.items()
        )
        return f"All of them reach {_wanted(one)}, but none was obtained as the claim was: with {wanted}."
    known = [difference for difference in one.differences if difference.reached and difference.missed]
    shown = [difference for difference in known if difference.decides] or known
    if not shown:
        return f"{reach}; nothing that a cell says tells them apart."
    return f"{reach}: {'; '.join(map(_difference, shown[:_MOST_DIFFERENCES]))}."


def _difference(one: Difference) -> str:
    reached, missed = (
        either([str(value).replace("_", " ") for value in values]) for values in (one.reached, one.missed)
    )
    return f"{'only with' if one.decides else 'with'} {_named(one.name)} {reached}, the others have {missed}"


def _named(name: str) -> str:
    return {QUALITY: "exact match", "num_steps": "steps"}.get(name, name.replace("_", " "))


def _about(one: Judgement) -> str:
    where = listed(list(one.about))
    weights = "" if one.is_as_launched else ": this model on this device, not the launch's"
    return f"{counted(one.num_tested, 'row')} of {where}{weights}"


def _wanted(one: Judgement) -> str:
    claim = one.claim
    if claim.at_least is not None:
        return f"at least {amount(claim.at_least, claim.unit)}"
    return f"at most {amount(claim.at_most or 0.0, claim.unit)}"


def _span(one: Judgement) -> str:
    if one.values is None:
        return "nothing"
    low, high = (amount(value, one.claim.unit) for value in one.values)
    return low if low == high else f"{low} to {high}"


def amount(value: float, unit: str) -> str:
    """A number of a claim with its unit."""
    if unit == "x":
        return ratio(value)
    if unit == "tok/s":
        return f"{tok_s(value)} tok/s"
    if unit == "bytes":
        return f"{value / 1e9:.3g} GB"
    return f"{value / 1e9:.3g} B" if value >= 1e8 else f"{value / 1e6:.3g} M"
