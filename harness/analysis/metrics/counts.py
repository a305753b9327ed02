"""What was executed and used: steps, passes, tokens, experts, bytes. They repeat exactly with their seed."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import NoReturn

from harness.analysis.metrics.registry import Missing, Part, metric, present
from harness.analysis.run_data import CellPlan
from harness.records.types import AUTOREGRESSIVE, Record, Round


@metric(unit="steps", better="lower", kind="counter")
def steps_per_canvas(round: Round, planned: CellPlan) -> float:
    """Mean algorithmic steps over rows and canvases; a canvas after a row's end, where it takes none, is left out."""
    if planned.cell.decoding == AUTOREGRESSIVE:
        raise Missing("autoregressive decoding has no canvas")
    return _mean([steps for row in _steps(round) for steps in row if steps])


@metric(unit="share", better="lower", kind="counter", scope="share")
def cap_share(round: Round, planned: CellPlan) -> list[Part]:
    """Adaptive stopping: canvases that took as many steps as they may / canvases, over all rows of all rounds."""
    num_steps = _cap_of(planned)
    taken = [[steps for steps in row if steps] for row in _steps(round)]
    return [(row.count(num_steps), len(row)) for row in taken]


@metric(unit="share", better="lower", kind="counter", scope="share")
def capped_step_share(round: Round, planned: CellPlan) -> list[Part]:
    """Adaptive stopping: steps of the canvases that took as many as they may / all steps, over all rows and rounds."""
    num_steps = _cap_of(planned)
    return [(row.count(num_steps) * num_steps, sum(row)) for row in _steps(round)]


@metric(unit="tokens/pass", better="higher", kind="counter")
def tpf_denoise(round: Round, planned: CellPlan) -> float:
    """Mean over rows of useful tokens / denoise passes."""
    passes = round.passes.get("denoise", 0)
    if not passes:
        raise Missing("no denoise pass")
    return _mean(round.useful_tokens) / passes


@metric(unit="tokens/pass", better="higher", kind="counter")
def tpf_total(round: Round, planned: CellPlan) -> float:
    """Mean over rows of useful tokens / all passes after prefill."""
    passes = sum(count for kind, count in round.passes.items() if kind != "prefill")
    if not passes:
        raise Missing("no pass after prefill")
    return _mean(round.useful_tokens) / passes


@metric(unit="tokens", better="higher", kind="counter")
def useful_tokens_per_row(round: Round, planned: CellPlan) -> float:
    """Mean over rows of useful tokens: the length of an answer."""
    return _mean(round.useful_tokens)


@metric(unit="share", better="lower", kind="counter")
def straggler_share(round: Round, planned: CellPlan) -> float:
    """1 - work of the rows / work that was executed for them: a static batch runs until its last row is done.

    Work is denoise steps, or useful tokens when autoregressive. Executed is every pass, once for each row it ran for:
    denoise, or when autoregressive prefill and decode. Where rows leave the batch when they are done, nothing is lost.
    """
    if planned.cell.decoding == AUTOREGRESSIVE:
        return 1 - sum(round.useful_tokens) / _executed(round, "prefill", "decode")
    return 1 - sum(map(sum, _steps(round))) / _executed(round, "denoise")


@metric(unit="share", better="lower", kind="counter")
def post_eos_waste(round: Round, planned: CellPlan) -> float:
    """1 - useful tokens of all rows / computed positions: those of every canvas (autoregressive: every token) x rows.

    The waste is what lies behind a row's first EOS or behind its requested length: the rest of its last canvas, and all
    that a static batch computes for it until its last row is done. With eos ignored, the rest of the last canvas.
    """
    return 1 - sum(round.useful_tokens) / round.raw_tokens


@metric(unit="share", better="higher", kind="counter")
def canvas_fill(round: Round, planned: CellPlan) -> float:
    """Mean over rows of useful tokens / (block_length x canvases in which the row took a step).

    Unlike 1 - post_eos_waste it does not charge a row for canvases that ran for other rows alone.
    """
    block_length = planned.cell.block_length
    if block_length is None:
        raise Missing("autoregressive decoding has no canvas")
    rows = zip(round.useful_tokens, _steps(round), strict=True)
    return fmean(useful / (block_length * (len(row) - row.count(0))) for useful, row in rows)


@metric(unit="bytes", better="lower", kind="counter")
def peak_memory_bytes(round: Round, planned: CellPlan) -> float:
    """Most bytes that the framework had allocated on the device at once."""
    return float(present("peak_allocated_bytes", round))


@metric(unit="bytes", better="lower", kind="counter")
def peak_device_bytes(round: Round, planned: CellPlan) -> float:
    """Most bytes in use on the whole device; on a CPU, by the process."""
    return float(present("peak_device_bytes", round))


@metric(unit="experts", better="lower", kind="counter", scope="record")
def distinct_experts(record: Record, planned: CellPlan) -> float:
    """Mean over passes and layers of the distinct experts that were read, from the record's untimed counting round."""
    hits: list[int] = [count for layers in record.counters.get("expert_hits", ()) for count in layers]
    if not hits:
        raise Missing("experts were not counted")
    return _mean(hits)


def _mean(counts: Sequence[int]) -> float:
    """What statistics.mean gives of whole numbers, a hundred times as fast; raises ZeroDivisionError of none."""
    return sum(counts) / len(counts)


@metric(unit="passes", better="lower", kind="counter")
def passes(round: Round, planned: CellPlan) -> float:
    """Executed passes of every kind, prefill included, as the backend counts them."""
    return float(sum(round.passes.values())) or _none("no pass was counted")


@metric(unit="passes", better="lower", kind="counter", scope="record")
def forwards(record: Record, planned: CellPlan) -> float:
    """Times that one untimed request really ran the model, whatever the backend says: calls of its busiest module."""
    return _counter("forwards", record)


@metric(unit="operations", better="lower", kind="counter", scope="record")
def torch_operations(record: Record, planned: CellPlan) -> float:
    """Operations that one untimed request asks of torch, as its dispatcher sees them: on a GPU nearly the number of
    kernel launches, without what a CUDA graph replays.
    """
    return _counter("torch_operations", record)


@metric(unit="FLOP", better="lower", kind="counter", scope="record")
def torch_flops(record: Record, planned: CellPlan) -> float:
    """FLOPs of one untimed request by torch's own counter: matrix products and attention."""
    return _counter("torch_flops", record)


@metric(unit="bytes", better="lower", kind="counter", scope="record")
def torch_bytes(record: Record, planned: CellPlan) -> float:
    """Bytes of one untimed request's operations: each one's inputs read and outputs written once, views left out."""
    return _counter("torch_bytes", record)


@metric(unit="bytes", better="lower", kind="counter", scope="record")
def peak_tensor_bytes(record: Record, planned: CellPlan) -> float:
    """Most bytes that the tensors made by one untimed request held at once; weights are not among them."""
    return _counter("peak_tensor_bytes", record)


def _counter(name: str, record: Record) -> float:
    value = record.counters.get(name)
    return float(value) if isinstance(value, int | float) else _none(f"{name} was not counted")


def _none(why: str) -> NoReturn:
    raise Missing(why)


def _steps(round: Round) -> tuple[tuple[int, ...], ...]:
    if not round.steps_per_canvas:
        raise Missing(round.missing.get("steps_per_canvas", "no step counts"))
    return round.steps_per_canvas


def _executed(round: Round, *kinds: str) -> int:
    """Passes of these kinds, each once for every row it ran for."""
    if not round.row_passes:
        raise Missing(round.missing.get("passes", "the backend counted no passes"))
    return sum(round.row_passes.get(kind, 0) for kind in kinds)


def _cap_of(planned: CellPlan) -> int:
    if planned.cell.stopping != "adaptive" or planned.cell.num_steps is None:
        raise Missing("only adaptive stopping has a cap")
    return planned.cell.num_steps
