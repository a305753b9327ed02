"""Files may come from a pull request: none of their texts is markup, a mention, a link, an escape code or a command."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
from hostile import HOSTILE
from markdown_it import MarkdownIt
from synthetic import ENVIRONMENT, Scenario, fill_run, plan_of, records_of
from verdicts import example, hostile_verdict

from harness import cli, pytest_suite
from harness.records.texts import plain
from harness.records.texts import said as made_inert
from harness.records.types import Cell, Environment
from harness.report.gate.annotations import annotations_text
from harness.report.gate.benchmark_json import benchmark_json
from harness.report.gate.html import page
from harness.report.gate.junit import junit_text
from harness.report.gate.markdown import comment_text, escaped, summary_text
from harness.report.gate.terminal import terminal_text

TEXTS = [
    *HOSTILE,
    "::error::made up",
    "##[add-mask]a",
    "@somebody/team see #12 and https://example.org www.example.org",
    "a | b | **c** | [d](javascript:alert(1)) | ![e](f) | `g` | ~~h~~ | $x$",
    "</summary></details><img src=x>",
    "--> <b>",
    "%0A::error::made up",
]
MARKDOWN_TAGS = {"p", "strong", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "details", "summary"}
NUM_CELLS = len(example().cells)
_LINE_CONTROLS = re.compile(r"^\s*(::|##\[)|##\[", re.MULTILINE)


class Seen(HTMLParser):
    """The tags, attributes and text of an HTML text, as a browser would find them."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("text", TEXTS)
def test_the_terminals_text_is_printable_and_commands_no_runner(text: str) -> None:
    shown = terminal_text(hostile_verdict(text))
    assert all(character == "\n" or character.isprintable() for character in shown)
    assert not _LINE_CONTROLS.search(shown)


@pytest.mark.parametrize("text", TEXTS)
def test_annotations_are_our_commands_alone(text: str) -> None:
    lines = annotations_text(hostile_verdict(text)).split("\n")[:-1]
    assert len(lines) <= 10
    for line in lines:
        assert re.fullmatch(r"::(error|warning|notice) title=[^:,\r\n]*::[^\r\n]*", line)
        assert line.count("::") == 2
        assert "##[" not in line
        assert not re.search(r"%(?!25|0A|0D|3A|2C)", line)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("text_of", [summary_text, comment_text])
def test_markdown_renders_the_text_and_nothing_else(text: str, text_of) -> None:
    """markdown-it, an independent reader of Markdown, renders it with raw HTML let through."""
    rendered = (
        MarkdownIt("commonmark", {"html": True})
        .enable(["table", "strikethrough"])
        .render(text_of(hostile_verdict(text)))
    )
    seen = Seen(rendered)
    assert seen.tags <= MARKDOWN_TAGS
    assert seen.attributes <= {"style"}
    assert rendered.count("<tr>") == NUM_CELLS + 2  # the headings of two tables
    assert rendered.count("<td") == 8 * NUM_CELLS
    assert plain(text)[:60].replace("::", ": :").replace("##[", "## [").strip() in seen.text.replace("\u200b", "")


@pytest.mark.parametrize("text", ["@somebody", "#12", "https://a.b", "www.a.b"])
def test_markdown_holds_no_mention_and_no_link(text: str) -> None:
    assert text not in escaped(text)
    assert escaped(text).replace("\u200b", "") == text


@pytest.mark.parametrize("text", TEXTS)
def test_junit_is_well_formed_and_holds_the_text_as_text(text: str) -> None:
    root = ElementTree.fromstring(junit_text(hostile_verdict(text)).encode())
    assert {element.tag for element in root.iter()} == {
        *("testsuites", "testsuite", "testcase", "properties", "property", "failure", "skipped")
    }
    message = root.find(".//testcase[2]/failure").attrib["message"]
    assert plain(text)[:60].replace("::", ": :").replace("##[", "## [") in message


@pytest.mark.parametrize("text", TEXTS)
def test_the_page_has_our_tags_alone(text: str) -> None:
    html = page(hostile_verdict(text))
    html.encode()
    seen, usual = Seen(html), Seen(page(hostile_verdict("usual")))
    assert (seen.tags, seen.attributes) == (usual.tags, usual.attributes)
    assert not seen.tags & {"script", "img", "a", "iframe"}
    assert plain(text)[:60].replace("::", ": :").replace("##[", "## [") in seen.text


@pytest.mark.parametrize("text", TEXTS)
def test_the_benchmark_json_is_json(text: str) -> None:
    text_of = benchmark_json(hostile_verdict(text), "lower")
    text_of.encode()
    assert all(row["name"].isprintable() for row in json.loads(text_of))


ATTACK = "no\n::error::owned\r\x1b[31m##[error]z\u202e\u2028\x85x"


def written(folder: Path, name: str, text: str, **fields: Any) -> str:
    """A run with the text wherever a run holds one that is no name of ours."""

    def rename(cell: Cell) -> Cell:
        return replace(cell, prompt_set=text, options={**cell.options, "o": text})

    axes = {"batch_size": [1, 4], "block_length": [256], "num_steps": [8]}
    scenario = Scenario(axes=axes, rename=rename, reason=text, worker=name, **fields)
    facts = {**ENVIRONMENT.stack, text: f"{name}{text}"}
    environment = Environment(identity=ENVIRONMENT.identity, stack=facts, circumstance={})
    records = [
        replace(record, environment_id=environment.environment_id)
        for record in records_of(scenario, plan_of(scenario), name)
    ]
    run_dir = folder / "results" / "made_up" / name
    run_dir.mkdir(parents=True)
    fill_run(run_dir, plan_of(scenario), records, environment, warnings=[text])
    return f"made_up/{name}"


def said_of_files(folder: Path, text: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Every line that compare, gate and baseline say of such runs, of which the second one is worse."""
    first = written(folder, "a", text)
    second = written(folder, "b", text, outcome=lambda cell, launch: "error" if cell.batch_size == 4 else "ok")
    third = written(folder, "c", text, launches=2, pass_s=lambda cell: 0.02)
    approve = ["baseline", "approve", "--reason", text, "--until", "https://example.org/1"]
    codes = [
        cli.main(words)
        for words in (
            ["compare", first, second],
            ["gate", "--base", first, "--head", second],
            ["gate", "--base", first, "--head", second, "--declare", text],
            [*approve, first],
            [*approve, third],
            [*approve, first, "--cells", text],
            ["baseline", "list"],
            ["baseline", "list", text],
            ["gate", "--base", "baseline", "--head", second],
            ["baseline", "expire", "--cells", "b1"],
        )
    ]
    captured = capsys.readouterr()
    assert "this is a bug" not in captured.err, captured.err
    return [*map(str, codes), *captured.out.split("\n"), *captured.err.split("\n")]


def test_the_terminal_gets_no_control_of_a_file_and_no_line_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []
    for text in (ATTACK, made_inert(ATTACK)):
        folder = tmp_path / str(len(said))
        folder.mkdir()
        monkeypatch.chdir(folder)
        said.append(said_of_files(folder, text, capsys))
    hostile, usual = said
    assert [line for line in hostile if not line.isprintable() or _LINE_CONTROLS.search(line)] == []
    assert "owned" in "".join(hostile)
    assert len(hostile) == len(usual), "no text of a file makes a line of its own"


@pytest.mark.parametrize("status", ["error", "oom"])
def test_a_reason_of_a_record_is_one_inert_line_of_pytest(status: str) -> None:
    row = SimpleNamespace(status=status, reason=ATTACK)
    suite_run = SimpleNamespace(rows={"x": row}, run=object())
    request: Any = SimpleNamespace(config=SimpleNamespace(stash={pytest_suite._SUITE: suite_run}))
    with pytest.raises((pytest.fail.Exception, pytest.skip.Exception)) as ended:  # type: ignore[arg-type]
        pytest_suite.test_cell("x", SimpleNamespace(), request)  # type: ignore[arg-type]
    assert str(ended.value).isprintable()
    assert not _LINE_CONTROLS.search(str(ended.value))
