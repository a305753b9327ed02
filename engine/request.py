"""What one call of `generate` was asked (Request, checked and complete), what it gave (Generation), and its clock.

Legend: B batch, T prompt tokens, L block length, C canvases, n output tokens.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import torch

PASS_KINDS = ("prefill", "denoise", "commit", "decode")


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """Every choice of one call, with the checkpoint's own values filled in."""

    output_tokens: int
    real_BT: torch.Tensor | None  # False where the prompt is padding; None: no padding
    eos_ids: tuple[int, ...]  # () when they are plain tokens
    pad_id: int
    generator: torch.Generator | None
    # block diffusion
    block_length: int
    num_steps: int
    adaptive: bool
    replay_steps_BC: torch.Tensor | None  # steps of each row and canvas, drawn in advance; None: nothing is replayed
    entropy_bound: float
    t_min: float
    t_max: float
    stability: int
    confidence: float
    sampler: str
    # autoregressive
    temperature: float

    @property
    def num_canvases(self) -> int:
        return math.ceil(self.output_tokens / self.block_length)


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """What one call of `generate` gave.

    output_ids: (B, n) without the prompt, on the model's device. Block diffusion returns whole canvases, so n may
        exceed the tokens asked for. Behind a row's first end-of-sequence id there is only padding (eos "respect").
    useful_tokens: (B,) on the host. Tokens up to and including the first end-of-sequence id (eos "respect"), or all;
        at most the tokens asked for. A pad id that the model really produced counts.
    steps_per_canvas: (B, C) on the host. Denoising steps until the row stopped; 0 once the row's sequence had ended.
        (B, 0) for autoregressive decoding.
    passes: how often the model was called, by kind: prefill, denoise, commit, decode.
    row_passes: the same, each call counted once for every row it ran for. Fewer than passes x B where rows leave.
    step_s: seconds of each denoising step or decode pass. On CUDA from events read after the request.
    block_s: seconds since the call began at which each canvas [autoregressive: token] was on the host. On CUDA a
        canvas is copied to the host and timed there; a token's time is that of a CUDA event behind its pass, so that
        measuring adds no synchronisation.
    ttfb_s: the first of block_s.
    stop_reason: "eos" when every row ended within the tokens asked for, otherwise "length".
    """

    output_ids: torch.Tensor
    useful_tokens: torch.Tensor
    steps_per_canvas: torch.Tensor
    passes: dict[str, int]
    row_passes: dict[str, int]
    step_s: list[float]
    block_s: list[float]
    ttfb_s: float
    stop_reason: str

    @classmethod
    def empty(cls, prompt_BT: torch.Tensor) -> Generation:
        """Of a request that was only rehearsed."""
        batch, passes = len(prompt_BT), Passes()
        return cls(
            output_ids=prompt_BT[:, :0],
            useful_tokens=torch.zeros(batch, dtype=torch.long),
            steps_per_canvas=torch.zeros(batch, 0, dtype=torch.long),
            passes=passes.calls,
            row_passes=passes.rows,
            step_s=[],
            block_s=[],
            ttfb_s=math.nan,
            stop_reason="length",
        )


class Passes:
    """Counts calls of the model by kind, and for how many rows they ran."""

    def __init__(self) -> None:
        self.calls = dict.fromkeys(PASS_KINDS, 0)
        self.rows = dict.fromkeys(PASS_KINDS, 0)

    def count(self, kind: str, rows: int, calls: int = 1) -> None:
        self.calls[kind] += calls
        self.rows[kind] += calls * rows


class Ends:
    """Which rows have met an end-of-sequence id, and after how many tokens. Everything stays on the device."""

    def __init__(self, request: Request, batch: int, device: torch.device) -> None:
        self.eos = torch.tensor(request.eos_ids, dtype=torch.long, device=device) if request.eos_ids else None
        self.limit = request.output_tokens
        self.pad_id = request.pad_id
        self.finished_B = torch.zeros(batch, dtype=torch.bool, device=device)
        self.end_B = torch.full((batch,), self.limit + 1, device=device)  # tokens up to the first eos; none yet
        self.seen = 0  # tokens looked at so far

    def pad(self, ids_BL: torch.Tensor) -> torch.Tensor:
        """The next L tokens of each row, with padding behind the row's first end-of-sequence id."""
        length = ids_BL.shape[1]
        if self.eos is not None:
            ids_BL = torch.where(self.finished_B[:, None], self.pad_id, ids_BL)
            is_eos_BL = torch.isin(ids_BL, self.eos) & ~self.finished_B[:, None]
            ended_before_BL = is_eos_BL.cumsum(dim=-1) - is_eos_BL.long() > 0
            ids_BL = torch.where(ended_before_BL, self.pad_id, ids_BL)
            ends_now_B = is_eos_BL.any(dim=-1)
            here_B = self.seen + is_eos_BL.int().argmax(dim=-1) + 1
            self.end_B = torch.where(ends_now_B, here_B, self.end_B)
            self.finished_B = self.finished_B | ends_now_B
        self.seen += length
        return ids_BL

    def useful_tokens(self) -> torch.Tensor:
        return self.end_B.clamp(max=self.limit).cpu()

    def stop_reason(self) -> str:
        return "eos" if bool((self.end_B <= self.limit).all()) else "length"

    def finished_rows(self) -> list[bool]:
        """Reads the device, unless end-of-sequence ids are plain tokens and there is nothing to read."""
        return self.finished_B.tolist() if self.eos is not None else [False] * len(self.finished_B)


class Clock:
    """Times of one request. `now` marks cost no synchronisation: on CUDA they are events, read after the request."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self._began = time.perf_counter()
        self._first = self.now()
        self._steps: list[tuple[Any, Any]] = []
        self._blocks: list[Any] = []  # elapsed seconds, or an event

    def now(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def step_since(self, begin: Any) -> None:
        """A denoising step or decode pass that began at this mark ends here."""
        self._steps.append((begin, self.now()))

    def token(self) -> None:
        """An autoregressive token is ready here."""
        self._blocks.append(self.now() if self.cuda else time.perf_counter() - self._began)

    def canvas(self, ids_BL: torch.Tensor) -> None:
        """Copies a finished canvas to the host, and takes the time when it is there."""
        ids_BL.cpu()
        self._blocks.append(time.perf_counter() - self._began)

    def step_s(self) -> list[float]:
        return [self._between(begin, end) for begin, end in self._steps]

    def block_s(self) -> list[float]:
        return [b if isinstance(b, float) else self._between(self._first, b) for b in self._blocks]

    def _between(self, begin: Any, end: Any) -> float:
        if not self.cuda:
            return end - begin
        end.synchronize()
        return begin.elapsed_time(end) / 1e3
