"""What one figure may show together: cells that differ in batch, block length, steps and decoding alone.

Wide slices, for figures of quality and content, hold all prompt sets and stopping rules, too.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.analysis.analyse import Analysis
from harness.analysis.quality import Setting
from harness.analysis.rows import CellRow
from harness.analysis.run_data import Run, SkippedCell
from harness.records.texts import plain, short
from harness.records.types import TWIN_FIELDS, Cell, canonical_json, equal_but_for, to_json
from harness.report.wording import BASELINE, counted, listed, percent

_DTYPES = ("weight_dtype", "activation_dtype", "kv_dtype", "head_dtype")
_CONDITIONS = (
    *(
        "model",
        "backend",
        "prompt_set",
        "prompt_tokens",
        "output_tokens",
        "eos",
        "routing",
        "protocol",
        "device",
        "options",
    ),
    *_DTYPES,
)
_Key = tuple[str, Hashable]


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """Rows of one run that belong into one picture."""

    run_id: str
    run: Run
    stopping: str | None
    rows: tuple[CellRow, ...]
    skipped: tuple[SkippedCell, ...]
    device: str  # its name, or how many there are
    settings: tuple[Setting, ...] = ()  # of its rows
    peers: dict[str, CellRow] = field(default_factory=dict)  # by cell_id: what its rows are compared with
    apart: str = ""  # which run it is: its device, and what tells it from other runs there
    told_apart: str = ""  # only the latter, and only where there are others
    condition: str = ""  # what sets it apart from other slices of its run

    @property
    def title(self) -> str:
        """What sets it apart from all other slices of the page."""
        return ", ".join(filter(None, (self.apart, self.condition)))

    @property
    def cell(self) -> Cell:
        """Any cell of the slice: for what all of them share."""
        return self.rows[0].cell

    @property
    def diffusion(self) -> list[CellRow]:
        return [row for row in self.rows if not row.is_autoregressive]

    @property
    def autoregressive(self) -> list[CellRow]:
        return sorted((row for row in self.rows if row.is_autoregressive), key=lambda row: row.cell.batch_size)

    def is_untrained(self, block_length: int | None) -> bool:
        trained = self.run.trained_block_length
        return block_length is not None and trained is not None and block_length != trained

    def block_label(self, block_length: int) -> str:
        """The block length, starred where the weights were trained with another."""
        return f"{block_length}*" if self.is_untrained(block_length) else str(block_length)


def slices_of(analysis: Analysis, *, is_wide: bool = False) -> list[Slice]:
    """The slices of all runs in plan order; an autoregressive cell belongs to every stopping rule of its conditions."""
    anchors: dict[_Key, list[CellRow]] = {}
    diffusion: dict[_Key, dict[str | None, list[CellRow]]] = {}
    skipped: dict[_Key, list[SkippedCell]] = {}
    for row in analysis.rows:
        key = _key(row.run_id, row.cell, is_wide)
        rules = diffusion.setdefault(key, {})
        if row.is_autoregressive:
            anchors.setdefault(key, []).append(row)
        else:
            rules.setdefault(None if is_wide else row.cell.stopping, []).append(row)
    settings: dict[_Key, list[Setting]] = {}
    for setting in analysis.settings if is_wide else ():
        settings.setdefault(_key(setting.run_id, setting.cell, is_wide), []).append(setting)
    peers: dict[str, dict[str, CellRow]] = {}
    for row in analysis.rows:
        if row.cell.backend == analysis.runs[row.run_id].peer:
            peers.setdefault(row.run_id, {})[row.cell_id] = row
    for run_id, cell in analysis.skipped:
        skipped.setdefault(_key(run_id, cell.cell, is_wide), []).append(cell)
    slices = [
        Slice(
            run_id=key[0],
            run=analysis.runs[key[0]],
            device=analysis.runs[key[0]].device_name,
            stopping=stopping,
            rows=(*anchors.get(key, ()), *rows),
            skipped=tuple(s for s in skipped.get(key, ()) if is_wide or s.cell.stopping in (stopping, None)),
            settings=tuple(settings.get(key, ())),
            peers=peers.get(key[0], {}),
        )
        for key, rules in diffusion.items()
        for stopping, rows in (rules or {None: []}).items()
    ]
    keys = _differing(slices, is_wide)
    stopping_rules = {one.stopping for one in slices}
    several = len(analysis.runs) > 1
    return [
        replace(
            one,
            apart=_run_name(one, analysis.apart[one.run_id]) if several else "",
            told_apart=short(analysis.apart[one.run_id], 100),
            condition=_condition(one, keys, has_rule=len(stopping_rules) > 1),
        )
        for one in slices
    ]


def side_by_side(parts: Sequence[Slice]) -> list[tuple[Slice, ...]]:
    """The slices, those together that differ in their run alone: in device, environment or time, not in conditions."""
    found: dict[str, list[Slice]] = {}
    for part in parts:
        found.setdefault(_conditions_key(part), []).append(part)
    return [tuple(group) for group in found.values()]


def _conditions_key(part: Slice) -> str:
    """Equal for slices that differ in their run alone. Weights and prompts are equal by their hashes, too."""
    hashes = part.run.plan.get("prompts")
    names = values_of(part, "prompt_set")
    return canonical_json(
        {
            "cell": to_json(replace(part.cell.twin, batch_size=0, device="", prompt_set="")),
            "stopping": part.stopping,
            "prompts": {name: hashes.get(name) if isinstance(hashes, dict) else None for name in names},
            "trained": [part.run.is_trained, part.run.trained_block_length],
            "weights": (part.run.plan.get("provenance") or {}).get("weights_hash"),
        }
    )


def joined(parts: Sequence[Slice]) -> Slice:
    """Slices side by side as one, for what is said of all of them."""
    devices = list(dict.fromkeys(part.device for part in parts))
    where = counted(len(devices), "device") if len(devices) > 1 else devices[0]
    runs = "" if len(devices) == len(parts) else f", {counted(len(parts), 'run')}"
    rows = tuple(row for part in parts for row in part.rows)
    skipped = tuple(one for part in parts for one in part.skipped)
    return replace(parts[0], rows=rows, skipped=skipped, device=f"{where}{runs}", apart=f"{where}{runs}")


def _run_name(one: Slice, apart: str) -> str:
    return f"{short(one.run.device_name, 60)}, {short(apart or f'run {one.run_id}', 100)}"


def _key(run_id: str, cell: Cell, is_wide: bool) -> _Key:
    """The run, and all that slices keep equal."""
    differing = (*TWIN_FIELDS, "batch_size", "prompt_set") if is_wide else (*TWIN_FIELDS, "batch_size")
    return run_id, equal_but_for(cell, *differing)


def _differing(slices: Sequence[Slice], is_wide: bool) -> list[str]:
    """The conditions in which the slices differ; a slice's run names its device."""
    keys = [key for key in _CONDITIONS if key != "device" and not (is_wide and key == "prompt_set")]
    return [key for key in keys if len({setting(one.cell, key) for one in slices}) > 1]


def _condition(one: Slice, keys: Sequence[str], *, has_rule: bool) -> str:
    """The conditions in which the slices differ, as this one has them, but not its run. has_rule: stopping is one."""
    parts = [f"{key.replace('_', ' ')} {short(str(setting(one.cell, key)), 60)}" for key in keys]
    if has_rule and one.stopping:
        parts.append(f"stopping {one.stopping}")
    return ", ".join(parts)


def setting(cell: Cell, key: str) -> Any:
    """A field of the cell as tables show it; of its options those beside the window, which every cell has."""
    if key == "options":
        return ", ".join(f"{name}={value}" for name, value in cell.options.items() if name != "window") or "default"
    return getattr(cell, key)


def values_of(part: Slice, key: str) -> list[str]:
    """The values that the slice's cells have in a field, in plan order; that of a cell without it is left out."""
    return [str(value) for value in dict.fromkeys(setting(row.cell, key) for row in part.rows) if value is not None]


def conditions(part: Slice, bands: str) -> str:
    """What must stand on every picture: prompts, stopping, eos, weights, batching, stragglers, untrained blocks."""
    cell = part.cell
    prompt_sets = ", ".join(short(name, 60) for name in values_of(part, "prompt_set"))
    dtypes = {getattr(cell, key) for key in _DTYPES}
    texts = [
        f"{short(part.device, 60)}, {short(cell.model, 60)}, "
        f"{'trained' if part.run.is_trained else 'RANDOM'} weights, {'/'.join(sorted(dtypes))}",
        f"prompts {short(prompt_sets, 160)}, {cell.prompt_tokens} -> {cell.output_tokens} tokens",
        f"stopping {listed(values_of(part, 'stopping')) or 'none (autoregressive)'}",
        f"eos {cell.eos}",
        _batching(part) + _stragglers(part),
    ]
    if any(part.is_untrained(row.cell.block_length) for row in part.rows):
        texts.append(f"* not the trained block length {part.run.trained_block_length}")
    if any("speedup_vs_ar" in row.metrics for row in part.rows):
        texts.append(f"speed-ups {BASELINE}")
    texts += [bands] if bands else []
    texts += ["SYNTHETIC: made-up test data"] if part.rows[0].is_synthetic else []
    drawn = list(dict.fromkeys(what for row in part.rows for what in row.cell.drawn))
    simulated = drawn or (["simulated"] if part.rows[0].is_simulated else [])
    texts += [f"SIMULATED: {short(listed(simulated), 160)}"] if simulated else []
    return plain("; ".join(texts))


def _batching(part: Slice) -> str:
    """Whether rows that are done wait for the last one."""
    texts = {
        "rows that are done leave the batch" if row.cell.options.get("compaction") == "on" else "static batch"
        for row in part.rows
    }
    return listed(sorted(texts, reverse=True))


def _stragglers(part: Slice) -> str:
    batched = [row for row in part.rows if row.cell.batch_size > 1]
    shares = [share for row in batched if (share := row.value("straggler_share")) is not None]
    if not batched or not shares:
        return ""
    worst = max(shares)
    return (
        f", up to {percent(worst)} of its work lost to stragglers" if worst > 1e-9 else ", nothing lost to stragglers"
    )
