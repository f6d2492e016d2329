"""What is wrong with the layout of a drawn figure, read from the text that a renderer really draws."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np

SMALLEST = 7.0  # points, of every letter, exponents and indices included
HIGHEST = 9.0  # inches
DPI = 300  # as in print: at fewer, letters are fitted to pixels, and narrower
_CODE = re.compile(r"lambda|[A-Za-z0-9]_[A-Za-z0-9]|\w=\S|\brho\b")
_HYPHEN = re.compile(r"(?:^|[\s(\[,])-\d")


@dataclass(frozen=True)
class Box:
    """A text as it lies on the page: its words, its corners in pixels ``(4, 2)``, its smallest letter in points."""

    words: str
    corners: Any
    smallest: float
    cut: bool


def boxes(figure: Any) -> list[Box]:
    """Every text that is drawn, in order."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    found: list[Box] = []
    draw = Text.draw

    def noted(self: Any, renderer: Any, *args: Any, **kwargs: Any) -> Any:
        if self.get_visible() and self.get_text().strip():
            found.append(_box(self, renderer))
        return draw(self, renderer, *args, **kwargs)

    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    with mock.patch.object(Text, "draw", noted):
        canvas.draw()
    return found


def _box(text: Any, renderer: Any) -> Box:
    around = text.get_window_extent(renderer)
    angle = text.get_rotation()
    if angle % 90:  # the box around a slanted text is larger than the text
        text.set_rotation(0)
        flat = text.get_window_extent(renderer)
        text.set_rotation(angle)
        width, height = flat.width, flat.height
    else:
        angle, width, height = 0, around.width, around.height
    turn = np.deg2rad(angle)
    half = 0.5 * np.array([[-width, -height], [width, -height], [width, height], [-width, height]])
    corners = half @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    corners += np.array([(around.x0 + around.x1) / 2, (around.y0 + around.y1) / 2])
    frame = text.get_clip_box() if text.get_clip_on() else None
    cut = frame is not None and not (
        frame.x0 <= around.x0 and around.x1 <= frame.x1 and frame.y0 <= around.y0 and around.y1 <= frame.y1
    )
    return Box(text.get_text(), corners, _smallest_letter(text), cut)


def _smallest_letter(text: Any) -> float:
    from matplotlib.mathtext import MathTextParser

    size = float(text.get_fontsize())
    words = text.get_text()
    if words.replace(r"\$", "").count("$") < 2 or not text.get_parse_math():
        return size
    parsed = MathTextParser("path").parse(words, 72, text.get_fontproperties())
    return min([size, *(float(letter[1]) for letter in parsed.glyphs)])


def overlap(a: Box, b: Box) -> float:
    """By how many pixels two boxes run into each other: the least over all directions in which they could part."""
    deepest = np.inf
    for box in (a, b):
        for edge in np.diff(box.corners[:3], axis=0):
            across = np.array([-edge[1], edge[0]])
            length = float(np.hypot(*across))
            if not length:
                return 0.0
            p, q = a.corners @ across / length, b.corners @ across / length
            deepest = min(deepest, min(p.max(), q.max()) - max(p.min(), q.min()))
    return float(deepest)


def faults(figure: Any, width: float, *, equal: bool = False) -> list[str]:
    """Everything that keeps a figure from being printed as it is.

    Args:
        figure: Drawn and laid out.
        width: Inches that it has to be wide.
        equal: One unit has to be as long upwards as to the right, in all axes that hold contours.
    """
    inches = figure.get_size_inches()
    wrong = []
    if abs(inches[0] - width) > 1e-6:
        wrong.append(f"{inches[0]:.2f} in wide, not {width:.2f}")
    if inches[1] > HIGHEST:
        wrong.append(f"{inches[1]:.2f} in high")
    every = boxes(figure)
    page = inches * figure.dpi
    slack = 0.01 * figure.dpi
    for box in every:
        words = " / ".join(box.words.split("\n"))
        if (box.corners < -slack).any() or (box.corners > page + slack).any():
            wrong.append(f"leaves the page: {words!r}")
        if box.smallest < SMALLEST - 1e-6:
            wrong.append(f"{box.smallest:.1f} pt: {words!r}")
        if box.cut or "…" in words or "..." in words:
            wrong.append(f"is cut: {words!r}")
        if _CODE.search(words):
            wrong.append(f"is a name of the code: {words!r}")
        if _HYPHEN.search(words):
            wrong.append(f"has a hyphen for a minus: {words!r}")
    for a, b in itertools.combinations(every, 2):
        if overlap(a, b) > slack:
            wrong.append(f"overlap: {a.words!r} and {b.words!r}")
    if equal:
        wrong += [f"unequal aspect: {r:.3g}" for r in map(_aspect, _planes(figure)) if abs(r - 1) > 0.02]
    return wrong


def _planes(figure: Any) -> list[Any]:
    from matplotlib.contour import QuadContourSet

    flat = [a for a in figure.axes if a.name != "3d" and a.get_label() != "<colorbar>"]
    return [a for a in flat if any(isinstance(c, QuadContourSet) for c in a.collections)]


def _aspect(axes: Any) -> float:
    origin, right, up = axes.transData.transform([(0, 0), (1, 0), (0, 1)])
    return float((up - origin)[1] / (right - origin)[0])
