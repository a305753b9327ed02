"""A page as its reader comes to see it: what is folded stands in its place, and shared styles stand in each element."""

from __future__ import annotations

import base64
import json
import re
import zlib

from harness.analysis.analyse import Analysis
from harness.report import frame


def whole(page: str) -> str:
    packed = re.search(r'<script type="text/plain" id="later">(.*?)</script>', page)
    texts = json.loads(zlib.decompress(base64.b64decode(packed[1]))) if packed else []
    page = re.sub(
        r'<details data-later="(\d+)">(<summary>.*?</summary>)',
        lambda one: f"<details>{one[2]}{texts[int(one[1])]}",
        page,
        flags=re.DOTALL,
    )
    rules = dict(re.findall(r"svg \.(s\d+)\{(.*?)\}", page))
    inlined = (lambda name: f' style="{rules[name[1]]}"') if rules else (lambda name: name[0])
    return re.sub("<svg.*?</svg>", lambda svg: re.sub(r' class="(s\d+)"', inlined, svg[0]), page, flags=re.DOTALL)


def build_page(analysis: Analysis) -> str:
    return whole(frame.build_page(analysis))


def with_data(page: str) -> str:
    """The page, and behind it the data of its table as JSON."""
    packed = re.search(r'<script[^>]* id="data">([^<]*)</script>', page)
    assert packed is not None
    return whole(page) + zlib.decompress(base64.b64decode(packed[1])).decode()
