"""The table of all cells as columns and rows of JSON, and the manifest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness.analysis.analyse import REPORT_SCHEMA, Analysis
from harness.analysis.environments import flat
from harness.analysis.metrics import METRICS
from harness.analysis.rows import CellRow
from harness.analysis.run_data import Run
from harness.records.texts import plain
from harness.records.types import Cell, Environment
from harness.report.outcomes import SKIPPED
from harness.report.slices import Slice, setting, values_of
from harness.report.wording import listed, price
from harness.spec.config import DeviceConfig

# Metrics of the table in column order, with the unit they are shown in. `report --json` has every metric.
_METRICS: dict[str, tuple[str, str, float]] = {
    "useful_tok_s": ("useful tok/s", "", 1),
    "speedup_vs_ar": ("speed-up", "x", 1),
    "cpu_speedup_vs_ar": ("speed-up in CPU time", "x", 1),
    "peer_speedup": ("speed-up over the peer", "x", 1),
    "peer_step_speedup": ("a step's, over the peer", "x", 1),
    "exact_match": ("exact match", "%", 1e-2),
    "token_accuracy": ("token accuracy", "%", 1e-2),
    "request_s": ("request", "ms", 1e-3),
    "slowdown_vs_default": ("time over the default options'", "x", 1),
    "ttfb_s": ("TTFB", "ms", 1e-3),
    "cold_s": ("cold request", "ms", 1e-3),
    "step_s": ("step", "ms", 1e-3),
    "steps_per_canvas": ("steps per canvas", "", 1),
    "cap_share": ("canvases at the cap", "%", 1e-2),
    "capped_step_share": ("steps in canvases at the cap", "%", 1e-2),
    "tpf_total": ("tokens per pass", "", 1),
    "floor_share": ("floor share", "%", 1e-2),
    "measured_floor_share": ("floor share by the measured roof", "%", 1e-2),
    "mbu": ("bandwidth used", "%", 1e-2),
    "mfu": ("arithmetic used", "%", 1e-2),
    "limit_speedup_vs_ar": ("speed-up at the floors", "x", 1),
    "straggler_share": ("lost to stragglers", "%", 1e-2),
    "canvas_fill": ("canvas fill", "%", 1e-2),
    "post_eos_waste": ("post-EOS waste", "%", 1e-2),
    "left_to_right": ("left to right, tau", "", 1),
    "proxy_nll_nats": ("proxy of quality: likelihood", "nats", 1),
    "proxy_agreement": ("proxy of quality: agreement", "%", 1e-2),
    "distinct_experts": ("distinct experts", "", 1),
    "energy_per_useful_token_j": ("energy a useful token", "J", 1),
    "energy_above_idle_per_useful_token_j": ("of it above idle", "J", 1),
    "energy_after_convergence_j": ("energy after convergence, estimate", "J", 1),
    "energy_after_eos_j": ("energy after EOS, estimate", "J", 1),
    "usd_per_million_useful_tokens": ("price of a million useful tokens", "USD", 1),
    "peak_memory_bytes": ("peak memory", "GB", 1e9),
    "peak_device_bytes": ("device or process memory", "GB", 1e9),
}
_WITH_INTERVAL = (
    *("useful_tok_s", "speedup_vs_ar", "cpu_speedup_vs_ar", "peer_speedup", "peer_step_speedup"),
    "exact_match",
)
_ALWAYS = ("decoding", "batch_size", "block_length", "num_steps")
_OPTIONAL = (
    *(
        "stopping",
        "prompt_set",
        "prompt_tokens",
        "output_tokens",
        "eos",
        "routing",
        "model",
        "backend",
        "device",
        "protocol",
    ),
    *("weight_dtype", "activation_dtype", "kv_dtype", "head_dtype", "options"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """kind: text, count (a setting), number (measured), or interval (measured: a list of value, low, high)."""

    key: str
    label: str
    kind: str
    title: str
    value: Callable[[CellRow], Any]  # of a planned cell
    of_cell: Callable[[Cell], Any] | None = None  # also known of a skipped cell


def cell_table(analysis: Analysis, columns: Sequence[Column] = ()) -> dict[str, Any]:
    """What the page's script shows: every planned and every skipped cell. columns: of `columns_of`, where it was asked.

    Numbers have four significant digits, of which the page shows three; a text is its number in the column's "texts".
    """
    columns = columns or columns_of(analysis)
    rows = [[column.value(row) for column in columns] for row in analysis.rows]
    for run_id, skipped in analysis.skipped:
        known = {"status": SKIPPED, "run_id": run_id, "notes": skipped.reason, "cell_id": skipped.cell_id}
        rows.append([known.get(c.key, c.of_cell(skipped.cell) if c.of_cell else None) for c in columns])
    heads: list[dict[str, Any]] = [{"key": c.key, "label": c.label, "kind": c.kind, "title": c.title} for c in columns]
    for i, column in enumerate(columns):
        if column.kind == "text" and column.key != "cell_id":
            heads[i]["texts"] = _numbered(rows, i)
    return {"report_schema": REPORT_SCHEMA, "columns": heads, "rows": rows}


def _numbered(rows: list[list[Any]], column: int) -> list[str]:
    """The different texts of a column; the rows keep their numbers, which makes large pages a third smaller."""
    texts: dict[str, int] = {}
    for row in rows:
        if row[column] is not None:
            row[column] = texts.setdefault(str(row[column]), len(texts))
    return list(texts)


def columns_of(analysis: Analysis) -> list[Column]:
    """The columns that the table has: what all cells share has none."""
    return list(_columns(analysis))


def _columns(analysis: Analysis) -> Iterator[Column]:
    yield Column(
        key="status", label="status", kind="text", title="ok, or what went wrong", value=lambda row: row.status
    )
    if len(analysis.runs) > 1:
        yield Column(key="run_id", label="run", kind="text", title="run directory", value=lambda row: row.run_id)
    cells = [row.cell for row in analysis.rows] + [skipped.cell for _, skipped in analysis.skipped]
    for key in (*_ALWAYS, *_OPTIONAL):
        # None is no condition of its own: an autoregressive cell lacks the stopping rule that all others share
        if key in _ALWAYS or len({setting(cell, key) for cell in cells} - {None}) > 1:
            yield _cell_column(key)
    for name, (label, unit, divisor) in _METRICS.items():
        if any(name in row.metrics for row in analysis.rows):
            yield _metric_column(name, f"{label}, {unit}" if unit else label, divisor)
    for key, title in (("floor_roof", "whose roofs the floor uses"), ("floor_experts", "whose distinct experts")):
        if len({getattr(row, key) for row in analysis.rows} - {None}) > 1:
            yield _basis_column(key, title)
    yield Column(key="notes", label="notes", kind="text", title="reasons and marks", value=_notes)
    yield Column(key="cell_id", label="cell id", kind="text", title="as in the records", value=lambda row: row.cell_id)


def _cell_column(key: str) -> Column:
    def read(cell: Cell) -> Any:
        return setting(cell, key)

    kind = "count" if key in ("batch_size", "block_length", "num_steps", "prompt_tokens", "output_tokens") else "text"
    label = {"batch_size": "batch", "block_length": "block", "num_steps": "steps"}.get(key, key.replace("_", " "))
    return Column(key=key, label=label, kind=kind, title=key, value=lambda row: read(row.cell), of_cell=read)


def _basis_column(key: str, title: str) -> Column:
    return Column(key=key, label=key.replace("_", " "), kind="text", title=title, value=lambda row: getattr(row, key))


def _metric_column(name: str, label: str, divisor: float) -> Column:
    has_interval = name in _WITH_INTERVAL

    def read(row: CellRow) -> Any:
        summary = row.metrics.get(name)
        if summary is None:
            return None
        if not has_interval:
            return _rounded(summary.value / divisor)
        return [_rounded(number / divisor) for number in (summary.value, summary.low, summary.high)]

    title = f"{name}: {METRICS[name].formula}"
    return Column(key=name, label=label, kind="interval" if has_interval else "number", title=title, value=read)


def _rounded(value: float) -> float | int:
    """Four significant digits, but no digit before the point is lost."""
    rounded = float(f"{value:.4g}" if abs(value) < 10_000 else f"{value:.0f}")
    return int(rounded) if rounded.is_integer() else rounded


def _notes(row: CellRow) -> str:
    return "; ".join([*([row.reason] if row.reason else []), *row.marks])


def slice_filter(parts: Sequence[Slice], keys: Collection[str]) -> str:
    """Words for the table's filter that keep the rows of slices side by side, out of the columns that it has."""
    values = {"run_id": [part.run_id for part in parts]} if "run_id" in keys else {}
    values |= {
        key: list(dict.fromkeys(value.lower() for part in parts for value in values_of(part, key)))
        for key in _OPTIONAL
        if key in keys
    }
    if "stopping" in values:
        values["stopping"].append("")  # autoregressive cells have none
    # A name with a blank or a bar cannot be a filter's word; the filter then keeps a little more.
    return " ".join(
        f"{key}={'|'.join(names)}"
        for key, names in values.items()
        if any(names) and not any(c.isspace() or c == "|" for name in names for c in name)
    )


def shared_conditions(analysis: Analysis) -> str:
    """What all cells have in common, and the table therefore has no column for."""
    cells = [row.cell for row in analysis.rows]
    shared = [(key, {getattr(cell, key) for cell in cells} - {None}) for key in _OPTIONAL if key != "options"]
    return ", ".join(
        f"{key.replace('_', ' ')} {plain(str(values.pop()))}" for key, values in shared if len(values) == 1
    )


def manifest(run_id: str, run: Run, analysis: Analysis) -> list[tuple[str, str]]:
    """What was run, as names and values."""
    plan = run.plan
    provenance = plan.get("provenance") or {}
    own = [row for row in analysis.rows if row.run_id == run_id]
    cells = [row.cell for row in own]
    model = plan["model"]
    entries = [
        ("suite", run.suite),
        ("run", run_id),
        ("what it is", str(plan.get("description", ""))),
        ("model", ", ".join(sorted({cell.model for cell in cells})) or str(model.get("name", ""))),
        ("weights", f"{'trained' if run.is_trained else 'random'}, hash {provenance.get('weights_hash') or 'unknown'}"),
        ("trained block length", str(run.trained_block_length or "none")),
        ("source hash", str(provenance.get("source_hash") or "unknown")),
        ("device", f"{run.device_name} ({plan['device']['name']})"),
        *((f"machine, {name}", _machine(one)) for name, one in sorted(run.environments.items())),
        ("price", price(plan["device"].get("price_usd_per_hour"))),
        ("protocol", _listed_protocol(plan["protocol"])),
        ("isolation", str(plan.get("isolation", "launch"))),
        ("seed", str(plan.get("seed"))),
    ]
    entries.append(("prompt hashes", ", ".join(f"{name} {digest}" for name, digest in _prompts(plan)) or "none"))
    for key in ("backend", "prompt_set", "prompt_tokens", "output_tokens", "stopping", "eos", "routing"):
        values = [value for value in dict.fromkeys(getattr(cell, key) for cell in cells) if value is not None]
        entries.append((key.replace("_", " "), listed(values) or "none"))
    for key in ("weight_dtype", "activation_dtype", "kv_dtype", "head_dtype"):
        entries.append((key.replace("_", " "), listed(list(dict.fromkeys(getattr(cell, key) for cell in cells)))))
    options = dict.fromkeys(fact for cell in cells for fact in flat("", cell.options))
    entries.append(("options", ", ".join(f"{name} {value}" for name, value in options) or "none"))
    kernels = {one for row in own for one in row.resolved}
    entries.append(("what really ran", "; ".join(sorted(kernels)) or "no finished round"))
    for key in ("floor_roof", "floor_experts"):
        bases = dict.fromkeys(value for row in own if (value := getattr(row, key)))
        entries.append((key.replace("_", " "), listed(list(bases)) or "no floor"))
    for environment_id, device in run.measured_roofs.items():
        entries.append((f"measured roof, {environment_id}", _roof(device)))
    coverage = ", ".join(f"{count} {name}" for name, count in analysis.coverage(run_id).items())
    discarded = [f"{count} x {reason}" for reason, count in sorted(analysis.discarded(run_id).items())]
    return [*entries, ("cells", coverage), ("discarded rounds", "; ".join(discarded) or "none")]


def _prompts(plan: dict[str, Any]) -> list[tuple[str, str]]:
    prompts = plan.get("prompts")
    return [(str(name), str(digest)) for name, digest in prompts.items()] if isinstance(prompts, dict) else []


def _machine(environment: Environment) -> str:
    """GPU or CPU, what ran on it, and the clocks at the start; the list of its environment has the rest."""
    layers = (environment.identity, environment.stack, environment.circumstance)
    known = {name: value for layer in layers for name, value in flat("", layer)}
    names = {
        "power limit W": "gpu.power_limit_w",
        "driver": "driver",
        "torch": "packages.torch",
        "commit": "project_commit",
        "SM clock MHz": "gpu.sm_clock_mhz",
        "memory clock MHz": "gpu.memory_clock_mhz",
    }
    device = known.get("gpu.name") or known.get("cpu", "unknown")
    return ", ".join([device, *(f"{name} {known.get(key, 'unknown')}" for name, key in names.items())])


def _roof(device: DeviceConfig) -> str:
    bandwidth = device.bandwidth_bytes_s.value
    facts = [] if bandwidth is None else [f"reads {bandwidth / 1e9:.4g} GB/s"]
    rates = {dtype: figure.value for dtype, figure in device.flops_s.items() if figure.value is not None}
    return ", ".join([*facts, *(f"{dtype} {rate / 1e12:.4g} TFLOP/s" for dtype, rate in rates.items())]) or "none"


def _listed_protocol(protocol: dict[str, Any]) -> str:
    known = {key: value for key, value in protocol.items() if value is not None}
    return ", ".join(f"{key} {value}" for key, value in flat("", known))


def environments(run: Run) -> list[tuple[str, list[tuple[str, str]]]]:
    """(environment id, its facts by layer) of a run."""
    found = []
    for name, environment in sorted(run.environments.items()):
        layers = ("identity", "stack", "circumstance")
        found.append((name, [fact for layer in layers for fact in flat(layer, getattr(environment, layer))]))
    return found
