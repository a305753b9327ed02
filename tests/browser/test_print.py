"""The page on paper: a PDF of the dark page is as light, as searchable and as whole as one of the light page."""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Callable

import pytest
from chromium import Visit
from odd_inputs import odd

from harness.report import headlines

Open = Callable[..., Visit]
PAPER_PX, LANDSCAPE_PX = 710, 1039  # an A4 sheet between the page's margins, in CSS pixels
NAMES = ["graded", "three devices", "only failed cells"]


def plain(text: str) -> str:
    """Without ligatures, and with one blank where any stand."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text))


def printed(visit: Visit) -> list[str]:
    """The text of every sheet."""
    pypdf = pytest.importorskip("pypdf", reason="pypdf is not installed; it is in the dev extra")
    sheets = pypdf.PdfReader(io.BytesIO(visit.page.pdf(format="A4"))).pages
    return [plain(sheet.extract_text()) for sheet in sheets]


def printed_places(visit: Visit) -> list[tuple[float, float]]:
    """Where the texts of the first sheet begin, in points from its lower left corner."""
    pypdf = pytest.importorskip("pypdf", reason="pypdf is not installed; it is in the dev extra")
    places: list[tuple[float, float]] = []

    def keep(text: str, placed: list[float], within: list[float], *_: object) -> None:
        if text.strip():
            across, up = (placed[4] * within[0] + placed[5] * within[2], placed[4] * within[1] + placed[5] * within[3])
            places.append((across + within[4], up + within[5]))

    pypdf.PdfReader(io.BytesIO(visit.page.pdf(format="A4"))).pages[0].extract_text(
        visitor_text=lambda t, cm, tm, *_: keep(t, tm, cm)
    )
    return places


@pytest.mark.parametrize("name", NAMES)
def test_the_text_of_a_printed_page_can_be_searched(visit: Open, name: str) -> None:
    analysis, html = odd(name)
    text = " ".join(printed(visit(html, "dark")))
    for headline in analysis.headlines:
        assert plain(headlines.verdict(headline)) in text
    assert re.search("stopping (fixed|adaptive); eos", text)  # a picture's own text


@pytest.mark.parametrize("name", NAMES)
def test_no_heading_is_left_alone_at_the_foot_of_a_sheet(visit: Open, name: str) -> None:
    opened = visit(odd(name)[1])
    sheets = printed(opened)
    for heading in map(plain, opened.page.locator("h2").all_inner_texts()):
        assert any(len(sheet.split(heading)[1]) > 40 for sheet in sheets if heading in sheet), heading


def test_what_is_told_by_colour_is_dark_on_white_when_the_dark_page_is_printed(visit: Open) -> None:
    page = visit(odd("graded")[1], "dark").page
    page.emulate_media(media="print", color_scheme="dark")
    colours = page.evaluate(
        """() => [...document.querySelectorAll("body, .verdict, .loud, .stamp, .bad, .off, .quiet, a, td, figure svg")]
            .map((one) => [getComputedStyle(one).color, getComputedStyle(one).backgroundColor])"""
    )
    assert {paper for _, paper in colours} <= {"rgba(0, 0, 0, 0)", "rgb(255, 255, 255)"}
    for ink in {ink for ink, _ in colours}:
        red, green, blue = map(int, re.findall(r"\d+", ink)[:3])
        assert 0.2126 * red + 0.7152 * green + 0.0722 * blue < 90, ink


@pytest.mark.parametrize("name", NAMES)
def test_nothing_runs_off_the_sheet(visit: Open, name: str) -> None:
    cells = 'section[aria-labelledby="cells"]'
    for width, there in ((PAPER_PX, f"body *:not(svg *, {cells}, {cells} *)"), (LANDSCAPE_PX, f"{cells} *")):
        page = visit(odd(name)[1], width=width, height=1000).page
        page.emulate_media(media="print")
        beyond = page.evaluate(
            """([there, width]) => [...document.querySelectorAll(there)]
                .filter((one) => one.checkVisibility() && one.getBoundingClientRect().right > width + 1)
                .map((one) => one.tagName + " " + one.className + " " + one.textContent.slice(0, 40))""",
            [there, width],
        )
        assert beyond == []


@pytest.mark.parametrize("name", ["graded", "three devices"])
def test_no_word_and_no_number_of_the_table_is_broken_on_paper(visit: Open, name: str) -> None:
    page = visit(odd(name)[1], width=LANDSCAPE_PX, height=1000).page
    page.emulate_media(media="print")
    broken = page.evaluate(
        """() => [...document.querySelectorAll("#table td:not(:last-child)")].flatMap((cell) => [...cell.childNodes])
            .filter((part) => part.textContent.trim() && !part.textContent.trim().includes(" "))
            .filter((part) => {
                const range = document.createRange();
                range.selectNodeContents(part);
                return new Set([...range.getClientRects()].map((line) => Math.round(line.top))).size > 1;
            }).map((part) => part.textContent)"""
    )
    assert broken == []
    assert page.locator("#count").is_visible()  # which rows these are
    assert not page.locator("#filter").is_visible()


def test_a_sheet_has_margins_whatever_prints_it(visit: Open) -> None:
    texts = printed_places(visit(odd("one cell")[1]))
    assert min(x for x, _ in texts) > 25  # points of 595
    assert max(y for _, y in texts) < 842 - 25


def test_the_sheets_of_the_table_alone_lie_on_their_side(visit: Open) -> None:
    pypdf = pytest.importorskip("pypdf", reason="pypdf is not installed; it is in the dev extra")
    sheets = pypdf.PdfReader(io.BytesIO(visit(odd("three devices")[1]).page.pdf(format="A4"))).pages
    on_their_side = [sheet.mediabox.width > sheet.mediabox.height for sheet in sheets]
    texts = [plain(sheet.extract_text()) for sheet in sheets]
    headings = ("What did every cell give?", "Did every cell finish, and if not, why?")
    first, behind = (next(i for i, text in enumerate(texts) if heading in text) for heading in headings)
    assert on_their_side == [first <= i < behind for i in range(len(sheets))]
    assert behind - first > 1
    assert all("useful tok/s" in text for text in texts[first:behind])  # each has the names of the columns
