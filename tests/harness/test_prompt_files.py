"""The prompt sets in suites/prompts: complete, well-formed, and really different from one another."""

from __future__ import annotations

import difflib
import itertools
import json
import re
from collections import defaultdict
from pathlib import Path

import pytest

PROMPTS_DIR = Path(__file__).resolve().parents[2] / "suites" / "prompts"
SETS = ["chat", "code", "json", "maths", "prose"]
SAME_START = 30  # only prompts that begin alike are compared in full, or it would take minutes
TOO_SIMILAR = 0.9


def lines_of(name: str) -> list[dict[str, str]]:
    """The prompts of one set, parsed."""
    content = (PROMPTS_DIR / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in content.splitlines()]


def normalised(text: str) -> str:
    """The text without differences of case and white space."""
    return " ".join(text.casefold().split())


PROMPTS = {name: lines_of(name) for name in SETS}


def test_every_expected_set_has_a_file():
    assert set(SETS) <= {path.stem for path in PROMPTS_DIR.glob("*.jsonl")}


@pytest.mark.parametrize("name", SETS)
def test_a_set_has_at_least_128_prompts(name):
    assert len(PROMPTS[name]) >= 128


@pytest.mark.parametrize("name", SETS)
def test_a_line_holds_an_id_and_a_text_and_nothing_else(name):
    for prompt in PROMPTS[name]:
        assert list(prompt) == ["id", "text"]
        assert prompt["text"] == prompt["text"].strip()


@pytest.mark.parametrize("name", SETS)
def test_ids_are_the_sets_name_and_a_running_number(name):
    assert [prompt["id"] for prompt in PROMPTS[name]] == [f"{name}-{i:03d}" for i in range(1, len(PROMPTS[name]) + 1)]


@pytest.mark.parametrize("name", SETS)
def test_lengths_are_those_of_real_prompts(name):
    outside = [prompt["id"] for prompt in PROMPTS[name] if not 20 <= len(prompt["text"]) <= 2000]
    assert outside == []


@pytest.mark.parametrize("name", SETS)
def test_a_set_has_a_few_prompts_beyond_ascii(name):
    beyond = sum(not prompt["text"].isascii() for prompt in PROMPTS[name])
    assert 2 <= beyond <= len(PROMPTS[name]) // 4


def test_no_text_occurs_twice_in_any_set():
    ids = defaultdict(list)
    for prompt in itertools.chain.from_iterable(PROMPTS.values()):
        ids[normalised(prompt["text"])].append(prompt["id"])
    assert [same for same in ids.values() if len(same) > 1] == []


@pytest.mark.parametrize("name", SETS)
def test_prompts_that_begin_alike_go_on_differently(name):
    alike = defaultdict(list)
    for prompt in PROMPTS[name]:
        alike[prompt["text"][:SAME_START]].append(prompt)
    for group in alike.values():
        for a, b in itertools.combinations(group, 2):
            ratio = difflib.SequenceMatcher(None, a["text"], b["text"], autojunk=False).ratio()
            assert ratio <= TOO_SIMILAR, (a["id"], b["id"])


@pytest.mark.parametrize("name", SETS)
def test_prompts_are_no_template_with_another_number(name):
    seen = defaultdict(list)
    for prompt in PROMPTS[name]:
        seen[re.sub(r"\d+", "0", normalised(prompt["text"]))].append(prompt["id"])
    assert [same for same in seen.values() if len(same) > 1] == []
