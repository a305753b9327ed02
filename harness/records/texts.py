"""Texts that somebody else wrote, made safe to show: a terminal, a page and a runner of CI take them for text alone."""

from __future__ import annotations

import re


def plain(text: str) -> str:
    """The text with everything that is no printable character as a space: line ends, escape codes, lone surrogates."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def inert(text: str) -> str:
    """A text with its own line breaks, whatever file it quotes: no escape code, no direction in which to read, and
    nothing that a runner of CI takes for a command of its own. What is quoted inside a line goes through `said`.
    """
    lines = (plain(line).replace("##[", "## [") for line in text.split("\n"))
    return "\n".join(re.sub(r"^(\s*):(?=:)", r"\1: ", line) for line in lines)


def harmless(message: str) -> str:
    """A message that is inert and has no empty line."""
    return "\n".join(line for line in inert(message).split("\n") if line.strip())


def said(text: str, length: int = 200) -> str:
    """A file's text on one line and of bounded length, which no runner of CI takes for a command of its own."""
    return short(text, length).replace("##[", "## [").replace("::", ": :")


def short(text: str, length: int = 40) -> str:
    """At most so many characters."""
    text = plain(text)
    return text if len(text) <= length else text[: length - 3] + "..."
