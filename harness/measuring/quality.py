"""Whether an answer is right: the very output of a timed round against what its prompt's author expects.

An answer is the text before the first end-of-sequence id, also where the request ignored it, without special tokens and
without white space around it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from operator import eq
from typing import Any

from harness.measuring.backends.base import Tokenizer
from harness.records.types import Round
from harness.spec.data import RANDOM_IDS, Prompt, PromptSet


def graded(
    round: Round,
    prompt_set: PromptSet,
    prompts: Sequence[Prompt],
    output_ids: Sequence[Iterable[int]] | None,
    tokenizer: Tokenizer | None,
) -> Round:
    """The round with what can be said of its prompts and answers, one value a row, and why the rest is missing.

    Args:
        prompts: the prompt that each row answered, of that set; none for random token ids.
        output_ids: each row's useful ids.
    """
    if not prompts:
        names = ("prompt_ids", "categories", "exact", "token_accuracy")
        return _without(round, names, f"prompt set {RANDOM_IDS} has no prompts")
    asked: dict[str, Any] = {
        "prompt_ids": tuple(prompt.id for prompt in prompts),
        "categories": tuple(prompt.category for prompt in prompts),
    }
    if not prompt_set.has_checkers:
        return _without(round, ("exact", "token_accuracy"), f"prompt set {prompt_set.name} has no checkers", **asked)
    if output_ids is None or tokenizer is None:
        return _without(round, ("exact", "token_accuracy"), "the backend gives no text of its answers", **asked)
    answers = [_Answer(_plain(ids), tokenizer) for ids in output_ids]
    return replace(
        round,
        **asked,
        exact=tuple(_exact(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)),
        token_accuracy=tuple(_token_accuracy(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)),
    )


def _without(round: Round, names: Sequence[str], why: str, **known: Any) -> Round:
    return replace(round, **known, missing={**round.missing, **dict.fromkeys(names, why)})


def _plain(ids: Any) -> list[int]:
    """Arrays and tensors make plain numbers of themselves sooner than anybody else can."""
    return list(ids.tolist()) if hasattr(ids, "tolist") else [int(i) for i in ids]


class _Answer:
    """A row's output up to its end."""

    def __init__(self, output_ids: list[int], tokenizer: Tokenizer) -> None:
        end = min((output_ids.index(i) for i in tokenizer.eos_ids if i in output_ids), default=None)
        self.ids = output_ids[:end]
        self.has_end = end is not None
        self.tokenizer = tokenizer
        self.text = tokenizer.text(self.ids).strip()


def _exact(prompt: Prompt, answer: _Answer) -> int | None:
    if prompt.answer is not None:
        return int(answer.text == prompt.answer.strip())
    if prompt.pattern is not None:
        return int(re.fullmatch(prompt.pattern, answer.text, re.DOTALL) is not None)
    return None


def _token_accuracy(prompt: Prompt, answer: _Answer) -> float | None:
    """Tokens are compared place by place, so that one missing token costs all behind it."""
    if prompt.answer is None:
        return None
    expected = answer.tokenizer.tokens(prompt.answer)
    right = sum(map(eq, answer.ids, expected))
    ends_right = answer.has_end and len(answer.ids) == len(expected)
    return float((right + ends_right) / (len(expected) + 1))
