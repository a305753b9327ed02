"""Which rounds of a cell are thrown away. Only a physical cause is a reason, and every one is counted and shown."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(kw_only=True, slots=True)
class Discards:
    """What disturbed the rounds of one cell in one launch."""

    reasons: list[str] = field(default_factory=list)  # of each round thrown away
    kept: list[str] = field(default_factory=list)  # of each round kept all the same

    def throws_away(self, disturbance: str | None, most: int) -> bool:
        """Whether a round is to be repeated: it was disturbed, and not yet `most` were thrown away."""
        if disturbance is None:
            return False
        is_allowed = len(self.reasons) < most
        (self.reasons if is_allowed else self.kept).append(disturbance)
        return is_allowed

    @property
    def warnings(self) -> list[str]:
        """One for each cause of rounds that are in the record and should not be."""
        return [f"rounds {cause} are kept: the discards were used up" for cause in dict.fromkeys(self.kept)]
