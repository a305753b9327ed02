"""What the mini is taught to do: twelve tasks, made of operands, wordings and right answers.

Five categories have one right answer to a request; `open` has many, which a regular expression tells from wrong ones.
Each category has an easy and a hard level.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass

Operands = tuple[str | int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One category at one level.

    draw: operands from a generator. requests: wordings with {0}, {1}, ... for the operands. answer: the right answer to
    operands; for an open task one of them, by the generator. pattern: of an open task, matches all of them. weight: how
    often training draws the task; sums take longest to learn.
    """

    category: str
    level: str
    draw: Callable[[random.Random], Operands]
    requests: tuple[str, ...]
    answer: Callable[[Operands, random.Random], str]
    pattern: Callable[[Operands], str] | None = None
    weight: int = 1

    @property
    def name(self) -> str:
        return f"{self.category}_{self.level}"


# fmt: off
NAMES = (
    "Ana", "Ben", "Eva", "Ian", "Joe", "Kim", "Leo", "Mia", "Nia", "Otto", "Pia", "Rex",
    "Sam", "Tom", "Uma", "Zoe",
)
ANIMALS = ("bear", "cat", "cow", "dog", "duck", "fox", "goat", "hen", "horse", "mouse", "pig", "wolf")
CITIES = ("Bonn", "Cairo", "Delhi", "Lima", "Oslo", "Paris", "Quito", "Rome", "Tokyo", "Turin")
COLOURS = ("black", "blue", "brown", "green", "grey", "pink", "red", "white")
SIZES = ("big", "long", "new", "short", "small", "tall", "thin", "wide")
THINGS = ("bag", "ball", "boat", "book", "box", "cup", "hat", "kite", "lamp", "map")
FRUIT = ("apple", "cherry", "date", "fig", "grape", "kiwi", "lemon", "mango", "olive", "peach", "plum", "quince")
PLACES = (
    "bank", "beach", "garden", "hill", "lake", "market", "mill",
    "park", "river", "school", "station", "wood",
)
PAST = {
    "calls": "called", "climbs": "climbed", "comes": "came", "drives": "drove",
    "goes": "went", "jumps": "jumped", "looks": "looked", "moves": "moved",
    "rides": "rode", "runs": "ran", "swims": "swam", "walks": "walked",
}
# fmt: on
VARIABLES = ("a", "b", "n", "x", "y", "z")
FUNCTIONS = ("calc", "change", "count", "move", "next", "scale", "shift", "step", "total", "value")
SIGNS = {"plus": "+", "minus": "-", "times": "*"}


def _sum_or_difference(rng: random.Random) -> Operands:
    """All numbers in it have at most two digits."""
    a, b = sorted((rng.randrange(100), rng.randrange(100)))
    if rng.random() < 0.5:
        return (b, "-", a)
    return (b - a, "+", a) if rng.random() < 0.5 else (a, "+", b - a)


def _chain(rng: random.Random) -> Operands:
    """A number and two steps of one digit each."""
    a, b, c = rng.randrange(20, 80), rng.randrange(1, 10), rng.randrange(1, 10)
    return (a, rng.choice("+-"), b, rng.choice("+-"), c)


def _apply(a: int, operator: str, b: int) -> int:
    return a + b if operator == "+" else a - b


def _chain_answer(o: Operands, _: random.Random) -> str:
    a, first, b, second, c = o
    middle = _apply(int(a), str(first), int(b))
    return f"{a}{first}{b}={middle}, {middle}{second}{c}={_apply(middle, str(second), int(c))}"


def _people(rng: random.Random) -> Operands:
    (a, b), (x, y), (here, there) = rng.sample(NAMES, 2), rng.sample(range(10, 100), 2), rng.sample(CITIES, 2)
    return (a, x, here, b, y, there)


def _facts(rng: random.Random) -> Operands:
    """A name, a city, an animal, a thing, and which two of them are asked for."""
    asked = rng.sample(("name", "city", "pet", "gift"), 2)
    return (rng.choice(NAMES), rng.choice(CITIES), rng.choice(ANIMALS), rng.choice(THINGS), *asked)


def _facts_answer(o: Operands, _: random.Random) -> str:
    known = {"name": o[0], "city": o[1], "pet": f"a {o[2]}", "gift": f"a {o[3]}"}
    return f"Your {o[4]} is {known[str(o[4])]} and your {o[5]} is {known[str(o[5])]}."


def _branches(rng: random.Random) -> Operands:
    x, y = rng.sample(VARIABLES, 2)
    first, second = rng.sample(sorted(SIGNS), 2)
    return (rng.choice(FUNCTIONS), x, y, rng.randrange(100), first, second, rng.randrange(2, 100))


def _branches_answer(o: Operands, _: random.Random) -> str:
    name, x, y, limit, first, second, amount = o
    return (
        f"def {name}({x}, {y}):\n if {x} > {limit}: return {x} {SIGNS[str(first)]} {y}\n"
        f" return {y} {SIGNS[str(second)]} {amount}"
    )


def _one_of(words: tuple[str, ...]) -> str:
    return f"(?:{'|'.join(words)})"


# fmt: off
# What may stand in each free place of an open answer.
KINDS = ("clay", "glass", "gold", "paper", "silver", "steel", "stone", "wood", "wool", "tin")
TIMES = ("day", "evening", "morning", "night", "summer", "winter")
SKIES = ("bright", "calm", "cold", "dark", "grey", "hot", "warm", "windy")
MOODS = ("angry", "glad", "hungry", "lost", "sad", "shy", "tired", "wet")
GIFTS = ("bread", "cake", "fish", "fruit", "milk", "rice", "soup", "tea")
DEEDS = ("danced", "played", "rested", "sang", "slept", "talked", "waited", "worked")
SEEN = ("bridge", "castle", "church", "circus", "cloud", "fire", "ship", "storm", "train", "tower")
# fmt: on


def _filled(template: str, rng: random.Random) -> str:
    """The template with one of the words in each {A|B|C}."""
    return re.sub(r"\{([^}]+)\}", lambda place: rng.choice(place[1].split("|")), template)


def _any_filling(template: str) -> str:
    """A regular expression that matches the template with whichever words."""
    parts = re.split(r"\{([^}]+)\}", template)
    return "".join(f"(?:{part})" if i % 2 else re.escape(part) for i, part in enumerate(parts))


def _place(words: tuple[str, ...]) -> str:
    return "{" + "|".join(words) + "}"


def _thing(o: Operands) -> str:
    size, thing, name = o
    return (
        f"The {size} {thing} of {name} is {_place(COLOURS)} and made of {_place(KINDS)}. "
        f"It came from {_place(CITIES)} one {_place(SKIES)} {_place(TIMES)}."
    )


def _story(o: Operands) -> str:
    """Several canvases, which must agree on what was seen."""
    name, size, animal, seen = o
    mood, gift, deed = _place(MOODS), _place(GIFTS), _place(DEEDS)
    return (
        f"One {_place(SKIES)} {_place(TIMES)} {name} met a {size} {animal} at the {_place(PLACES)}. "
        f"The {animal} was {mood} and {mood}, so {name} gave it {gift} and {gift}. "
        f"They ate it by a {_place(COLOURS)} {_place(THINGS)}. "
        f"Then they went to the {_place(PLACES)} and saw a {_place(COLOURS)} {seen}. "
        f"There they {deed} and {deed} until the {seen} was gone. "
        f"At last the {animal} was {mood} and {name} {deed}."
    )


def _story_answer(o: Operands, rng: random.Random) -> str:
    return _filled(_story((*o, rng.choice(SEEN))), rng)


def _story_pattern(o: Operands) -> str:
    first, later, end = _any_filling(_story((*o, "SEEN"))).split("SEEN")
    return f"{first}(?P<seen>{'|'.join(SEEN)}){later}(?P=seen){end}"


TASKS: tuple[Task, ...] = (
    Task(
        category="maths", level="easy", weight=4, draw=_sum_or_difference,
        requests=("What is {0}{1}{2}?", "Work out {0}{1}{2}.", "{0}{1}{2} is what?"),
        answer=lambda o, _: str(_apply(int(o[0]), str(o[1]), int(o[2]))),
    ),
    Task(
        category="maths", level="hard", weight=3, draw=_chain,
        requests=("What is {0}{1}{2}{3}{4}? Show the steps.", "Work out {0}{1}{2}{3}{4} in steps.",
                  "In steps: {0}{1}{2}{3}{4} is what?"),
        answer=_chain_answer,
    ),
    Task(
        category="code", level="easy",
        draw=lambda r: (r.choice(FUNCTIONS), r.choice(VARIABLES), r.choice(sorted(SIGNS)), r.randrange(100)),
        requests=("Write {0} of {1}: {1} {2} {3}.", "A function {0} that takes {1} and gives {1} {2} {3}.",
                  "Code for {0} with {1}: return {1} {2} {3}."),
        answer=lambda o, _: f"def {o[0]}({o[1]}):\n return {o[1]} {SIGNS[str(o[2])]} {o[3]}",
    ),
    Task(
        category="code", level="hard", weight=2, draw=_branches,
        requests=("Write {0} of {1} and {2}: if {1} is over {3}, {1} {4} {2}, else {2} {5} {6}.",
                  "A function {0} that takes {1} and {2} and gives {1} {4} {2} if {1} is over {3}, else {2} {5} {6}.",
                  "Code for {0} with {1} and {2}: {1} over {3}: return {1} {4} {2}, else {2} {5} {6}."),
        answer=_branches_answer,
    ),
    Task(
        category="json", level="easy",
        draw=lambda r: (r.choice(NAMES), r.randrange(10, 100), r.choice(CITIES)),
        requests=("As JSON: {0} is {1} and lives in {2}.", "{0} lives in {2} and is {1}. Give JSON.",
                  "Make JSON of this: {0}, {1}, from {2}."),
        answer=lambda o, _: json.dumps({"name": o[0], "age": o[1], "city": o[2]}),
    ),
    Task(
        category="json", level="hard", weight=2, draw=_people,
        requests=("As JSON: {0} is {1} and lives in {2}, {3} is {4} and lives in {5}.",
                  "{0} lives in {2} and is {1}, {3} lives in {5} and is {4}. Give JSON.",
                  "Make JSON of this: {0}, {1}, from {2}; {3}, {4}, from {5}."),
        answer=lambda o, _: json.dumps({o[0]: [o[1], o[2]], o[3]: [o[4], o[5]]}),
    ),
    Task(
        category="chat", level="easy",
        draw=lambda r: (r.choice(NAMES), r.choice(SIZES), r.choice(THINGS), r.choice(CITIES)),
        requests=("I am {0} from {3} and I have a {1} {2}. What do I have?",
                  "My name is {0}, my home is {3}. I have a {1} {2}. Tell me what I have.",
                  "{0} here, from {3}, with a {1} {2}. What is with me?"),
        answer=lambda o, _: f"You have a {o[1]} {o[2]}, {o[0]}.",
    ),
    Task(
        category="chat", level="hard", weight=2, draw=_facts,
        requests=("I am {0} from {1}. My pet is a {2}, my gift a {3}. What are my {4} and my {5}?",
                  "My name is {0}, my city {1}. I have a {2} and got a {3}. Tell me my {4} and {5}.",
                  "{0} here, from {1}, with a {2} and, as a gift, a {3}. My {4} and {5}?"),
        answer=_facts_answer,
    ),
    Task(
        category="prose", level="easy",
        draw=lambda r: (r.choice(NAMES), r.choice(sorted(PAST)), r.choice(PLACES), r.choice(ANIMALS)),
        requests=("Put it into the past: {0} {1} to the {2} with the {3}.",
                  "{0} {1} to the {2} with the {3}. Say it in the past.",
                  "Yesterday, not now: {0} {1} to the {2} with the {3}."),
        answer=lambda o, _: f"{o[0]} {PAST[str(o[1])]} to the {o[2]} with the {o[3]}.",
    ),
    Task(
        category="prose", level="hard", weight=2,
        draw=lambda r: tuple(r.sample(FRUIT, 4)),
        requests=("Put in order of the alphabet: {0}, {1}, {2}, {3}.", "{0}, {1}, {2}, {3}: sort these by letter.",
                  "Sort the words {0}, {1}, {2} and {3}."),
        answer=lambda o, _: ", ".join(sorted(map(str, o))) + ".",
    ),
    Task(
        category="open", level="easy",
        draw=lambda r: (r.choice(SIZES), r.choice(THINGS), r.choice(NAMES)),
        requests=("Describe the {0} {1} of {2}.", "What is the {0} {1} of {2} like?",
                  "The {0} {1} of {2}: describe it."),
        answer=lambda o, rng: _filled(_thing(o), rng), pattern=lambda o: _any_filling(_thing(o)),
    ),
    Task(
        category="open", level="hard", weight=2,
        draw=lambda r: (r.choice(NAMES), r.choice(SIZES), r.choice(ANIMALS)),
        requests=("Tell a story of {0} and a {1} {2}.", "A story, please: {0} meets a {1} {2}.",
                  "Write how {0} met a {1} {2}."),
        answer=_story_answer, pattern=_story_pattern,
    ),
)  # fmt: skip
