"""The regression gate: files in, a verdict out. No torch, no network, no clock.

A job's driver asks three things in turn: how many screen pairs (plan_pairs), which cells to confirm (screen) with how
many fresh pairs (plan_pairs), and the verdict (judge). docs/gate.md has the rule on one page.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import harness.analysis.gate.samples as samples
import harness.analysis.gate.times as times
from harness.analysis.gate.judge import Acceptance, Accepted, kept, settings_of
from harness.analysis.gate.judge import judge as judge_samples
from harness.analysis.verdict import Verdict
from harness.spec.gate_rules import GateConfig

__all__ = ["Acceptance", "Accepted", "PairPlan", "judge", "judge_samples", "plan_pairs", "screen"]


@dataclass(frozen=True, slots=True)
class PairPlan:
    """How many pairs of launches a job needs, by the scatter of those that it has."""

    screen: int  # of all cells, in total: those that are there count
    confirm: int  # fresh, of the cells that `screen` keeps


def plan_pairs(job_dir: Path) -> PairPlan:
    """From the pairs of the screen so far: the scatter decides, never the means, so more of them bend no p-value.

    Before there is a launch of either side, it is what suites have by default.
    """
    if not samples.has_pairs(job_dir):
        return PairPlan(screen=GateConfig().screen_pairs, confirm=GateConfig().confirm_pairs)
    found = samples.of_job(job_dir)
    gate = settings_of(found)
    _, screens = kept(found, gate)
    return PairPlan(
        screen=max((times.screen_pairs(one, gate) for one, _ in screens.values()), default=gate.screen_pairs),
        confirm=max(
            (times.confirm_pairs(one, gate, floor) for one, floor in screens.values()), default=gate.confirm_pairs
        ),
    )


def screen(job_dir: Path) -> list[str]:
    """cell_ids that the screen keeps for fresh pairs, in plan order."""
    found = samples.of_job(job_dir)
    return kept(found, settings_of(found))[0]


def judge(
    job_dir: Path,
    *,
    inconclusive: str | None = None,
    declared: Iterable[str] = (),
    accepted: Accepted | None = None,
) -> Verdict:
    """The verdict of a job's folder. inconclusive: warn | fail; None: as the suite has it."""
    return judge_samples(samples.of_job(job_dir), inconclusive=inconclusive, declared=declared, accepted=accepted)
