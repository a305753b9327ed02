"""Analyses of made-up runs of every kind, and their pages taken apart."""

from __future__ import annotations

import base64
import json
import math
import zlib
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pandas as pd
from synthetic import Scenario, write_run

from harness.analysis.analyse import Analysis, analyse
from harness.analysis.run_data import load_run
from harness.records.types import Cell

SPOKEN_OF = ("useful_tok_s", "speedup_vs_ar", "floor_share")


def slow_diffusion(cell: Cell) -> float:
    """Autoregressive decoding wins everywhere."""
    return 0.01 * (80 if cell.block_length else 1)


def mixed(cell: Cell, launch: int) -> str:
    if cell.block_length and cell.block_length * cell.batch_size >= 4096:
        return "oom" if cell.batch_size < 32 else "pruned"
    return "error" if (cell.block_length, cell.num_steps, cell.batch_size) == (128, 16, 4) else "ok"


SCENARIOS = {
    "usual": [Scenario()],
    "autoregressive always wins": [Scenario(pass_s=slow_diffusion)],
    "noise": [Scenario(wobble=0.9, trained=False)],
    "about equal": [Scenario(pass_s=lambda cell: 0.01 * (30 if cell.block_length else 1), wobble=0.05)],
    "failures": [Scenario(outcome=mixed, exclude=[{"batch_size": [4], "block_length": [256], "reason": "not asked"}])],
    "only failures": [Scenario(outcome=lambda cell, _: "error")],
    "nothing measured": [Scenario(outcome=lambda cell, _: "absent")],
    "diffusion alone": [Scenario(outcome=lambda cell, _: "ok" if cell.block_length else "oom")],
    "autoregression alone": [Scenario(axes={"decoding": ["autoregressive"]})],
    "one cell": [Scenario(axes={"batch_size": [2], "block_length": [256], "num_steps": [8]}, rounds=1)],
    "no roofs": [Scenario(roofs=False)],
    "two devices": [Scenario(), Scenario(name="other", display_name="Other GPU", pass_s=slow_diffusion)],
    "graded": [
        Scenario(
            eos="respect",
            observed=True,
            quality=lambda cell: 0.9 - 1 / (cell.num_steps or 8),
            categories=("easy", "hard"),
            axes={"stopping": ["fixed", "adaptive"], "prompt_set": ["code", "maths"], "block_length": [32, 256]},
        )
    ],
    "proxies": [Scenario(observed=True, axes={"prompt_set": ["code"], "stopping": ["fixed", "adaptive"]})],
    "many conditions": [
        Scenario(eos="respect", launches=5, axes={"stopping": ["adaptive", "fixed"], "prompt_tokens": [64, 96]})
    ],
}


def analysed(folder: Path, scenario: Scenario) -> Analysis:
    return analyse([load_run(write_run(folder, scenario))])


def frame_of(analysis: Analysis) -> pd.DataFrame:
    """One line per cell of the JSON document: what a sceptic recomputes everything from."""
    document = json.loads(json.dumps(analysis.to_json()))
    lines = []
    for cell in document["cells"]:
        shown = {name: s for name, s in cell["metrics"].items() if name in SPOKEN_OF}
        metrics = {f"{name}.{key}": value for name, s in shown.items() for key, value in s.items()}
        lines.append({**cell["cell"], **{k: cell[k] for k in ("run_id", "cell_id", "twin_id", "status")}, **metrics})
    found = pd.DataFrame(lines)
    for name in SPOKEN_OF:
        found[f"{name}.value"] = found[f"{name}.value"] if f"{name}.value" in found else float("nan")
    return found


class Elements(HTMLParser):
    """Every start tag with its attributes, and all text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def parsed(page: str) -> Elements:
    elements = Elements()
    elements.feed(page)
    return elements


def is_inert(svg: str) -> bool:
    """Whether a picture is XML without an element or attribute that could do anything."""
    elements = list(ET.fromstring(svg).iter())
    tags = {element.tag.rpartition("}")[2] for element in elements}
    does = any(name.startswith("on") for element in elements for name in element.attrib)
    return not does and not tags & {"script", "a", "image", "foreignObject", "img"}


def json_of(page: str) -> str:
    """The table's data, unpacked."""
    return zlib.decompress(base64.b64decode(packed_of(page), validate=True)).decode()


def packed_of(page: str) -> str:
    """What stands between the data element's tags, of which the closing one is followed by the page's script."""
    return page.split('<script type="text/plain" id="data">')[1].rsplit("</script>\n<script>", 1)[0]


def island_of(page: str) -> dict[str, Any]:
    """The table's data, its texts in place of their numbers."""
    island: dict[str, Any] = json.loads(json_of(page))
    for i, column in enumerate(island["columns"]):
        for row in island["rows"] if "texts" in column else ():
            row[i] = None if row[i] is None else column["texts"][row[i]]
    return island


def expected_crossover(rows: pd.DataFrame, best: pd.Series) -> str:
    """Straight lines on logarithms between neighbouring batches of the best cell's line, written out again."""
    line = rows[rows["speedup_vs_ar.value"].notna()]
    for key in ("block_length", "num_steps", "stopping", "prompt_tokens", "prompt_set"):
        line = line[line[key] == best[key]]
    points = line.sort_values("batch_size")[["batch_size", "speedup_vs_ar.value"]].to_numpy()
    places = []
    for (x0, y0), (x1, y1) in pairwise(points):
        if (y0 > 1) != (y1 > 1):
            slope = (math.log(y1) - math.log(y0)) / (math.log(x1) - math.log(x0))
            places.append(math.exp(math.log(x0) - math.log(y0) / slope))
    texts = [f"{place:.3g}" for place in places]
    if not texts:
        return "none in the sweep" if len(points) else "none"
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)
