"""The same page in fewer bytes and elements: what matplotlib writes for editors, and what nobody has opened yet.

A page of 24 figures held 5,700 elements and 570 kB of SVG as matplotlib writes it.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree as ET

_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
_UNFIT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what XML cannot hold
_NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
_LINES = re.compile(r"[MLz\d\s.e-]*")  # path data of straight lines
_INVISIBLE = ("fill: none", "fill: none; opacity: 0", "opacity: 0")


def slimmed(svg: str) -> str:
    """An <svg> element as matplotlib wrote it, for a page: no namespaces, nothing that is not seen or referred to.

    Groups without a meaning are unwrapped, grid lines and tick marks of an axis are one path each, and coordinates are
    rounded to a hundredth of a point.
    """
    root = ET.fromstring(_UNFIT.sub("\ufffd", svg))
    for element in root.iter():
        _without_namespaces(element)
    _merge_lines(root)
    referred = set(re.findall(r"url\(#([^)]+)\)", ET.tostring(root, encoding="unicode")))
    referred |= {element.get("href", "#")[1:] for element in root.iter("use")}
    for element in root.iter():
        if element.get("id") not in referred:
            element.attrib.pop("id", None)
    _unwrap(root)
    return ET.tostring(root, encoding="unicode")


def with_shared_styles(html: str) -> str:
    """The page with the styles of its pictures as classes of its style sheet: they repeat a few hundred times."""
    names: dict[str, str] = {}

    def classed(style: re.Match[str]) -> str:
        return f' class="{names.setdefault(style[1], f"s{len(names)}")}"'

    html = re.sub("<svg.*?</svg>", lambda svg: re.sub(r' style="([^"]*)"', classed, svg[0]), html, flags=re.DOTALL)
    rules = "".join(f"svg .{name}{{{style}}}" for style, name in names.items())
    return html.replace("</style>", f"{rules}</style>", 1)


def put_off(html: str) -> str:
    """The page with what <details data-later> hold packed into one text, which page.js unpacks when one is opened."""
    packed: list[str] = []

    def marked(details: re.Match[str]) -> str:
        packed.append(details[2])
        return f'<details data-later="{len(packed) - 1}">{details[1]}</details>'

    html = re.sub("<details data-later>(<summary>.*?</summary>)(.*?)</details>", marked, html, flags=re.DOTALL)
    text = deflated(packed)
    return html.replace("</main>", f'</main>\n<script type="text/plain" id="later">{text}</script>', 1)


def deflated(value: Any) -> str:
    """JSON in a third of its bytes, and in letters that end no element: page.js has the way back."""
    return base64.b64encode(
        zlib.compress(json.dumps(value, separators=(",", ":"), allow_nan=False).encode(), 9)
    ).decode()


def _without_namespaces(element: ET.Element) -> None:
    element.tag = element.tag.removeprefix(_SVG)
    attributes = {name.removeprefix(_XLINK): value for name, value in element.attrib.items()}
    style = attributes.get("style", "").replace("font-family: 'DejaVu Sans'", "")  # the page sets its own
    if "style" in attributes:
        attributes["style"] = "; ".join(rule.strip() for rule in style.split(";") if rule.strip())
    if attributes.get("transform", "").startswith("rotate(-0 "):
        del attributes["transform"]
    for name in attributes.keys() & {"d", "x", "y", "transform", "points"}:
        attributes[name] = _NUMBER.sub(_rounded, " ".join(attributes[name].split()))
    for name in attributes.keys() & {"width", "height"}:
        attributes[name] = _NUMBER.sub(_rounded, attributes[name])
    element.attrib.clear()
    element.attrib.update(attributes)
    if element.tag not in ("text", "tspan"):
        element.text = None
    element.tail = None


def _rounded(number: re.Match[str]) -> str:
    text = f"{float(number[0]):.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _merge_lines(root: ET.Element) -> None:
    """Of each axis: straight lines of one style become one path, and so do tick marks, which are moved copies."""
    marks = {path.get("id", ""): path for path in root.iter("path") if path.get("id")}
    for axis in [g for g in root.iter("g") if ".axis_" in g.get("id", "")]:
        first: dict[tuple[str | None, ...], ET.Element] = {}
        for parent, child in list(_pairs(axis)):
            moved = _as_path(child, marks)
            if moved is None:
                continue
            key = (moved.get("style"), moved.get("clip-path"))
            if key in first:
                first[key].set("d", f"{first[key].get('d')} {moved.get('d')}")
                parent.remove(child)
            else:
                first[key] = moved
                parent[list(parent).index(child)] = moved


def _pairs(element: ET.Element) -> Iterator[tuple[ET.Element, ET.Element]]:
    for child in element:
        if child.tag != "defs":
            yield element, child
            yield from _pairs(child)


def _as_path(element: ET.Element, marks: dict[str, ET.Element]) -> ET.Element | None:
    """A path of straight lines, or the copy of one that a <use> is; None for anything else."""
    if element.tag == "use":
        mark = marks.get(element.get("href", "#")[1:])
        if mark is None or not _LINES.fullmatch(mark.get("d", "")):
            return None
        x, y = float(element.get("x", 0)), float(element.get("y", 0))
        return ET.Element("path", {"d": _moved(mark.get("d", ""), x, y), "style": mark.get("style", "")})
    return element if element.tag == "path" and _LINES.fullmatch(element.get("d", "")) else None


def _moved(data: str, x: float, y: float) -> str:
    words, numbers = [], 0
    for word in data.split():
        if word in "MLz":
            words.append(word)
            continue
        words.append(_NUMBER.sub(_rounded, f"{float(word) + (y if numbers % 2 else x):.4f}"))
        numbers += 1
    return " ".join(words)


def _unwrap(element: ET.Element) -> None:
    """Put the children of groups that say nothing in their place; drop what is empty or not seen."""
    kept: list[ET.Element] = []
    for child in element:
        _unwrap(child)
        if child.tag == "g" and not child.attrib:
            kept += list(child)
        elif (child.tag in ("g", "defs") and not len(child)) or (
            child.tag == "path" and not child.get("id") and child.get("style") in _INVISIBLE
        ):
            continue
        else:
            kept.append(child)
    element[:] = kept
