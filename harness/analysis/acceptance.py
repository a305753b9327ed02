"""What is worse and accepted: by how much, and until when."""

from __future__ import annotations

import re
from datetime import date

_FIRST, _LAST = date(2020, 1, 1), date(2099, 12, 31)  # of what is approved: no end so far away that it is none
# As a share; it also stands for what has no ratio: something where there was nothing, or the reverse.
MOST_WORSENING = 1e6
_LEAST = 1e-9  # a share below this is rounding
_LONGEST_ADDRESS = 500


def share_worse(before: float, after: float, better: str) -> float:
    """By what share `after` is worse than `before`: 0.05 is 5 %; 0 where it is not."""
    is_worse = after > before if better == "lower" else after < before
    if not is_worse:
        return 0.0
    small, large = sorted((before, after))
    return min(large / small - 1, MOST_WORSENING) if small > 0 else MOST_WORSENING


def words_of(worsening: float) -> str:
    """Of a share for a reader."""
    return "a change from or to nothing" if worsening >= MOST_WORSENING else f"{worsening:+.1%}"


def left_of(worsening: float, before: float, after: float, better: str) -> float | None:
    """What is left of an accepted worsening of `before` when its value becomes `after`; None: it recovered."""
    left = (1 + worsening) / (1 + share_worse(after, before, better)) - 1
    return left if left > _LEAST else None


def check_until(until: str) -> None:
    """Raises ValueError unless it is a date of this century or an issue's address."""
    if re.fullmatch(r"https://[^\s/]+\S*", until) and until.isprintable() and len(until) <= _LONGEST_ADDRESS:
        return
    if not is_date(until):
        last = f" up to {_LAST.isoformat()}"
        raise ValueError(f"{until[:40]!r} is neither a date such as 2027-01-31{last} nor an https:// address")


def is_date(text: str) -> bool:
    """Whether it is a day on which something may be approved or end."""
    try:
        day = date.fromisoformat(text)
        return day.isoformat() == text and _FIRST <= day <= _LAST
    except ValueError:
        return False


def is_over(until: str, today: date) -> bool:
    return not until.startswith("https://") and date.fromisoformat(until) < today
