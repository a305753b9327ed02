"""What others published: the file, its floors, the remarks of those above them, and files that are refused."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import setuptools
import yaml
from synthetic import write_run
from whole import build_page

from engine.config import PRESETS
from engine.cost import Widths, pass_cost
from harness import cli
from harness.analysis.analyse import Analysis, analyse
from harness.analysis.published import Judged, judge
from harness.analysis.run_data import load_run
from harness.report.figures import published as figure
from harness.report.wording import percent, tok_s
from harness.spec import published
from harness.spec.config import ConfigError
from harness.spec.data import devices
from harness.spec.formats import released_shape
from harness.spec.published import PATH, load_published, read_published

RELEASED = PRESETS["diffusiongemma_26b_a4b"]
JUDGED = {one.figure.id: one for one in judge(load_published())}
GIVEN = yaml.safe_load(PATH.read_text(encoding="utf-8"))
# Once more: GB/s and TFLOP/s of the data sheets in 16 bits and in the format's own dtype.
SHEETS = {
    "h100": (3350, 989, 1978),
    "h200": (4800, 989, 1978),
    "rtx5090": (1792, 209.5, 1676),
    "dgx_spark": (273, 125, 500),
}
FORMATS = {"fp8": (1, 1, 1), "nvfp4": (0.5625, 2, 0.5)}  # experts, other weights, activations


def pass_s(device: str, form: str, kind: str, tokens: int, context: int) -> float:
    """The floor of a pass at batch 1, from its bytes and FLOPs and the data sheet."""
    bandwidth, in_16_bits, narrow = SHEETS[device]
    experts, weight, activation = FORMATS[form]
    widths = Widths(weight=weight, activation=activation, kv=2, head=2, experts=experts)
    costs = pass_cost(RELEASED, kind, batch_size=1, tokens=tokens, context=context, widths=widths)
    wide = ("lm_head", "soft_embedding", "sampler", "attention_core")
    return sum(
        max(one.bytes / (bandwidth * 1e9), one.flops / ((in_16_bits if name in wide else narrow) * 1e12))
        for name, one in costs.items()
    )


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return analyse([load_run(write_run(tmp_path_factory.mktemp("runs")))])


@pytest.fixture(scope="module")
def page(analysis: Analysis) -> str:
    return build_page(analysis)


@pytest.mark.parametrize("name", ["vllm-h100-diffusion", "vllm-h200-diffusion"])
def test_the_floor_of_a_figure_with_known_conditions_is_written_out_again(name: str) -> None:
    """Four canvases of 16 steps behind 1,024 tokens, commits between them, prefill out of the clock."""
    device = JUDGED[name].figure.device
    contexts = [1024 + 256 * i for i in range(4)]
    steps = 16 * sum(pass_s(device, "fp8", "denoise", 256, context) for context in contexts)
    commits = sum(pass_s(device, "fp8", "commit", 256, context) for context in contexts[:3])
    assert JUDGED[name].floor_tok_s == pytest.approx(1024 / (steps + commits))


@pytest.mark.parametrize(("name", "device"), [("launch-rtx5090", "rtx5090"), ("launch-dgx-spark", "dgx_spark")])
def test_what_a_source_does_not_say_is_taken_in_its_favour(name: str, device: str) -> None:
    """One canvas without a commit, nothing before it, and 16 steps; beside it the most steps that there is time for."""
    judged = JUDGED[name]
    step = pass_s(device, "nvfp4", "denoise", 256, 1)
    assert judged.steps_are_assumed
    assert judged.floor_tok_s == pytest.approx(256 / (16 * step))
    assert judged.most_steps == pytest.approx(256 / judged.figure.value / step)


def test_an_autoregressive_figures_floor_is_that_of_its_decode_passes() -> None:
    judged = JUDGED["vllm-h100-ar"]
    passes = sum(pass_s("h100", "fp8", "decode", 1, 1024 + i) for i in range(1023))
    assert judged.floor_tok_s == pytest.approx(1024 / passes)


def test_no_published_figure_exceeds_its_floor_without_a_remark() -> None:
    above = [one for one in JUDGED.values() if one.share is not None and one.figure.value > (one.floor_tok_s or 0)]
    assert above, "some are known to: those with a drafter"
    assert [one.figure.id for one in above if not one.figure.remark] == []
    assert all(one.exceeds for one in above)


def test_a_remark_stands_only_where_a_figure_exceeds_its_floor() -> None:
    assert [one.figure.id for one in JUDGED.values() if one.figure.remark and not one.exceeds] == []


@pytest.mark.parametrize("device", ["h100", "h200", "rtx5090", "dgx_spark"])
def test_predicted_floors_stand_beside_the_published_figures(device: str, page: str, analysis: Analysis) -> None:
    """Rows of the page's table that name the device have what was published and what the floor is."""
    rows = [row for row in table_of(page, "PUBLISHED") if row[0] == figure.device_name(device)]
    of_diffusion = [one for one in analysis.published if one.figure.device == device and one.share is not None]
    assert len(rows) == len(of_diffusion)
    for one in of_diffusion:
        wanted = (f"{one.figure.about} {tok_s(one.figure.value)}".strip(), tok_s(one.floor_tok_s or 0))
        assert wanted in [(row[2], row[3]) for row in rows]


def test_the_sentence_counts_the_figures_above_their_floors(page: str, analysis: Analysis) -> None:
    rows = json.loads(json.dumps(analysis.to_json(), allow_nan=False))["published"]
    known = [row for row in rows if row["share"] is not None]
    above = [row for row in known if row["share"] > 1]
    said = f"{len(above)} of {len(known)} published figures with a floor stand above it, each with its reason"
    assert said in page
    stated = [
        row["share"]
        for row in known
        if row["figure"]["decoding"] == "block_diffusion" and row["figure"]["batch_size"] == 1 and row["share"] <= 1
        if row["figure"]["num_steps"] is not None and not row["figure"]["about"]
    ]
    assert f"block diffusion {percent(min(stated))} to {percent(max(stated))}" in page
    assert f"{len(rows) - len(known)} more have no floor" in page


def test_a_figure_above_its_floor_without_a_remark_is_said_loudly(analysis: Analysis) -> None:
    above = next(one for one in JUDGED.values() if one.exceeds)
    silent = dataclasses.replace(above, figure=dataclasses.replace(above.figure, remark=""))
    assert "1 of them WITHOUT A REMARK" in figure._answer([silent], [silent])


def test_published_and_predicted_rows_carry_their_source(analysis: Analysis) -> None:
    document = analysis.to_json()
    assert {row["source"] for row in document["published"]} == {"published"}
    assert document["predictions"]["source"] == "predicted"
    assert {cell["source"] for cell in document["cells"]} == {"measured"}


def test_every_figure_and_claim_says_where_it_was_printed() -> None:
    """An address or a site's name, and no path on somebody's machine."""
    given = load_published()
    for one in (*given.figures, *given.claims):
        assert re.search(r"\w\.\w|model cards|ai-navigate-news", one.source), one.id
        assert not re.search(r"(?:^|[\s(])[~/]\w", one.source), one.id


def test_every_device_that_a_figure_or_claim_names_has_a_file() -> None:
    given = load_published()
    named = {one.device for one in (*given.figures, *given.claims)} - {""}
    assert named <= devices().keys()


def test_the_formats_hold_the_sizes_of_the_checkpoints() -> None:
    """Text weights in GB, as hubs print the checkpoints less their vision part (1.15 GB in bf16)."""
    formats = load_published().formats
    sizes = {name: formats[name].bytes_of(released_shape(), 1, 0) / 1e9 for name in ("bf16", "fp8", "nvfp4")}
    assert sizes == {"bf16": pytest.approx(50.5, abs=0.1), "fp8": pytest.approx(26.05, abs=0.1),
                     "nvfp4": pytest.approx(17.7, abs=0.1)}  # fmt: skip


class Tables(HTMLParser):
    """The name that a table's region has for a screen reader -> rows of texts."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: list[tuple[str, list[list[str]]]] = []
        self.inside = self.region = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "div":
            self.region = dict(attrs).get("aria-label", "")
        elif tag == "table":
            self.tables.append((self.region, []))
        elif tag == "tr":
            self.tables[-1][1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][1][-1].append("")
        self.inside = tag if tag in ("th", "td") else self.inside

    def handle_endtag(self, tag: str) -> None:
        self.inside = "" if tag == self.inside else self.inside

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.tables[-1][1][-1][-1] += data


def table_of(page: str, caption: str) -> list[list[str]]:
    found = Tables()
    found.feed(page)
    return next(rows[1:] for title, rows in found.tables if title.startswith(caption))


def edited(**changes: Any) -> dict[str, Any]:
    """The file with its first figure changed; None takes a key away."""
    first = {key: value for key, value in {**GIVEN["figures"][0], **changes}.items() if value is not None}
    return {**GIVEN, "figures": [first, *GIVEN["figures"][1:]]}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "is no mapping"),
        ({**GIVEN, "published_schema": 2}, "published_schema is 2, expected 1"),
        ({**GIVEN, "figurs": []}, "nearest valid: figures"),
        ({**GIVEN, "claims": {}}, "claims is no list"),
        ({**GIVEN, "figures": ["x"]}, r"figures\[0\]: is no mapping"),
        ({**GIVEN, "formats": {"fp8": {"experts": 1}}}, r"formats.fp8: weight is absent"),
        (edited(value="fast"), "value is 'fast', expected a number"),
        (edited(value=-1), "value is -1, expected above 0"),
        (edited(value=True), "value is 'True', expected a number"),
        (edited(source=None), "source is absent"),
        (edited(who="me"), "expected one of 'vendor', 'framework', 'independent'"),
        (edited(batch_sizes=1), "nearest valid: batch_size"),
        (edited(num_steps=1.5), "num_steps is '1.5', expected a whole number"),
        (edited(format="fp9"), "nearest valid: fp8"),
        (edited(id=GIVEN["figures"][1]["id"]), "is there twice"),
        ({**GIVEN, "claims": [{**GIVEN["claims"][0], "at_most": 2}]}, "expected either at_least or at_most"),
        ({**GIVEN, "claims": [{**GIVEN["claims"][0], "reading": "abuot"}]}, "reading: .*nearest valid: about"),
        (
            {**GIVEN, "readings": {"about": {"tolerance": 1, "meaning": "?"}}},
            "readings.about: tolerance is 1",
        ),
        ({**GIVEN, "readings": []}, "readings is no mapping of names"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_refused_with_its_place(
    tmp_path: Path, document: Any, message: str
) -> None:
    path = tmp_path / "published.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_published(path)


@pytest.mark.parametrize("content", [b"figures: [", b"\xff\xfe\x00", None])
def test_a_file_that_cannot_be_read_ends_a_report_with_one_message_and_exit_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    path = tmp_path / "published.yaml"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(published, "PATH", path)
    run = write_run(tmp_path / "results")
    assert cli.main(["report", str(run), "-o", str(tmp_path / "page.html")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {path}: cannot be read")
    assert len(said.splitlines()) <= 5
    assert "Traceback" not in said


def test_the_wheel_ships_the_file() -> None:
    root = PATH.parents[1]
    build = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    found = setuptools.find_namespace_packages(str(root), include=build["packages"]["find"]["include"])
    assert "results" in found
    assert not [name for name in found if name.startswith("results.")], "runs are no part of it"
    assert "*.yaml" in build["package-data"]["*"]


def test_a_figure_of_several_devices_has_no_floor() -> None:
    several: list[Judged] = [one for one in JUDGED.values() if one.figure.num_devices > 1]
    assert several
    assert all(one.floor_tok_s is None and "more than one device" in one.why_not for one in several)
