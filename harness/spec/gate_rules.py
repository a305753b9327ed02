"""The keys of a suite's `gate:`, with types and defaults. Three lines of YAML under gate.rules add a rule.

Where the numbers come from: docs/gate.md.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from harness.records import strict
from harness.records.types import Cell

TESTS = ("exact", "random", "time", "output")
WARN, FAIL = "warn", "fail"


@dataclass
class GateRule:
    """What is compared in each cell, and how.

    test: exact: a counter, which repeats with its seed; margin says by which share it may differ.
        random: what prompts decide (steps until a canvas converges, tokens that a step accepts, quality); paired over
            prompts, by a sign-flip test.
        time: paired over launches, screened and confirmed.
        output: tokens; the rule's metric is output_ids.
    """

    metric: str = ""  # a name of harness/analysis/metrics, or output_ids
    test: str = "exact"
    margin: float = 0.0  # exact: what may differ, as a share
    floor: float = 0.025  # time, random: a smaller change is never red, whatever the test says
    # output: rows may differ first at one token in 1 / (1 - agreement); null: 0.995 in float32, else 0.95
    agreement: float | None = None
    where: dict[str, Any] = field(default_factory=dict)  # field of a cell -> list of values; {}: every cell
    devices: list[str] = field(default_factory=list)  # kinds on which it is gated; elsewhere it is shown; []: all
    family: str = ""  # whose members share one error rate; "": that of its test
    enabled: bool = True

    def applies_to(self, cell: Cell) -> bool:
        return self.enabled and all(getattr(cell, axis) in values for axis, values in self.where.items())


def default_rules() -> dict[str, GateRule]:
    """What every suite gates. A metric that a record does not have is no failure: its rule says nothing there."""
    gpu = ["cuda", "rocm"]
    return {
        "outputs": GateRule(metric="output_ids", test="output"),
        "passes": GateRule(metric="passes", test="exact"),
        "forwards": GateRule(metric="forwards", test="exact"),
        "operations": GateRule(metric="torch_operations", test="exact"),
        "flops": GateRule(metric="torch_flops", test="exact"),
        "bytes": GateRule(metric="torch_bytes", test="exact"),
        "peak_tensors": GateRule(metric="peak_tensor_bytes", test="exact", margin=0.01),
        "memory": GateRule(metric="peak_memory_bytes", test="exact", margin=0.01),
        "steps": GateRule(metric="steps_per_canvas", test="random", where={"stopping": ["adaptive"]}),
        "token_acceptance": GateRule(metric="tpf_denoise", test="random", where={"stopping": ["adaptive"]}),
        "quality": GateRule(metric="exact_match", test="random"),
        "accuracy": GateRule(metric="token_accuracy", test="random"),
        "wall_time": GateRule(metric="request_s", test="time", devices=gpu),
        "cpu_time": GateRule(metric="cpu_s", test="time", devices=["cpu"]),
    }


@dataclass
class GateConfig:
    """How launches are judged."""

    rules: dict[str, GateRule] = field(default_factory=default_rules)
    screen_pairs: int = 3  # of launches, of all cells; more where the pairs scatter too much for so few
    most_screen_pairs: int = 10
    screen_effect: float = 0.015  # a change of the mean by more than this ...
    screen_p: float = 0.2  # ... and with a smaller p is confirmed
    confirm_pairs: int = 10  # fresh ones, of the cells that the screen keeps; more where the pairs scatter more
    most_confirm_pairs: int = 15
    alpha: float = 0.05  # of a family, by Holm over the cells that were kept
    effect: float = 0.05  # the slowdown that must not go unseen ...
    power: float = 0.95  # ... in so many of its cases
    pair_sd: float | None = None  # of log ratios of pairs of launches, calibrated; null: pooled over the job's screen
    retries: int = 2  # of a launch that something physical disturbed
    broken_both_budget: float = 0.02  # share of the cells that may fail on both sides
    inconclusive: str = WARN  # warn: exit code 0; fail: 5
    declared: list[str] = field(default_factory=list)  # keys of the stack that may differ, such as packages.torch
    groups: list[list[str]] = field(  # fields of a cell over whose values geometric means are taken
        default_factory=lambda: [[], ["decoding"], ["batch_size"], ["block_length"], ["num_steps"]]
    )


def of_plan(given: Any) -> GateConfig:
    """The `gate:` that a plan.json holds; defaults where an older version planned it.

    Raises:
        ValueError: it is none, or `check` finds it wanting; the message names the key.
    """
    if not isinstance(given, dict | None):
        raise ValueError(f"gate is {str(given)[:40]!r}, expected an object")
    gate = strict.build(GateConfig, {**asdict(GateConfig()), **(given or {})}, "gate")
    check(gate, [f.name for f in fields(Cell)])
    return gate


def check(gate: GateConfig, cell_fields: list[str]) -> None:
    """Raises ValueError for the first value that makes no sense; the message names its key."""
    for name in ("screen_p", "alpha", "effect", "power"):
        _expect(0 < getattr(gate, name) < 1, f"gate.{name}: {getattr(gate, name)}", "above 0 and below 1")
    for name in ("screen_effect", "broken_both_budget"):
        _expect(0 <= getattr(gate, name) < 1, f"gate.{name}: {getattr(gate, name)}", "at least 0 and below 1")
    _expect(gate.screen_pairs >= 2, f"gate.screen_pairs: {gate.screen_pairs}", "at least 2")
    _expect(gate.confirm_pairs >= 3, f"gate.confirm_pairs: {gate.confirm_pairs}", "at least 3")
    for name in ("screen_pairs", "confirm_pairs"):
        _expect(getattr(gate, f"most_{name}") >= getattr(gate, name), f"gate.most_{name}", f"at least gate.{name}")
    _expect(gate.pair_sd is None or 0 < gate.pair_sd < 1, f"gate.pair_sd: {gate.pair_sd}", "above 0 and below 1")
    _expect(gate.retries >= 0, f"gate.retries: {gate.retries}", "at least 0")
    _expect(gate.inconclusive in (WARN, FAIL), f"gate.inconclusive: {gate.inconclusive!r}", "warn or fail")
    for axes in gate.groups:
        for axis in axes:
            _expect(axis in cell_fields, f"gate.groups: {axis!r}", f"one of {', '.join(cell_fields)}")
    for name, rule in gate.rules.items():
        _check_rule(f"gate.rules.{strict.quoted(name)}", rule, cell_fields)


def _check_rule(where: str, rule: GateRule, cell_fields: list[str]) -> None:
    _expect(bool(rule.metric), f"{where}.metric: ''", "a metric's name")
    _expect(rule.test in TESTS, f"{where}.test: {rule.test!r}", f"one of {', '.join(TESTS)}")
    is_output = rule.metric == "output_ids"
    _expect(is_output == (rule.test == "output"), f"{where}: {rule.metric} by {rule.test}", "output_ids by output")
    for name in ("margin", "floor"):
        _expect(0 <= getattr(rule, name) < 1, f"{where}.{name}: {getattr(rule, name)}", "at least 0 and below 1")
    _expect(
        rule.agreement is None or 0 < rule.agreement < 1, f"{where}.agreement: {rule.agreement}", "above 0 and below 1"
    )
    for axis, values in rule.where.items():
        _expect(axis in cell_fields, f"{where}.where: {axis!r}", f"one of {', '.join(cell_fields)}")
        _expect(isinstance(values, list), f"{where}.where.{axis}: {values!r}", "a list of values")


def _expect(fits: bool, found: str, expected: str) -> None:
    if not fits:
        raise ValueError(f"{found} is out of place; expected {expected}")
