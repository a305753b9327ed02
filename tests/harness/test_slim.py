"""A page in fewer bytes says and shows what it did."""

from __future__ import annotations

import base64
import json
import re
import zlib

from harness.report.slim import put_off, slimmed, with_shared_styles

SVG = """<svg xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 10 10" xmlns="http://www.w3.org/2000/svg">
 <defs/>
 <g id="figure_1"><g id="patch_1"><path d="M 0 10 L 10 10 z" style="fill: none"/></g>
  <g id="matplotlib.axis_1">
   <g id="xtick_1"><g id="line2d_1"><path d="M 1.23456 9.0
L 1.23456 0 " clip-path="url(#box)" style="stroke: red"/></g>
    <g id="line2d_2"><defs><path id="mark" d="M 0 0
L 0 3.5
" style="stroke: blue"/></defs><g><use xlink:href="#mark" x="1.23456" y="9" style="stroke: blue"/></g></g>
    <g id="text_1"><text style="font-family: 'DejaVu Sans'; fill: red" x="1.23456" y="9.5"
     transform="rotate(-0 1.23456 9.5)">a &lt; b \u0007</text></g></g>
   <g id="xtick_2"><g id="line2d_3"><path d="M 5 9 L 5 0" clip-path="url(#box)" style="stroke: red"/></g>
    <g id="line2d_4"><g><use xlink:href="#mark" x="5" y="9" style="stroke: blue"/></g></g></g>
  </g>
 </g>
 <defs><clipPath id="box"><rect x="0" y="0" width="10" height="10"/></clipPath></defs>
</svg>"""


def test_grid_lines_and_tick_marks_of_an_axis_are_one_path_each_at_their_places() -> None:
    slim = slimmed(SVG)
    assert 'd="M 1.23 9 L 1.23 0 M 5 9 L 5 0"' in slim
    assert 'd="M 1.23 9 L 1.23 12.5 M 5 9 L 5 12.5"' in slim
    assert "<use" not in slim


def test_texts_stay_and_what_is_referred_to_keeps_its_id() -> None:
    slim = slimmed(SVG)
    assert ">a &lt; b \ufffd</text>" in slim
    assert 'id="box"' in slim
    assert 'clip-path="url(#box)"' in slim
    assert not re.findall(r'id="(?:figure|patch|line2d|xtick|text)', slim)
    assert "<g" not in slim


def test_a_shared_style_says_what_each_element_said() -> None:
    html = '<style>p { }</style><p style="a">x</p><svg><path style="fill: red"/><path style="fill: blue"/></svg>'
    shared = with_shared_styles(html + '<svg><text style="fill: red">t</text></svg>')
    rules = dict(re.findall(r"svg \.(\w+)\{(.*?)\}", shared))
    assert [rules[name] for name in re.findall(r'class="(\w+)"', shared)] == ["fill: red", "fill: blue", "fill: red"]
    assert '<p style="a">' in shared


def test_what_is_put_off_is_all_there_in_its_order() -> None:
    folded = "<details data-later><summary>{}</summary><p>{}</p></details>"
    kept = "<details><summary>s</summary>kept</details>"
    html = put_off(f"<main>{folded.format('one', 'ä')}{kept}{folded.format(2, 3)}</main>")
    text = re.search(r'id="later">([^<]*)<', html)
    assert text is not None
    assert json.loads(zlib.decompress(base64.b64decode(text[1]))) == ["<p>ä</p>", "<p>3</p>"]
    assert '<details data-later="0"><summary>one</summary></details>' in html
    assert kept in html
