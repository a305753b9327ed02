"""A browser for all tests of pages, and what they open in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from chromium import Visit, opened, program, started

Open = Callable[..., Visit]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed; it is in the dev extra")
    if program() is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with started() as browser:
        yield browser


@pytest.fixture
def visit(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Opens a page given as text; scheme, width and height as `opened` has them."""
    with ExitStack() as stack:

        def load(html: str, scheme: str = "light", **window: int) -> Visit:
            path = tmp_path / "page.html"
            path.write_text(html, encoding="utf-8")
            return stack.enter_context(opened(browser, path, scheme=scheme, **window))

        yield load
