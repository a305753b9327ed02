"""What a backend is: something that loads a model and answers one request at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from engine.config import ModelConfig
from harness.records.types import Cell
from harness.spec.config import DeviceConfig, ModelSource


class OutOfMemory(Exception):
    """The request did not fit the device or the host. A result, not a failure."""


class Unsupported(Exception):
    """The backend cannot do what the cell asks; the message says what. A result, not a failure."""


class DeviceBroken(Exception):
    """The device raised an error after which this process cannot use it any more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What one request gave. Fields as in `Round`, which adds what the harness itself sees (wall and CPU time).

    row_passes: None where every pass ran for the whole batch.
    output_ids: the useful tokens of each row, on the host; None where the backend has no ids. The harness makes plain
        numbers of them after the clock has stopped.
    """

    device_s: float | None
    ttfb_s: float
    block_s: tuple[float, ...]
    step_s: tuple[float, ...]
    passes: dict[str, int]
    steps_per_canvas: tuple[tuple[int, ...], ...]
    useful_tokens: tuple[int, ...]
    raw_tokens: int
    stop_reason: str
    resolved: dict[str, str]
    row_passes: dict[str, int] | None = None
    output_ids: Sequence[Iterable[int]] | None = None
    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    peak_device_bytes: int | None = None
    missing: dict[str, str] = field(default_factory=dict)


class Tokenizer(Protocol):
    """What grading needs to know of a model's vocabulary."""

    @property
    def eos_ids(self) -> Collection[int]:
        """Ids of which the first one ends an answer, whether the request respected it or not."""

    def text(self, ids: Sequence[int]) -> str:
        """What the ids spell, special tokens left out."""

    def tokens(self, text: str) -> Sequence[int]:
        """The ids of a text in the middle of a sequence: nothing is put before or behind it."""


class Backend(Protocol):
    """One file in this folder and one line in registry.py make a backend.

    The harness times `generate` and nothing else: `prepare` does all that a server has done before a request arrives,
    and `generate` returns when every token is on the host.
    """

    def load(self, source: ModelSource, shape: ModelConfig, device: DeviceConfig, cell: Cell, seed: int) -> None:
        """Load the weights in the cell's dtypes on the device, dropping those of an earlier load.

        Raises:
            Unsupported, OutOfMemory, ConfigError (a checkpoint that cannot be read).
        """

    def prepare(self, cell: Cell, texts: tuple[str, ...], seed: int) -> Any:
        """Inputs of one request on the device: `texts` has one prompt a row, or none for random token ids."""

    def generate(self, cell: Cell, prepared: Any) -> Answer:
        """Answer the request."""

    def count(self, cell: Cell, prepared: Any) -> dict[str, Any]:
        """Counters of the same request, untimed.

        Whatever the backend can tell: kinds: [pass] denoise or decode; expert_hits: [pass][layer] distinct experts;
        entropies_nats: [step][row] mean; settled_steps: [canvas][row][position] the step, counted from 1, from which on
        a useful position's likeliest token never changed; output_ids: [row][position] useful tokens; nll_nats: [row]
        mean negative log-likelihood of the useful tokens under the same weights in causal mode. Of settled_steps and
        output_ids the first eight rows. phase_s: {pass kind: {part: seconds}}, exclusive, of all its passes together,
        whose number phase_passes has: {pass kind: passes}.
        """

    def tokenizer(self) -> Tokenizer | None:
        """Of the loaded model; None where there is none, and then no answer is graded."""

    def mark(self, stage: str, index: int) -> AbstractContextManager[None]:
        """NVTX range bench.<stage> (warmup, measure, energy, profile) around one request."""
