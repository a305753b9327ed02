"""Who reads the page in another way: by a screen reader, the keyboard or a phone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from chromium import Visit
from odd_inputs import ODD_INPUTS, odd
from verdicts import example

from harness.report.frame import build_page

Open = Callable[..., Visit]
PHONE = 390  # CSS pixels


def unfolded(visit: Visit) -> Any:
    """The page with all that is folded open."""
    folded = visit.page.locator("details")
    visit.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    for unfinished in ("[data-later]", "details:not(:has(> :nth-child(2)))"):  # the policy forbids waiting by script
        visit.page.wait_for_selector(unfinished, state="detached")
    assert folded.count()
    return visit.page


# Everyone


def violations(visit: Visit) -> list[tuple[str, str]]:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed; it is in dev")
    found = axe.Axe().run(unfolded(visit)).response
    assert len(found["passes"]) > 20
    return [(one["id"], one["nodes"][0]["html"][:200]) for one in found["violations"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ODD_INPUTS)
def test_axe_finds_nothing(visit: Open, name: str, scheme: str) -> None:
    assert violations(visit(odd(name)[1], scheme)) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_a_verdict(visit: Open, scheme: str) -> None:
    html = build_page(odd("one cell")[0], example())
    assert violations(visit(html, scheme)) == []
    assert 'id="gate"' in html


@pytest.mark.parametrize("name", ODD_INPUTS)
def test_every_page_is_quiet_and_asks_for_nothing(visit: Open, name: str) -> None:
    opened = visit(odd(name)[1])
    unfolded(opened)
    assert (opened.said, opened.requests) == ([], [])


def test_a_phone_has_room_for_the_reasons_of_what_is_not_drawn(visit: Open) -> None:
    page = visit(odd("graded")[1], width=PHONE).page
    widths = [reason.bounding_box()["width"] for reason in page.locator("dl.reasons dd").all()]
    assert widths
    assert min(widths) > 0.8 * PHONE


@pytest.mark.parametrize("name", ["only failed cells", "graded", "three devices"])
def test_a_phone_scrolls_the_page_down_and_never_sideways(visit: Open, name: str) -> None:
    page = unfolded(visit(odd(name)[1], width=PHONE, height=800))
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE
    widest = "Math.max(...[...document.querySelectorAll('p, li, dd, dt, h1, h2, h3, summary')].map(%s))"
    assert page.evaluate(widest % "(one) => one.getBoundingClientRect().right") <= PHONE


def test_a_phone_shows_text_that_can_be_read(visit: Open) -> None:
    page = unfolded(visit(odd("graded")[1], width=PHONE, height=800))
    sizes = page.evaluate(
        """() => [...document.querySelectorAll("p, li, dd, td, th, summary, .note")]
            .filter((one) => one.checkVisibility()).map((one) => parseFloat(getComputedStyle(one).fontSize))"""
    )
    assert min(sizes) >= 12
    # a picture keeps a size at which its own text is legible, and scrolls in its frame
    assert (
        page.evaluate("Math.min(...[...document.querySelectorAll('figure svg')].map((one) => one.clientWidth))") >= 600
    )


# Keyboard


def test_the_tab_key_reaches_every_control_and_shows_where_it_is(visit: Open) -> None:
    page = visit(odd("three devices")[1]).page
    page.evaluate(
        """() => {
            const controls = "a[href], button:not(:disabled), input, summary, [tabindex='0']";
            [...document.querySelectorAll(controls)].filter((one) => one.checkVisibility())
                .forEach((one, i) => { one.dataset.number = i; });
        }"""
    )
    count = page.locator("[data-number]").count()
    reached = set()
    for _ in range(count):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.dataset.number"))
        width, style = page.evaluate(
            "(({outlineWidth, outlineStyle}) => [parseFloat(outlineWidth), outlineStyle])"
            "(getComputedStyle(document.activeElement))"
        )
        assert (width >= 2, style) == (True, "solid")
    assert count > 50
    assert reached == {str(number) for number in range(count)}


def test_the_first_tab_leads_past_everything_to_the_table(visit: Open) -> None:
    page = visit(odd("one cell")[1]).page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "cells"


def test_the_table_sorts_and_what_is_folded_opens_by_the_keyboard(visit: Open) -> None:
    page = visit(odd("three devices")[1]).page
    head = page.locator("#table thead th", has_text="useful tok/s").first
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    page.keyboard.press("Space")
    assert head.get_attribute("aria-sort") == "ascending"
    folded = page.locator("#throughput ~ details").first
    folded.locator("summary").focus()
    page.keyboard.press("Enter")
    folded.locator("svg").wait_for()


# A figure's link


@pytest.mark.parametrize("name", ["one cell", "three devices"])
def test_the_link_of_a_figure_leads_to_the_table_with_its_rows_alone(visit: Open, name: str) -> None:
    opened = visit(odd(name)[1])
    every = opened.count
    opened.page.locator("#speedup ~ figure [data-filter]").first.click()
    assert opened.page.evaluate("location.hash") == "#cells"
    assert set(opened.rows("decoding")) == {"block_diffusion"}
    assert opened.count != every
    box = opened.page.locator("#cells").bounding_box()
    assert -1 <= box["y"] < 200
