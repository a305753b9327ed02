"""The page's templates: every text that they print is escaped and printable, whatever a record or a verdict holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from harness.records.texts import plain

FOLDER = Path(__file__).parent


def template(name: str) -> jinja2.Template:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template(name)


def style() -> Markup:
    return Markup((FOLDER / "page.css").read_text(encoding="utf-8"))


def _printable(value: Any) -> Any:
    """Every text that a template prints, without what could not be encoded or would steer a terminal."""
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value
