"""What `plan` prints for people."""

from __future__ import annotations

from collections import Counter

from harness.records.types import AUTOREGRESSIVE
from harness.spec.plan import Plan, PlannedCell, predicted_s_of

_MOST_ROWS = 60


def plan_text(plan: Plan) -> str:
    """Header, one row a cell of our share (the first 60), skips by reason, and the totals."""
    config, own = plan.config, [planned for group in plan.own_groups for planned in group]
    lines = [
        f"suite {config.name} on {config.device.display_name} with {config.model.path or config.model.preset}"
        + ("" if config.model.is_trained else " (random weights)"),
        f"run {plan.run_id}: {len(plan.cells)} cells in {len(plan.groups)} groups, {len(plan.skipped)} skipped",
        *_share(plan, own),
        "",
    ]
    if own:
        header = ("cell", "passes", "memory GB", "floor s", "bound s", "predicted s", "cell_id")
        rows = [header, *(_row(p) for p in own[:_MOST_ROWS])]
        widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
        lines += [
            "  ".join(_align(text, w, i) for i, (text, w) in enumerate(zip(row, widths, strict=True))).rstrip()
            for row in rows
        ]
        if len(own) > _MOST_ROWS:
            lines.append(f"... and {len(own) - _MOST_ROWS} more; --json prints all")
        lines.append("")
    lines += [
        f"skipped {count:>4}: {reason}" for reason, count in Counter(s.reason for s in plan.skipped).most_common(12)
    ]
    lines += sorted({f"not predicted: {reason}" for p in plan.cells for reason in p.prediction.missing.values()})
    predicted_s = predicted_s_of(own)
    if predicted_s is not None and own:
        least = "" if config.protocol.is_fixed else "at least "
        lines.append(
            f"predicted time: {least}{predicted_s / 60:.1f} min, from floors at an assumed floor share of 0.5"
            + ("" if config.protocol.is_fixed else "\nwith the least warm-up and rounds; times decide how many")
        )
    return "\n".join(lines).rstrip() + "\n"


def _share(plan: Plan, own: list[PlannedCell]) -> list[str]:
    """What a shard measures of the suite, and nothing where that is all."""
    if len(own) == len(plan.cells):
        return []
    return [f"shard {plan.config.shard}: {len(own)} of these cells; groups: {len(plan.own_groups)}"]


def _row(planned: PlannedCell) -> tuple[str, ...]:
    prediction = planned.prediction
    return (
        planned.cell.label,
        str(sum(prediction.passes.values())),
        f"{prediction.memory_bytes / 1e9:.3g}",
        _seconds(prediction.floor_s),
        _seconds(prediction.bound_s),
        _seconds(planned.predicted_s),
        planned.cell_id if planned.cell.decoding != AUTOREGRESSIVE else f"{planned.cell_id} (anchor)",
    )


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _align(text: str, width: int, column: int) -> str:
    return text.ljust(width) if column in (0, 6) else text.rjust(width)
