"""The page in a real browser: nothing that it is given runs or leaves, the table works, and both themes draw."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from chromium import Visit
from hostile import HOSTILE, hostile_scenario
from PIL import Image, ImageChops, ImageStat
from synthetic import DEFAULT_AXES, Scenario, write_run

from harness.analysis.analyse import analyse
from harness.analysis.run_data import load_run
from harness.records.texts import plain
from harness.records.types import Cell
from harness.report.figures.heat_map import heat_map
from harness.report.figures.throughput import throughput
from harness.report.frame import build_page
from harness.report.slices import slices_of
from harness.report.slim import slimmed
from harness.report.templates import style

Open = Callable[..., Visit]


def outcome(cell: Cell, launch: int) -> str:
    return {4: "oom", 16: "pruned", 32: "error"}.get(cell.batch_size, "ok") if cell.block_length == 256 else "ok"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page of 64 planned and 2 skipped cells, some of which came to nothing."""
    axes = {"batch_size": [1, 2, 4, 8, 16, 32], "stopping": ["adaptive"], "num_steps": [4, 8, 12, 16, 32]}
    exclude = [{"batch_size": [2], "block_length": [256], "num_steps": [4, 8], "reason": "not asked"}]
    run_dir = write_run(tmp_path_factory.mktemp("run"), Scenario(axes=axes, exclude=exclude, outcome=outcome))
    return build_page(analyse([load_run(run_dir)]))


# What the page is given


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_runs_nothing_and_is_shown_as_text(visit: Open, tmp_path: Path, name: str) -> None:
    run_dir = write_run(tmp_path, hostile_scenario(name), plan_changes={"suite": name, "description": name})
    opened = visit(build_page(analyse([load_run(run_dir)])))
    for link in opened.page.locator("summary, [data-filter], [data-copy], #table thead button").all():
        link.click()
    assert (opened.said, opened.requests) == ([], [])
    assert opened.page.evaluate("document.scripts.length") == 3  # two hold data, and one runs
    assert opened.page.locator("img, b, [onerror], [onmouseover]").count() == 0
    assert plain(name).encode(errors="replace") in opened.page.locator("main").text_content().encode(errors="replace")


@pytest.mark.parametrize("name", HOSTILE)
def test_the_table_shows_a_hostile_name_to_the_letter(visit: Open, tmp_path: Path, name: str) -> None:
    opened = visit(build_page(analyse([load_run(write_run(tmp_path, hostile_scenario(name)))])))
    letters = [ord(letter) for letter in name]  # a lone surrogate could not be sent to the browser as text
    shown = "codes => [...document.querySelectorAll('#table td')].filter(cell => cell.textContent.includes(%s)).length"
    assert opened.page.evaluate(shown % "String.fromCharCode(...codes)", letters) > 0


def test_the_policy_stops_a_script_that_is_not_the_pages_own(visit: Open, page: str) -> None:
    opened = visit(page.replace("</main>", "<script>document.title = 'ran'</script></main>"))
    assert opened.page.title() == "canvasbench: made_up"
    assert any("Content Security Policy" in line for line in opened.said)


def test_the_policy_stops_what_would_leave_the_page(visit: Open, page: str) -> None:
    opened = visit(page)
    refused = opened.page.evaluate("fetch('http://example.invalid/').then(() => 'sent', () => 'refused')")
    assert (refused, opened.requests) == ("refused", [])


def test_the_page_asks_for_nothing_and_complains_about_nothing(visit: Open, page: str) -> None:
    opened = visit(page)
    assert (opened.said, opened.requests) == ([], [])


# The table


def test_a_page_of_the_table_has_25_rows_and_the_last_has_the_rest(visit: Open, page: str) -> None:
    opened = visit(page)
    assert (len(opened.rows("status")), opened.count) == (25, "1 to 25 of 66 cells")
    opened.page.click("#next")
    opened.page.click("#next")
    assert (len(opened.rows("status")), opened.count) == (16, "51 to 66 of 66 cells")
    assert opened.page.locator("#next").is_disabled()
    opened.page.click("#previous")
    assert opened.count == "26 to 50 of 66 cells"


def test_what_is_folded_appears_when_it_is_opened_and_its_links_work(visit: Open, tmp_path: Path) -> None:
    axes = {**DEFAULT_AXES, "prompt_set": ["code", "maths"]}
    opened = visit(build_page(analyse([load_run(write_run(tmp_path, Scenario(axes=axes)))])))
    folded = opened.page.locator("#throughput ~ details").first
    assert folded.locator("svg").count() == 0
    folded.locator("summary").click()
    folded.locator("svg").wait_for()
    assert folded.locator("svg").bounding_box()["height"] > 100
    folded.locator("[data-filter]").click()
    assert "prompt_set=" in opened.page.locator("#filter").input_value()
    folded.locator("summary").click()
    folded.locator("summary").click()
    assert folded.locator("svg").count() == 1
    assert opened.said == []


def test_a_slim_picture_looks_as_matplotlib_drew_it(
    visit: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = slices_of(analyse([load_run(write_run(tmp_path, Scenario()))]))[0]
    shots = []
    for shorten in (slimmed, lambda svg: svg):
        monkeypatch.setattr("harness.report.svg.slimmed", shorten)
        pictures = throughput(part, "throughput-0").picture + heat_map(part, "speedup-0").picture
        opened = visit(f"<style>{style()}</style><figure>{pictures}</figure>")
        shots.append(Image.open(io.BytesIO(opened.page.screenshot(full_page=True))).convert("L"))
    differing = sum(count for level, count in enumerate(ImageChops.difference(*shots).histogram()) if level > 64)
    assert shots[0].size == shots[1].size
    assert differing < 1e-4 * shots[0].width * shots[0].height


def test_a_column_sorts_down_and_then_up(visit: Open, page: str) -> None:
    opened = visit(page)
    button = opened.page.locator("#table thead button", has_text="useful tok/s")
    button.click()
    falling = [float(text.split(" ")[0].replace(",", "")) for text in opened.rows("useful tok/s") if text]
    button.click()
    rising = [float(text.split(" ")[0].replace(",", "")) for text in opened.rows("useful tok/s") if text]
    assert falling == sorted(falling, reverse=True)
    assert rising == sorted(rising)
    assert falling[0] > rising[0]


def test_a_filter_keeps_the_rows_that_have_its_values(visit: Open, page: str) -> None:
    opened = visit(page)
    opened.page.fill("#filter", "batch_size=2|8 decoding=block_diffusion")
    assert set(opened.rows("batch")) == {"2", "8"}
    assert opened.count == "1 to 20 of 20 cells"


def test_a_column_goes_by_the_name_over_it_too(visit: Open, page: str) -> None:
    opened = visit(page)
    opened.page.fill("#filter", "Batch=2 steps=8|12 status=ok")
    assert set(opened.rows("batch")) == {"2"}
    assert set(opened.rows("steps")) == {"8", "12"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("nothing", """No cell's text has "nothing"."""),
        ("batch=1 no_steps=8", 'No column is named "no_steps"; nearest: num_steps, '),
        ("no_steps=8", "All: status, decoding, batch_size, block_length, num_steps, "),
        ("batch=3", "No cell has batch=3; batch_size is 1, 2, 4, 8, 16, 32."),
        ("decoding=autoregressive block=256", "Every word has cells, but no cell has all of them."),
    ],
)
def test_a_filter_that_nothing_matches_shows_no_row_and_says_why(visit: Open, page: str, words: str, said: str) -> None:
    opened = visit(page)
    opened.page.fill("#filter", words)
    assert (opened.rows("status"), opened.count) == ([], "0 cells")
    assert said in opened.page.locator("#hint").inner_text()
    opened.page.fill("#filter", "batch=1")
    assert opened.page.locator("#hint").inner_text() == ""


@pytest.mark.parametrize("status", ["oom", "pruned", "error", "skipped"])
def test_a_status_in_the_list_of_reasons_leads_to_its_cells(visit: Open, page: str, status: str) -> None:
    opened = visit(page)
    line = opened.page.locator(".reasons tr", has=opened.page.get_by_role("link", name=status, exact=True))
    count = int(line.locator("td").nth(1).inner_text())
    line.get_by_role("link").click()
    assert opened.rows("status") == [status] * count


# Themes


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_themes_draw_every_figure(visit: Open, page: str, scheme: str) -> None:
    figures = visit(page, scheme).page.locator("figure svg")
    assert figures.count() == page.count("<figure") > 6
    for figure in figures.all():
        picture = Image.open(io.BytesIO(figure.screenshot())).convert("L")
        paper = ImageStat.Stat(picture).median[0]
        assert paper > 200 if scheme == "light" else paper < 60
        dark, light = picture.getextrema()
        assert light - dark > 150


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_text_of_the_page_is_hard_to_read(visit: Open, page: str, scheme: str) -> None:
    """WCAG's contrast of at least 4.5 between each text and the nearest background behind it."""
    faint = visit(page, scheme).page.evaluate(
        """() => {
            const parse = (text) => text.match(/[\\d.]+/g).map(Number);
            const light = (rgb) => {
                const [r, g, b] = rgb.slice(0, 3).map((v) => (v / 255 <= 0.03928 ? v / 255 / 12.92
                    : ((v / 255 + 0.055) / 1.055) ** 2.4));
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const behind = (element) => {
                for (let e = element; e; e = e.parentElement) {
                    const colour = parse(getComputedStyle(e).backgroundColor);
                    if (colour.length < 4 || colour[3] > 0) return colour;
                }
                return [255, 255, 255];
            };
            const texts = [...document.querySelectorAll("p, li, td, th, dt, dd, span, strong, h1, h2, h3, a, code")];
            return texts.filter((e) => e.textContent.trim() && e.checkVisibility()).filter((e) => {
                const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))];
                return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5;
            }).map((e) => e.textContent.slice(0, 60));
        }"""
    )
    assert faint == []
