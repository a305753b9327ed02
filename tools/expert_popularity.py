"""Measure how often a trained model's tokens choose each expert: a file for routing=replay.

    python tools/expert_popularity.py mini mini_mix -o suites/experts/mini.yaml

Counts every layer's choices in the denoise and decode passes of both decoders, with the checkpoint's own stopping rule,
over a prompt set. The counts are of positions, padding and finished rows included, as an engine computes them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from engine import api
from engine.model import Model
from engine.observe import Seen
from harness.spec.data import load_prompts

_BATCH, _PROMPT_TOKENS, _OUTPUT_TOKENS = 16, 48, 96


class _Counted(Seen):
    """Counts choices of experts instead of distinct experts."""

    def __init__(self, num_layers: int, num_experts: int) -> None:
        super().__init__()
        self.counts_LE = torch.zeros(num_layers, num_experts, dtype=torch.long)
        self.layer = 0

    def begin(self, kind: str) -> None:
        super().begin(kind)
        self.layer = 0

    def experts(self, experts_NK: torch.Tensor) -> None:
        if self._counting:
            self.counts_LE[self.layer] += torch.bincount(experts_NK.flatten(), minlength=self.counts_LE.shape[1])
            self.layer += 1


def counts_of(model: Model, prompt_set: str) -> list[list[int]]:
    """[layer][expert] how often it was chosen."""
    assert model.tokenizer is not None, "the model has no tokenizer"
    pad, bos = model.config.generation.pad_id, model.config.generation.bos_id
    seen = _Counted(model.config.num_layers, model.config.num_experts)
    model.seen = seen
    texts = load_prompts(prompt_set).texts
    for begin in range(0, len(texts), _BATCH):
        rows = [
            ([] if bos is None else [bos]) + model.tokenizer.encode(text, add_special_tokens=False).ids
            for text in texts[begin : begin + _BATCH]
        ]
        rows = [row[:_PROMPT_TOKENS] for row in rows]
        ids_BT = torch.tensor([[pad] * (_PROMPT_TOKENS - len(row)) + row for row in rows])
        mask_BT = torch.tensor([[0] * (_PROMPT_TOKENS - len(row)) + [1] * len(row) for row in rows])
        for decoding in ("block_diffusion", "autoregressive"):
            generator = torch.Generator().manual_seed(begin)
            api.generate(
                model, ids_BT, decoding=decoding, output_tokens=_OUTPUT_TOKENS, attention_mask_BT=mask_BT,
                generator=generator,
            )  # fmt: skip
    counts: list[list[int]] = seen.counts_LE.tolist()
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="a shipped model's name, or a directory in Hugging Face layout")
    parser.add_argument("prompt_set", help="a name of suites/prompts")
    parser.add_argument("-o", "--output", required=True, type=Path)
    args = parser.parse_args()
    counts = counts_of(api.load(args.model), args.prompt_set)
    lines = [
        f"# How often each expert of each layer was chosen. Made by: python {' '.join(map(str, sys.argv))}",
        "basis: measured",
        f"model: {Path(args.model).name}",
        f"prompt_set: {args.prompt_set}",
        "layers:",
        *(f"  - {layer}" for layer in counts),
    ]
    args.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
