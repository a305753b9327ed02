"""Grading: what counts as the answer, when it is right, and that it is the timed answer that is graded."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from synthetic import Scenario, plan_of, record_of
from test_session import Notes, run
from test_session import plan_of as fake_plan

from engine import api
from engine.tokenizer import byte_level
from harness.measuring.backends.base import Answer
from harness.measuring.quality import graded
from harness.records import store
from harness.records.types import Cell, Round
from harness.spec.config import ConfigError
from harness.spec.data import Prompt, PromptSet, load_prompts

END = 0


class Letters:
    """Ids 1 to 26 are letters, 27 is a space; 90 and above are special; 0 and 99 end an answer."""

    eos_ids = (END, 99)

    def text(self, ids: Any) -> str:
        return "".join(" abcdefghijklmnopqrstuvwxyz"[i % 27] for i in ids if i < 90)

    def tokens(self, text: str) -> list[int]:
        return [" abcdefghijklmnopqrstuvwxyz".index(c) or 27 for c in text]


def ids_of(text: str, *behind: int) -> list[int]:
    return [*Letters().tokens(text), *behind]


def grades(checker: dict[str, str], *outputs: list[int]) -> Round:
    """A round of which each row answered the same prompt."""
    prompt = Prompt(id="p-1", text="?", category="sums", **checker)
    scenario = Scenario(axes={"batch_size": [len(outputs)]})
    (plain, *_) = record_of(scenario, plan_of(scenario).cells[0].cell, 0, "r").rounds
    prompts = PromptSet(name="own", prompts=(prompt,), content_hash="")
    return graded(plain, prompts, [prompt] * len(outputs), outputs, Letters())


@pytest.mark.parametrize(
    ("output", "exact"),
    [
        (ids_of("cat", END), 1),
        (ids_of("cat"), 1),  # cut by the requested length, and complete
        (ids_of("cat", END, *ids_of("dog")), 1),  # eos ignored: what follows is no part of the answer
        (ids_of("cat", 99, *ids_of("s")), 1),  # any of the ids that end an answer
        (ids_of("cats", END), 0),
        (ids_of("ca", END), 0),
        (ids_of(" cat ", END), 1),
        ([95, *ids_of("cat"), 96, END], 1),  # special tokens are no text
        ([END, *ids_of("cat")], 0),
    ],
)
def test_an_answer_is_right_when_its_text_before_the_end_is_the_expected_one(output: list[int], exact: int) -> None:
    assert grades({"answer": "cat"}, output).exact == (exact,)


@pytest.mark.parametrize(("text", "exact"), [("ab", 1), ("abab", 1), ("aba", 0), ("xab", 0), ("abx", 0)])
def test_a_pattern_must_match_the_whole_answer(text: str, exact: int) -> None:
    assert grades({"pattern": "(ab)+"}, ids_of(text, END)).exact == (exact,)


def test_a_dot_of_a_pattern_matches_a_line_end() -> None:
    prompt = Prompt(id="p", text="?", category="c", pattern="a.b")

    class Lines(Letters):
        def text(self, ids: Any) -> str:
            return "a\nb"

    (plain, *_) = record_of(Scenario(), plan_of(Scenario()).cells[0].cell, 0, "r").rounds
    prompts = PromptSet(name="own", prompts=(prompt,), content_hash="")
    assert graded(plain, prompts, [prompt], [[1]], Lines()).exact == (1,)


@pytest.mark.parametrize(
    ("output", "right"),
    [
        (ids_of("cat", END), 4),
        (ids_of("cut", END), 3),
        (ids_of("cat"), 3),  # no end of sequence
        (ids_of("at", END), 0),  # every token at the wrong place
        (ids_of("cats", END), 3),
        ([END], 0),
        ([], 0),
    ],
)
def test_token_accuracy_counts_tokens_at_their_place_and_the_end_of_sequence(output: list[int], right: int) -> None:
    assert grades({"answer": "cat"}, output).token_accuracy == (right / 4,)


def test_an_open_prompt_has_no_token_accuracy() -> None:
    assert grades({"pattern": ".*"}, ids_of("cat")).token_accuracy == (None,)


def test_each_row_is_graded_by_itself_and_says_what_it_answered() -> None:
    round = grades({"answer": "cat"}, ids_of("cat"), ids_of("dog"), ids_of("cat"))
    assert (round.exact, round.prompt_ids, round.categories) == ((1, 0, 1), ("p-1",) * 3, ("sums",) * 3)


def test_prompts_without_checkers_leave_grades_missing_with_the_reason() -> None:
    round = grades({}, ids_of("cat"))
    assert (round.exact, round.token_accuracy, round.prompt_ids) == (None, None, ("p-1",))
    assert round.missing["exact"] == round.missing["token_accuracy"] == "prompt set own has no checkers"


# In a session


class Spelling(Notes):
    """Answers every prompt with its own first letter, in a batch of two or more with a wrong one."""

    def generate(self, cell: Cell, prepared: int) -> Answer:
        rows = [ids_of(text[0] if cell.batch_size == 1 else "z", END) for text in self.texts]
        return dataclasses.replace(super().generate(cell, prepared), output_ids=rows)

    def tokenizer(self) -> Any:
        return Letters()


def checked_set(folder: Path, count: int = 8) -> Path:
    lines = [
        {"id": f"q-{i}", "text": letter * 3, "category": "even" if i % 2 == 0 else "odd", "answer": letter}
        for i, letter in enumerate("abcdefghijklmnopqrstuvwxy"[:count])
    ]
    (folder / "prompts").mkdir(parents=True)
    (folder / "prompts" / "own.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_the_timed_answers_are_the_ones_graded(tmp_path: Path) -> None:
    plan = fake_plan("axes.prompt_set=[own]", "protocol.rounds=2", config_dir=checked_set(tmp_path / "suites"))
    run(plan, tmp_path / "run", Spelling())
    for record in store.read_records(tmp_path / "run").records:
        for round in record.rounds:
            assert round.exact == ((1,) if record.cell.batch_size == 1 else (0, 0))


def test_rounds_ask_every_prompt_once_where_there_are_as_many_prompts_as_rows(tmp_path: Path) -> None:
    words = ("axes.batch_size=[2]", "axes.prompt_set=[own]", "protocol.rounds=4")
    run(fake_plan(*words, config_dir=checked_set(tmp_path / "suites")), tmp_path / "run", Spelling())
    for record in store.read_records(tmp_path / "run").records:
        asked = [prompt for round in record.rounds for prompt in round.prompt_ids or ()]
        assert sorted(asked) == [f"q-{i}" for i in range(8)]


def test_a_larger_batch_answers_the_prompts_of_a_smaller_one_too(tmp_path: Path) -> None:
    words = ("axes.batch_size=[1,3,8]", "axes.prompt_set=[own]", "protocol.rounds=3")
    run(fake_plan(*words, config_dir=checked_set(tmp_path / "suites")), tmp_path / "run", Spelling())
    asked: dict[int, dict[int, set[str]]] = {}
    for record in store.read_records(tmp_path / "run").records:
        for round in record.rounds:
            asked.setdefault(round.index, {})[record.cell.batch_size] = set(round.prompt_ids or ())
    assert all(sizes[1] < sizes[3] < sizes[8] for sizes in asked.values())


def test_a_backend_without_text_says_so_and_is_measured_all_the_same(tmp_path: Path) -> None:
    run(fake_plan("axes.prompt_set=[own]", config_dir=checked_set(tmp_path / "suites")), tmp_path / "run")
    for record in store.read_records(tmp_path / "run").records:
        assert record.status == "ok"
        assert {round.missing["exact"] for round in record.rounds} == {"the backend gives no text of its answers"}


def test_the_reference_backend_spells_its_own_ids(tmp_path: Path) -> None:
    from harness.measuring.backends.reference import ReferenceBackend

    backend = ReferenceBackend()
    backend._model = api.load("tiny")
    tokenizer = backend.tokenizer()
    assert tokenizer is not None
    ids = byte_level().encode("naïve <eos> 7").ids
    assert tokenizer.tokens("naïve <eos> 7") == ids
    assert tokenizer.text([2, *ids, 1, 0]) == "naïve <eos> 7"
    assert set(tokenizer.eos_ids) == {1, 3}


# Prompt files


def own_set(folder: Path, *lines: str) -> PromptSet:
    (folder / "prompts").mkdir()
    (folder / "prompts" / "own.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return load_prompts("own", str(folder))


def test_a_checked_prompt_is_read_whole(tmp_path: Path) -> None:
    prompts = own_set(
        tmp_path, '{"id": "a", "text": "2+2?", "category": "sums", "answer": "4"}', '{"id": "b", "text": "Go on:"}',
        '{"id": "c", "text": "Any word", "pattern": "[a-z]+"}',
    ).prompts  # fmt: skip
    assert prompts == (
        Prompt(id="a", text="2+2?", category="sums", answer="4"),
        Prompt(id="b", text="Go on:", category="own"),
        Prompt(id="c", text="Any word", category="own", pattern="[a-z]+"),
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('"answer": "x", "pattern": "x"', "one of them"),
        ('"answer": ""', "answer"),
        ('"answer": " "', "answer"),
        ('"answer": 4', "answer"),
        ('"pattern": "("', "regular expression"),
        ('"pattern": null', "pattern"),
        ('"category": ["a"]', "category"),
        ('"id": 7', "id"),
    ],
)
def test_a_broken_checker_is_refused_with_its_place(tmp_path: Path, more: str, said: str) -> None:
    line = '{"text": "hello", ' + more + "}"
    with pytest.raises(ConfigError, match=rf"own\.jsonl:2: .*{said}"):
        own_set(tmp_path, '{"id": "own-001", "text": "hello"}', line)
