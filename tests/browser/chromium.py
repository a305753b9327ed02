"""A page in headless Chromium, cut off from all else, and all that it did besides showing itself."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Milliseconds of an action until its rows are laid out; the median of five.
TIMED = """() => {
    const press = (label) =>
        [...document.querySelectorAll("#table thead button")].find((b) => b.textContent.includes(label)).click();
    const type = (text) => {
        const field = document.getElementById("filter");
        field.value = text;
        field.dispatchEvent(new Event("input"));
    };
    const times = [0, 1, 2, 3, 4].map(() => {
        const begun = performance.now();
        %s;
        document.getElementById("table").getBoundingClientRect();
        return performance.now() - begun;
    });
    return times.sort((a, b) => a - b)[2];
}"""

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Nothing of the browser's own may look like the page's: no updates, no sync, no first-run pages.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


def program() -> str | None:
    """Where Chromium is."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


@contextmanager
def started() -> Iterator[Any]:
    """A headless browser with a profile of its own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program(), headless=True, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Visit:
    """An open page and all that it did besides showing itself."""

    page: Any
    requests: list[str] = field(default_factory=list)  # beside the page's own
    said: list[str] = field(default_factory=list)  # console, errors, dialogs

    def rows(self, column: str) -> list[str]:
        """The texts that the table shows in the column with this label."""
        labels = self.page.locator("#table thead button").all_inner_texts()
        return list(self.page.locator(f"#table tbody td:nth-child({labels.index(column) + 1})").all_inner_texts())

    @property
    def count(self) -> str:
        return str(self.page.locator("#count").inner_text())


@contextmanager
def opened(browser: Any, path: Path, *, scheme: str = "light", width: int = 1100, height: int = 900) -> Iterator[Visit]:
    """The file in a window of that size in CSS pixels; every other request is written down and refused."""
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": height})
    address = path.resolve().as_uri()
    visit = Visit(page=context.new_page())

    def guard(route: Any) -> None:
        if route.request.url == address:
            route.continue_()
        else:
            visit.requests.append(route.request.url)
            route.abort()

    context.route("**/*", guard)
    visit.page.on("console", lambda message: visit.said.append(message.text))
    visit.page.on("pageerror", lambda error: visit.said.append(str(error)))
    visit.page.on("dialog", lambda dialog: (visit.said.append(dialog.message), dialog.dismiss()))
    visit.page.goto(address)
    if visit.page.locator("#table").count():
        visit.page.wait_for_selector("#table thead button", state="attached")  # it is unpacked after the load
    yield visit
    context.close()
