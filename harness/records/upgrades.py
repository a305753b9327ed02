"""Record lines of earlier schemas as today's has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any


def _without(new: Iterable[str], data: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The record as the next schema has it: its rounds say of the new fields that they were not kept."""
    schema, new = data["record_schema"], list(new)
    why = dict.fromkeys(new, f"not kept by record_schema {schema}")
    rounds = [{**one, **dict.fromkeys(new), "missing": {**(one.get("missing") or {}), **why}} for one in data["rounds"]]
    return {**data, "rounds": rounds, **more, "record_schema": schema + 1}


def _static_batch(data: dict[str, Any]) -> dict[str, Any]:
    """3 -> 4: no row could leave a batch yet, so that every pass ran for all of them."""
    rows = data["cell"]["batch_size"]
    rounds = [{**one, "row_passes": {kind: n * rows for kind, n in one["passes"].items()}} for one in data["rounds"]]
    return {**data, "rounds": rounds, "record_schema": 4}


Upgrade = Callable[[dict[str, Any]], dict[str, Any]]
# record_schema -> a pure function that upgrades a line's JSON by one version.
UPGRADES: dict[int, Upgrade] = {
    1: partial(_without, ("prompt_ids", "categories", "exact", "token_accuracy")),
    2: partial(_without, ("gpu",), course={}, energy={}),
    3: _static_batch,
}
