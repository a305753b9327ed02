"""What was measured or published beside a predicted curve, and in which conditions it differs from the curve's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.analysis.efficiency import MEASURED, PUBLISHED
from harness.analysis.published import Judged
from harness.analysis.rows import CellRow
from harness.analysis.run_data import Run
from harness.records.types import AUTOREGRESSIVE, BLOCK_DIFFUSION, Cell
from harness.spec.floor import Shape, unknown_dtypes, widths_of
from harness.spec.formats import WeightFormat
from harness.spec.published import UNKNOWN, PublishedFigure


@dataclass(frozen=True, slots=True)
class Curve:
    """What a device's predicted curves are about."""

    form: WeightFormat
    shape: Shape
    num_steps: int
    block_length: int
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A speed of the whole batch. differs: in words, in what it is not comparable with the curve; (): in nothing."""

    source: str  # measured | published
    decoding: str
    batch_size: int
    tok_s: float
    differs: tuple[str, ...]


def points_of(
    curves: Mapping[str, Curve], rows: Sequence[CellRow], runs: Mapping[str, Run], judged: Sequence[Judged]
) -> dict[str, tuple[Point, ...]]:
    """By device. Points of another shape, block length or number of steps belong to no curve here and are left out."""
    found: dict[str, list[Point]] = {device: [] for device in curves}
    for row in rows:
        curve = curves.get(runs[row.run_id].device.name)
        if curve is None or "useful_tok_s" not in row.metrics or not _is_of(row, runs[row.run_id], curve):
            continue
        differs = _of_cell(row.cell, curve, is_trained=runs[row.run_id].is_trained)
        speed = row.metrics["useful_tok_s"].value
        found[runs[row.run_id].device.name].append(_point(MEASURED, row.cell, speed, differs))
    for one in judged:
        figure, curve = one.figure, curves.get(one.figure.device)
        is_plain = figure.num_devices == 1 and figure.decoding in (BLOCK_DIFFUSION, AUTOREGRESSIVE)
        has_place = figure.batch_size is not None
        if curve is not None and is_plain and has_place and figure.num_steps in (curve.num_steps, None):
            found[figure.device].append(_point(PUBLISHED, figure, figure.value, _of_figure(figure, curve)))
    return {device: tuple(points) for device, points in found.items() if points}


def _point(source: str, of: Cell | PublishedFigure, tok_s: float, differs: Sequence[str]) -> Point:
    batch = of.batch_size or 1
    return Point(source=source, decoding=of.decoding, batch_size=batch, tok_s=tok_s, differs=tuple(differs))


def _is_of(row: CellRow, run: Run, curve: Curve) -> bool:
    """Whether the row ran what the curve is about, were it in another format or at another length."""
    cell = row.cell
    steps = (cell.block_length, cell.num_steps, cell.stopping)
    is_alike = row.is_autoregressive or steps == (curve.block_length, curve.num_steps, "fixed")
    return is_alike and cell.backend != "fake" and run.shape == curve.shape


def _of_cell(cell: Cell, curve: Curve, *, is_trained: bool) -> list[str]:
    differs = _dtypes(cell, curve.form)
    differs += _lengths(cell.prompt_tokens, cell.output_tokens, curve)
    if cell.eos != "ignore":
        differs.append("answers end by themselves")
    if cell.routing == "model" and not is_trained:
        differs.append("an untrained router")
    elif cell.routing not in ("model", "uniform"):
        differs.append(f"{cell.routing} routing")
    return differs


def _dtypes(cell: Cell, form: WeightFormat) -> list[str]:
    weights, others = f"{cell.weight_dtype} weights and {cell.head_dtype} head", f"{cell.activation_dtype} activations"
    if unknown_dtypes(cell):
        return [weights, others]
    ours, theirs = form.widths, widths_of(cell)
    differs = [weights] if (ours.weight, ours.expert, ours.head) != (theirs.weight, theirs.expert, theirs.head) else []
    return differs + ([others] if (ours.activation, ours.kv) != (theirs.activation, theirs.kv) else [])


def _of_figure(figure: PublishedFigure, curve: Curve) -> list[str]:
    differs = []
    if figure.format != curve.form.name:
        differs.append(f"{figure.format} weights" if figure.format else "format not stated")
    if figure.decoding == BLOCK_DIFFUSION and figure.num_steps is None:
        differs.append("steps not stated")
    differs += _lengths(figure.prompt_tokens, figure.output_tokens, curve)
    if figure.left_out != "nothing":
        differs.append("clock not stated" if figure.left_out == UNKNOWN else f"{figure.left_out} not in the clock")
    if figure.about:
        differs.append(f'"{figure.about}"')
    return differs


def _lengths(prompt_tokens: int | None, output_tokens: int | None, curve: Curve) -> list[str]:
    """Where they are not the curve's."""
    if prompt_tokens is None or output_tokens is None:
        return ["lengths not stated"]
    alike = (prompt_tokens, output_tokens) == (curve.prompt_tokens, curve.output_tokens)
    return [] if alike else [f"{prompt_tokens:,} -> {output_tokens:,} tokens"]
