"""Strings that try to be markup, script or control codes, and a run that has them wherever a user's text can stand."""

from __future__ import annotations

import dataclasses

from synthetic import Scenario

from harness.records.types import Cell

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "</script x></script ",
    "<!--<script ",
    "\"quoted' & $dollars$ `ticks` {{ 7*7 }} {% raw %}",
    "line\nbreak\ttab\x1b[31m\x00 nul",
    "]]>&lt;b&gt;\u2028\u202e\ud800",
    "javascript:alert(1)",
    '" onmouseover="alert(1)',
    "x" * 400,
]


def hostile_scenario(name: str) -> Scenario:
    def rename(cell: Cell) -> Cell:
        return dataclasses.replace(
            cell, prompt_set=name, model=name, protocol=name, routing=name, options={**cell.options, name: name}
        )

    return Scenario(
        axes={"block_length": [256], "num_steps": [4, 8]},
        display_name=name,
        command=name,
        rename=rename,
        reason=name,
        warnings=(name,),
        discarded=(name,),
        outcome=lambda cell, _: "error" if cell.batch_size == 4 else "ok",
        exclude=[{"batch_size": [16], "num_steps": [8], "reason": name}],
    )
