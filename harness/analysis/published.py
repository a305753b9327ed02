"""Figures that others published beside the floor of what they say they ran. No row here was measured by this project.

What a source does not say is taken in the figure's favour: prefill out of the clock, an empty context, one canvas and
so no commit. Steps that it does not say are taken as ASSUMED_STEPS, and the most steps that the floor would allow stand
beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from harness.records.types import BLOCK_DIFFUSION
from harness.spec.config import DeviceConfig
from harness.spec.data import devices
from harness.spec.floor import Phase
from harness.spec.formats import WeightFormat, phases_of, released_shape
from harness.spec.published import Published, PublishedFigure

ASSUMED_STEPS = 16  # those behind the launch's chart
_UNKNOWN_PROMPT_TOKENS, _UNKNOWN_OUTPUT_TOKENS = 1, 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """A figure and its floor in tok/s. None: why_not says what is not known.

    most_steps: of a canvas, that the floor leaves room for at the published speed; of block diffusion alone.
    """

    figure: PublishedFigure
    floor_tok_s: float | None
    why_not: str = ""
    most_steps: float | None = None

    @property
    def share(self) -> float | None:
        """Published / floor: how near its engine comes to a perfect one. Above 1 something is not as it was read."""
        return None if self.floor_tok_s is None else self.figure.value / self.floor_tok_s

    @property
    def steps_are_assumed(self) -> bool:
        return self.figure.decoding == BLOCK_DIFFUSION and self.figure.num_steps is None

    @property
    def exceeds(self) -> bool:
        return self.share is not None and self.share > 1

    @property
    def says_how(self) -> bool:
        """Whether its conditions are known well enough to learn an engine's efficiency from it."""
        return (
            self.share is not None
            and not (self.steps_are_assumed or self.exceeds or self.figure.about)
            and self.figure.decoding != "speculative"
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "source": "published",
            "figure": asdict(self.figure),
            "floor_tok_s": self.floor_tok_s,
            "why_not": self.why_not,
            "assumed_steps": ASSUMED_STEPS if self.steps_are_assumed else None,
            "most_steps": self.most_steps,
            "share": self.share,
            "exceeds_floor": self.exceeds,
        }


def judge(published: Published) -> list[Judged]:
    """Every figure, in the file's order."""
    known = devices()
    return [_judged(figure, published.formats, known) for figure in published.figures]


def _judged(figure: PublishedFigure, formats: Mapping[str, WeightFormat], known: Mapping[str, DeviceConfig]) -> Judged:
    why = _why_no_floor(figure, known)
    if why:
        return Judged(figure=figure, floor_tok_s=None, why_not=why)
    shape = released_shape()
    is_diffusion = figure.decoding == BLOCK_DIFFUSION
    output_tokens = figure.output_tokens or _UNKNOWN_OUTPUT_TOKENS
    phases = phases_of(
        shape,
        formats[figure.format],
        known[figure.device],
        batch_size=figure.batch_size or 1,
        prompt_tokens=figure.prompt_tokens or _UNKNOWN_PROMPT_TOKENS,
        output_tokens=output_tokens,
        block_length=shape.canvas_length if is_diffusion else None,
    )
    if figure.left_out != "nothing":
        phases = {kind: phase for kind, phase in phases.items() if kind != "prefill"}
    tokens = output_tokens * (figure.batch_size or 1)
    steps = (figure.num_steps or ASSUMED_STEPS) if is_diffusion else 1
    return Judged(
        figure=figure,
        floor_tok_s=tokens / seconds_of(phases, steps),
        most_steps=_most_steps(phases, tokens / figure.value) if is_diffusion else None,
    )


def _why_no_floor(figure: PublishedFigure, known: Mapping[str, DeviceConfig]) -> str:
    if figure.num_devices > 1:
        return "more than one device, and a floor is that of one"
    if figure.device not in known:
        return "no file of this device"
    if not figure.format:
        return "its weights' format is not said"
    return ""


def seconds_of(phases: Mapping[str, Phase], num_steps: float) -> float:
    """The floor of a request whose every canvas takes so many steps."""
    return sum((phase.floor_s or 0.0) * (num_steps if kind == "denoise" else 1) for kind, phase in phases.items())


def _most_steps(phases: Mapping[str, Phase], wall_s: float) -> float:
    others = seconds_of({kind: phase for kind, phase in phases.items() if kind != "denoise"}, 1)
    return (wall_s - others) / (phases["denoise"].floor_s or 1.0)
