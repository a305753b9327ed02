"""What the mini is taught to do: twelve tasks, made of operands, wordings and right answers.

Five categories have one right answer to a request; `open` has many, which a regular expression tells from wrong ones.
Each category has an easy and a hard level.
"""

from __future__ import annotations

import json
import random
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
ANIMALS = ("bear", "cat", "cow", "dog", "duck", "fox", "goat", "hen", "horse", "mouse", "owl", "pig")
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
    a, b, operator = rng.randrange(100), rng.randrange(100), rng.choice("+-")
    return (max(a, b), operator, min(a, b)) if operator == "-" else (a, operator, b)


def _chain(rng: random.Random) -> Operands:
    while True:
        a, b, c = rng.randrange(10, 60), rng.randrange(1, 40), rng.randrange(1, 40)
        first, second = rng.choice("+-"), rng.choice("+-")
        middle = _apply(a, first, b)
        if middle >= 0 and _apply(middle, second, c) >= 0:
            return (a, first, b, second, c)


def _apply(a: int, operator: str, b: int) -> int:
    return a + b if operator == "+" else a - b


def _chain_answer(o: Operands, _: random.Random) -> str:
    a, first, b, second, c = o
    middle = _apply(int(a), str(first), int(b))
    return f"{a}{first}{b}={middle}, {middle}{second}{c}={_apply(middle, str(second), int(c))}"


def _ages(rng: random.Random) -> Operands:
    names, ages = rng.sample(NAMES, 3), rng.sample(range(10, 100), 3)
    return tuple(x for pair in zip(names, ages, strict=True) for x in pair)


def _ages_answer(o: Operands, _: random.Random) -> str:
    people = sorted(zip(o[::2], o[1::2], strict=True), key=lambda person: person[1])
    return json.dumps(dict(people))


def _pets(rng: random.Random) -> Operands:
    return (*rng.sample(NAMES, 3), *rng.sample(ANIMALS, 3), rng.randrange(1, 4), rng.choice(PLACES))


def _pets_operands(rng: random.Random) -> Operands:
    """Three names with their animals, the name that is asked for, and where it is."""
    a, b, c, x, y, z, which, place = _pets(rng)
    return (a, x, b, y, c, z, (a, b, c)[int(which) - 1], place)


def _pets_answer(o: Operands, _: random.Random) -> str:
    animals = dict(zip(o[:6:2], o[1:6:2], strict=True))
    return f"The {animals[o[6]]} is at the {o[7]}."


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


# What may stand in each place of an open answer.
KINDS = ("clay", "glass", "gold", "paper", "silver", "steel", "stone", "wood", "wool", "tin")
USES = ("for fun", "for my aunt", "for rain", "for school", "for snow", "for sport", "for the sea", "for trips")
TIMES = ("day", "evening", "morning", "night", "summer", "winter")
MOODS = ("cold", "glad", "hungry", "lost", "sad", "shy", "tired", "wet")
GIFTS = ("bread", "cake", "fish", "fruit", "milk", "rice", "soup", "tea")
DEEDS = ("danced", "played", "rested", "sang", "slept", "talked", "waited", "worked")
SEEN = ("bridge", "castle", "church", "circus", "cloud", "fire", "ship", "storm", "train", "tower")


def _thing_answer(o: Operands, rng: random.Random) -> str:
    colour, kind, use = rng.choice(COLOURS), rng.choice(KINDS), rng.choice(USES)
    return f"The {o[0]} {o[1]} of {o[2]} is {colour}, made of {kind} and {use}."


def _thing_pattern(o: Operands) -> str:
    return rf"The {o[0]} {o[1]} of {o[2]} is {_one_of(COLOURS)}, made of {_one_of(KINDS)} and {_one_of(USES)}\."


def _story_answer(o: Operands, rng: random.Random) -> str:
    name, size, animal = o
    place, other = rng.sample(PLACES, 2)
    mood, feeling = rng.sample(MOODS, 2)
    colour, seen = rng.choice(COLOURS), rng.choice(SEEN)
    return (
        f"One {rng.choice(TIMES)} {name} met a {size} {animal} at the {place}. "
        f"The {animal} was {mood} and {feeling}, so {name} gave it {rng.choice(GIFTS)}. "
        f"Then they went to the {other} and saw a {colour} {seen}. "
        f"There they {rng.choice(DEEDS)} and {rng.choice(DEEDS)} until the {colour} {seen} was gone. "
        f"{name} never forgot the {animal} and the {seen}."
    )


def _story_pattern(o: Operands) -> str:
    name, size, animal = o
    places, moods, deeds = _one_of(PLACES), _one_of(MOODS), _one_of(DEEDS)
    return (
        rf"One {_one_of(TIMES)} {name} met a {size} {animal} at the {places}\. "
        rf"The {animal} was {moods} and {moods}, so {name} gave it {_one_of(GIFTS)}\. "
        rf"Then they went to the {places} and saw a (?P<colour>{'|'.join(COLOURS)}) (?P<seen>{'|'.join(SEEN)})\. "
        rf"There they {deeds} and {deeds} until the (?P=colour) (?P=seen) was gone\. "
        rf"{name} never forgot the {animal} and the (?P=seen)\."
    )


TASKS: tuple[Task, ...] = (
    Task(
        category="maths", level="easy", weight=2, draw=_sum_or_difference,
        requests=("What is {0}{1}{2}?", "Work out {0}{1}{2}.", "{0}{1}{2} is what?"),
        answer=lambda o, _: str(_apply(int(o[0]), str(o[1]), int(o[2]))),
    ),
    Task(
        category="maths", level="hard", weight=2, draw=_chain,
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
        category="code", level="hard", draw=_branches,
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
        category="json", level="hard", draw=_ages,
        requests=("As JSON, youngest first: {0} is {1}, {2} is {3}, {4} is {5}.",
                  "{0} is {1}, {2} is {3} and {4} is {5}. Give JSON, youngest first.",
                  "Sort by age and make JSON: {0} {1}, {2} {3}, {4} {5}."),
        answer=_ages_answer,
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
        category="chat", level="hard", draw=_pets_operands,
        requests=("{0} is a {1}, {2} is a {3}, {4} is a {5}. I saw {6} at the {7}. What is where?",
                  "I saw {6} at the {7}. {0} is a {1}, {2} is a {3} and {4} is a {5}. What did I see?",
                  "My pets: {0} the {1}, {2} the {3}, {4} the {5}. {6} is at the {7}. What is there?"),
        answer=_pets_answer,
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
        category="prose", level="hard",
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
        answer=_thing_answer, pattern=_thing_pattern,
    ),
    Task(
        category="open", level="hard",
        draw=lambda r: (r.choice(NAMES), r.choice(SIZES), r.choice(ANIMALS)),
        requests=("Tell a story of {0} and a {1} {2}.", "A story, please: {0} meets a {1} {2}.",
                  "Write how {0} met a {1} {2}."),
        answer=_story_answer, pattern=_story_pattern,
    ),
)  # fmt: skip
