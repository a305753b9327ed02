"""The mini's task: right answers, and held-out items that training cannot have seen."""

from __future__ import annotations

import json
import random
import re
from itertools import pairwise
from pathlib import Path

import mini_data
import pytest
from mini_data import TASKS, Task

COUNT = 200
CLOSED = [task for task in TASKS if task.pattern is None]
OPEN = [task for task in TASKS if task.pattern is not None]


def some(task: Task, *, held_out: bool) -> list[mini_data.Item]:
    rng = random.Random(3)
    return [mini_data.item(task, rng, held_out=held_out) for _ in range(COUNT)]


def named(name: str) -> Task:
    return next(task for task in TASKS if task.name == name)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_training_never_draws_what_is_held_out(task: Task) -> None:
    rng = random.Random(0)
    operands = {task.draw(rng) for _ in range(5000)}
    kept_away = {o for o in operands if mini_data.is_held_out(task, o)}
    assert 0.05 < len(kept_away) / len(operands) < 0.15
    in_any_order = {tuple(sorted(map(str, o))) for o in operands - kept_away}
    assert not in_any_order & {tuple(sorted(map(str, o))) for o in kept_away}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_held_out_item_is_new_in_its_wording(task: Task) -> None:
    training, held_out = ({one.text for one in some(task, held_out=h)} for h in (False, True))
    assert not training & held_out
    openings = {(o, r, e) for o in range(5) for r in range(3) for e in range(5)}
    kept_away = {w for w in openings if mini_data.is_held_out_wording(*w)}
    assert len(kept_away) == len(openings) / 5
    for part in range(3):  # each opening, request and ending is seen in training with others
        assert {w[part] for w in openings - kept_away} == {w[part] for w in openings}


def test_every_equation_holds() -> None:
    for held_out in (False, True):
        for one in some(named("maths_easy"), held_out=held_out):
            question = re.search(r"(\d+)([+-])(\d+)", one.text)
            assert question and int(one.answer) == eval_sum(*question.groups())
        for one in some(named("maths_hard"), held_out=held_out):
            question = re.search(r"(\d+)([+-])(\d+)([+-])(\d+)", one.text)
            first, second = (re.fullmatch(r"(\d+)([+-])(\d+)=(\d+)", part) for part in one.answer.split(", "))
            assert question and first and second
            assert eval_sum(*first.groups()[:3]) == int(first[4]) == int(second[1])
            assert eval_sum(*second.groups()[:3]) == int(second[4])
            assert (first[1], first[2], first[3], second[2], second[3]) == question.groups()


def eval_sum(a: str, operator: str, b: str) -> int:
    return int(a) + (1 if operator == "+" else -1) * int(b)


def test_every_function_is_python_and_does_what_was_asked() -> None:
    words = {"plus": int.__add__, "minus": int.__sub__, "times": int.__mul__}
    for one in some(named("code_hard"), held_out=True):
        scope: dict[str, object] = {}
        exec(one.answer, scope)
        (function,) = (f for name, f in scope.items() if name != "__builtins__")
        x, y = re.search(r"\((\w), (\w)\)", one.answer).groups()  # type: ignore[union-attr]
        limit = int(re.search(rf"{x} (?:is )?over (\d+)", one.text)[1])  # type: ignore[index]
        then = re.search(rf"{x} (plus|minus|times) {y}", one.text)[1]  # type: ignore[index]
        other, amount = re.search(rf"else {y} (plus|minus|times) (\d+)", one.text).groups()  # type: ignore[union-attr]
        assert function(limit + 1, 7) == words[then](limit + 1, 7)  # type: ignore[operator]
        assert function(limit, 7) == words[other](7, int(amount))  # type: ignore[operator]


def test_json_answers_hold_the_facts_of_the_request() -> None:
    for one in some(named("json_hard"), held_out=True):
        people = json.loads(one.answer)
        assert len(people) == 2
        for name, (age, city) in people.items():
            words = re.findall(r"\w+", one.text)
            assert words.index(name) < min(words.index(str(age)), words.index(city))
        assert [age for age, _ in people.values()] == [int(n) for n in re.findall(r"\d+", one.text)]


def test_sorted_words_are_those_of_the_request() -> None:
    for one in some(named("prose_hard"), held_out=True):
        words = one.answer.rstrip(".").split(", ")
        assert words == sorted(words)
        assert all(word in one.text for word in words)


@pytest.mark.parametrize("task", OPEN, ids=lambda task: task.name)
def test_a_pattern_takes_every_right_answer_and_no_other_requests_answer(task: Task) -> None:
    items = some(task, held_out=True)
    assert len({one.answer for one in items}) > COUNT / 2  # open means that many answers are right
    for one, other in pairwise(items):
        assert one.pattern and other.pattern
        assert re.fullmatch(one.pattern, one.answer)
        assert not re.fullmatch(one.pattern, one.answer + " And.")
        if one.pattern != other.pattern:
            assert not re.fullmatch(other.pattern, one.answer)


def test_a_story_that_forgets_what_was_seen_is_wrong() -> None:
    for one in some(named("open_hard"), held_out=True):
        assert one.pattern
        seen = re.search(r"until the (\w+) was", one.answer)[1]  # type: ignore[index]
        other = "tower" if seen != "tower" else "storm"
        assert not re.fullmatch(one.pattern, one.answer.replace(f"until the {seen}", f"until the {other}"))


def test_another_seed_is_another_draw_and_the_same_seed_the_same(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        mini_data.write_prompt_sets(tmp_path / name, 10, seed)
    a, b, c = ([p.read_bytes() for p in sorted((tmp_path / name).iterdir())] for name in "abc")
    assert a == b
    assert all(x != y for x, y in zip(a, c, strict=True))
