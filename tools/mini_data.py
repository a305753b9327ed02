"""Items of the mini's tasks (tools/mini_tasks.py) for training, and held-out ones as prompt sets.

What is held out: one tenth of every task's operands, by a hash of them in sorted order, and one fifth of the ways to
word a request (opening, request and ending are each seen in training, but not together). Training draws from neither; a
held-out item is new in both.

    python tools/mini_data.py --seed 7 --out DIR       # held-out prompt sets DIR/prompts/mini_<category>_<level>.jsonl
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mini_tasks import TASKS, Operands, Task

PER_SET = 100  # held-out items of a task
SHIPPED_SEED = 20261125


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A request and one right answer. `pattern` matches every right answer where there are many; else it is None."""

    text: str
    category: str
    level: str
    answer: str
    pattern: str | None


OPENINGS = ("", "Hello. ", "A task: ", "Next: ", "Please help. ")
ENDINGS = ("", " Thanks.", " Be brief.", " Only the answer.", " Go.")


def is_held_out(task: Task, operands: Operands) -> bool:
    """Whether these operands, in whatever order, are kept away from training: one tenth of all."""
    words = " ".join([task.name, *sorted(map(str, operands))])
    return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest()) % 10 == 0


def is_held_out_wording(opening: int, request: int, ending: int) -> bool:
    """Whether training never sees these three together; it sees each of them with others."""
    return (opening + request + ending) % 5 == 0


def item(task: Task, rng: random.Random, *, held_out: bool) -> Item:
    """A random item of the task, from what is held out or from the rest."""
    operands = task.draw(rng)
    while is_held_out(task, operands) != held_out:
        operands = task.draw(rng)
    wording = _wording(task, rng)
    while is_held_out_wording(*wording) != held_out:
        wording = _wording(task, rng)
    opening, request, ending = wording
    return Item(
        text=OPENINGS[opening] + task.requests[request].format(*operands) + ENDINGS[ending],
        category=task.category,
        level=task.level,
        answer=task.answer(operands, rng),
        pattern=task.pattern(operands) if task.pattern else None,
    )


def held_out(task: Task, count: int, seed: int) -> list[Item]:
    """`count` held-out items with different requests; every seed is another draw."""
    rng = random.Random(f"{seed} {task.name}")
    found: dict[str, Item] = {}
    while len(found) < count:
        new = item(task, rng, held_out=True)
        found.setdefault(new.text, new)
    return list(found.values())


def _wording(task: Task, rng: random.Random) -> tuple[int, int, int]:
    return rng.randrange(len(OPENINGS)), rng.randrange(len(task.requests)), rng.randrange(len(ENDINGS))


def prompt_lines(task: Task, count: int, seed: int) -> Iterator[str]:
    """Lines of a prompt set: id, text, category, and the answer or the pattern."""
    for number, one in enumerate(held_out(task, count, seed), 1):
        line = {"id": f"{task.name}-{number:03d}", "text": one.text, "category": f"{one.category} {one.level}"}
        assert one.pattern is None or re.fullmatch(one.pattern, one.answer), one
        yield json.dumps(line | ({"answer": one.answer} if one.pattern is None else {"pattern": one.pattern}))


def write_prompt_sets(directory: Path, count: int, seed: int) -> None:
    """One set a task, and mini_mix with a few items of each."""
    directory.mkdir(parents=True, exist_ok=True)
    mixed: list[str] = []
    for task in TASKS:
        lines = list(prompt_lines(task, count, seed))
        (directory / f"mini_{task.name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        mixed += lines[:10]
    (directory / "mini_mix.jsonl").write_text("\n".join(mixed) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write held-out prompt sets of the mini's task.")
    parser.add_argument("--seed", type=int, default=SHIPPED_SEED, help=f"which draw; {SHIPPED_SEED} is the shipped one")
    parser.add_argument("--count", type=int, default=PER_SET, help=f"items a set (default {PER_SET})")
    parser.add_argument("--out", type=Path, required=True, help="folder; the files go into its prompts/")
    args = parser.parse_args()
    write_prompt_sets(args.out / "prompts", args.count, args.seed)


if __name__ == "__main__":
    main()
