"""matplotlib figures as SVG text that follows the page's theme: ink and series colours become the page's own.

A figure is drawn in marker colours that nothing else uses; after saving, each is replaced by what the page's style
sheet sets, so that one picture serves the light page, the dark page and print.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from html import escape
from itertools import product
from typing import Any, TypeVar

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb, to_rgba_array
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from harness.records.texts import plain
from harness.report.slim import slimmed
from harness.report.templates import style as style_sheet

INK, MUTED, GRID = "#010203", "#020304", "#030405"
DIFFUSION, AUTOREGRESSIVE = "#040506", "#050607"
_THEMED = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    DIFFUSION: "var(--diffusion)",
    AUTOREGRESSIVE: "var(--autoregressive)",
}
Result = TypeVar("Result")
_DOT_PX = 4.0  # of 100 an inch: dots nearer than this are one
WIDTH_IN = 9.0  # every figure has the same width, so that their texts have the same size on the page

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be searched, selected and read aloud
    "svg.hashsalt": "canvasbench",  # equal figures get equal ids, so that equal pages are equal bytes
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titley": 1.0,  # where it is anyway, without looking for something in its way
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 2,
    "hatch.color": MUTED,
    "hatch.linewidth": 0.6,
}


@contextmanager
def style() -> Iterator[None]:
    """Draw in our style; characters that matplotlib's own font lacks are the browser's business."""
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()  # not whatever the user's own matplotlibrc says
        mpl.rcParams.update(_STYLE)
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*")
        warnings.filterwarnings("ignore", message=".*font.*")
        yield


def figure(height_in: float) -> Figure:
    drawing = Figure(figsize=(WIDTH_IN, height_in))
    drawing.patch.set_alpha(0)
    return drawing


def to_svg(drawing: Figure, *, name: str, title: str, description: str) -> Markup:
    """The figure as an <svg> element for a page that may hold several.

    Args:
        name: unique on the page; letters, digits and dashes. It prefixes every id.
        title: what the picture shows, for those who cannot see it.
        description: what it says.
    """
    buffer = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    drawing.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    if (kept := _KEPT.get()) is not None:
        kept[name] = (_alone(svg, title, description), _png(drawing))
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # the page has these rules for all figures
    svg = slimmed(svg)
    svg = re.sub(r"<[^>]*>", lambda tag: _themed(tag.group(), name), svg)  # tags alone: a name may spell a colour
    opened = re.sub(r' (width|height)="[^"]*"', "", svg[: svg.index(">") + 1])
    opened = opened[:-1] + f' role="img" aria-labelledby="{name}-title {name}-desc">'
    head = f'<title id="{name}-title">{escape(plain(title))}</title>'
    head += f'<desc id="{name}-desc">{escape(plain(description))}</desc>'
    return Markup(opened + head + svg[svg.index(">") + 1 :])


Files = dict[str, tuple[str, bytes]]  # figure's name -> SVG and PNG in the light page's colours
_KEPT: ContextVar[Files | None] = ContextVar("kept", default=None)  # where somebody collects them


@contextmanager
def files_kept() -> Iterator[Files]:
    """Meanwhile each figure that is drawn becomes files, too."""
    files: Files = {}
    token = _KEPT.set(files)
    try:
        yield files
    finally:
        _KEPT.reset(token)


def with_files(draw: Callable[[], Result]) -> tuple[Result, Files]:
    """What draw gives, and the files of what it drew, where somebody collects them; `keep` is for whom that is."""
    if _KEPT.get() is None:
        return draw(), {}
    with files_kept() as files:
        return draw(), files


def keep(files: Files) -> None:
    """Add files that another process drew."""
    kept = _KEPT.get()
    if kept is not None:
        kept.update(files)


def _light() -> dict[str, str]:
    """Marker colour -> that of the light page, as its style sheet has it."""
    first = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", str(style_sheet()).split("@media")[0]))
    return {marker: first["ink" if "current" in themed else themed[6:-1]] for marker, themed in _THEMED.items()}


def _alone(svg: str, title: str, description: str) -> str:
    colours = _light()
    svg = re.sub(r"<[^>]*>", lambda tag: re.sub("|".join(colours), lambda c: colours[c[0]], tag[0]), svg)
    told = f"<title>{escape(plain(title))}</title><desc>{escape(plain(description))}</desc>"
    paper = '<rect width="100%" height="100%" fill="#ffffff"/>'
    end = svg.index(">") + 1
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{svg[:end]}{told}{paper}{svg[end:]}\n'


def _png(drawing: Figure) -> bytes:
    """It is drawn for the last time here: its artists keep the colours that they are given."""
    colours = {to_rgb(marker): to_rgb(light) for marker, light in _light().items()}
    for artist, part in product(
        drawing.findobj(),
        ("color", "facecolor", "edgecolor", "hatchcolor", "markerfacecolor", "markeredgecolor"),
    ):
        get, change = (getattr(artist, f"{verb}_{part}", None) for verb in ("get", "set"))
        if get is None or change is None:
            continue
        before = to_rgba_array(get())
        after = [(*colours.get(tuple(rgba[:3]), rgba[:3]), rgba[3]) for rgba in before]
        if len(before) and not np.array_equal(before, after):
            change(after if len(after) > 1 else after[0])
    drawing.patch.set_alpha(1)  # a face colour keeps the alpha that the patch has
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def _themed(tag: str, name: str) -> str:
    for marker, colour in _THEMED.items():
        tag = tag.replace(marker, colour)
    tag = re.sub(r'( id=")', rf"\1{name}-", tag)
    return re.sub(r'(href="#|url\(#)', rf"\1{name}-", tag)


def cloud(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    colour: str,
    *,
    is_round: bool,
    size: float = 3.5,
    alpha: float = 0.3,
) -> None:
    """Faint dots, or squares, as one path: however many they are, they cost the page one element, and they follow its
    theme, which pixels would not. Those that would cover one another are drawn once. Call it when the scales are set.
    """
    if not points:
        return
    axes.update_datalim(points)
    axes.autoscale_view()
    to_pixels = axes.transData
    seen: dict[tuple[int, int], tuple[float, float]] = {}
    for point in points:
        x, y = to_pixels.transform(point)
        seen.setdefault((round(x / _DOT_PX), round(y / _DOT_PX)), point)
    # a line of no length with caps is a dot
    vertices = np.repeat(np.array(list(seen.values()), dtype=float), 2, axis=0)
    path = Path(vertices, [Path.MOVETO, Path.LINETO] * len(seen))
    path.should_simplify = False
    cap = "round" if is_round else "projecting"
    axes.add_patch(PathPatch(path, fill=False, edgecolor=colour, linewidth=size, alpha=alpha, capstyle=cap))


def spread(wanted: list[float], gap: float) -> list[float]:
    """Positions between 0 and 1 as near to the wanted ones as a smallest gap allows; their order stays."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    groups: list[tuple[float, int]] = []  # (centre, members) of runs of labels that touch
    for i in order:
        centre, count = wanted[i], 1
        while groups and centre - (count - 1) * gap / 2 - (groups[-1][0] + (groups[-1][1] - 1) * gap / 2) < gap:
            other, members = groups.pop()
            centre = (centre * count + other * members) / (count + members)
            count += members
        groups.append((centre, count))
    placed = [centre + (k - (count - 1) / 2) * gap for centre, count in groups for k in range(count)]
    for k in reversed(range(len(placed))):  # down from the top edge, then up from the bottom one
        placed[k] = min(placed[k], placed[k + 1] - gap if k + 1 < len(placed) else 1.0)
    for k in range(len(placed)):
        placed[k] = max(placed[k], placed[k - 1] + gap if k else 0.0)
    return [placed[order.index(i)] for i in range(len(wanted))]
