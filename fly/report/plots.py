"""Conversion of a matplotlib figure into SVG inside a page.  No style attributes (the page's policy
forbids them), colours as classes so that both schemes work, text as text, ids of its own."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from fly.terminal import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SVG = "http://www.w3.org/2000/svg"
WIDTH = 5.0  # inches; shown about as wide as a phone, so that its text stays readable there
NUM_SERIES = 8

# Colours that stand for a class of report.css until the SVG is written.
INK, MUTED, RULE, SURFACE = "#010001", "#010002", "#010003", "#010004"
SAFE, DANGER = "#010005", "#010006"
SERIES = tuple(f"#0100a{number}" for number in range(NUM_SERIES))
_CLASSES = {INK: "ink", MUTED: "muted", RULE: "rule", SURFACE: "surface", SAFE: "safe"} | {
    DANGER: "danger",
    **{colour: f"s{number}" for number, colour in enumerate(SERIES)},
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9.5,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "xtick.color": RULE,
    "xtick.labelcolor": MUTED,
    "xtick.labelsize": 9.5,
    "ytick.color": RULE,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 9.5,
}


@dataclass(frozen=True)
class Plot:
    """A drawing, and the same in words and numbers for those who do not see it."""

    name: str  # an id
    title: str
    label: str  # what it shows, in a sentence
    svg: str
    columns: list[str]
    rows: list[list[str]]


def draw(name: str, height: float, paint: Callable[[Axes], None]) -> str:
    """Let `paint` fill the axes of a new figure, `height` inches high, and return its SVG.

    The same input gives the same text: ids come from `name`, and no date is written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # The page's fonts have the letters that matplotlib's own lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        paint(axes)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format")))
    return _inline(out.getvalue(), name)


def short(text: str, limit: int = 26) -> str:
    """A name as it fits beside an axis."""
    text = visible(text).replace("\n", " ")
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _inline(document: str, name: str) -> str:
    ElementTree.register_namespace("", SVG)
    root = ElementTree.fromstring(document)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        _prepare(element, name)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("aria-hidden", "true")  # the figure around it describes it
    root.set("focusable", "false")
    return ElementTree.tostring(root, encoding="unicode")


def _prepare(element: ElementTree.Element, name: str) -> None:
    """Styles become attributes, stand-in colours classes, ids this plot's own."""
    attributes = element.attrib
    for part in attributes.pop("style", "").split(";"):
        key, _, value = (piece.strip() for piece in part.partition(":"))
        if key == "font":
            attributes["font-size"] = re.search(r"[\d.]+px", value)[0]  # type: ignore[index]
        elif key and key not in ("font-family", "-inkscape-stroke"):
            attributes[key] = value
    classes = []
    for key, prefix in (("fill", "f"), ("stroke", "l")):
        meaning = _CLASSES.get(attributes.get(key, ""))
        if meaning:
            del attributes[key]
            classes.append(f"{prefix}-{meaning}")
    if classes:
        attributes["class"] = " ".join(classes)
    if "id" in attributes:
        attributes["id"] = f"{name}-{attributes['id']}"
    for key in ("{http://www.w3.org/1999/xlink}href", "clip-path"):
        value = attributes.pop(key, "")
        if value:
            key = "href" if key.endswith("href") else key
            attributes[key] = value.replace("#", f"#{name}-")
