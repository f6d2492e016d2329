"""The layout of a figure: words broken into lines until they fit their place, then frozen."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from .style import HIGHEST
from .text import wrapped
from .ticks import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

_DPI = 300  # at fewer, letters are fitted to pixels, and take less room than in print
_ROUNDS = 8
_ROW = 3.3  # inches that a panel of equal units is high at most
_SLACK = 0.03  # inches between words and the end of their place


def lay_out(figure: Figure) -> None:
    """Lay a figure out, break what is too long for its place into lines, and freeze the result.

    Every pass of the constrained layout moves things a little; a frozen layout is the same in all formats.
    """
    import matplotlib
    from matplotlib.ticker import ScalarFormatter

    for axes in figure.axes:
        for axis in _axes_of(axes):
            # Matplotlib asks the settings of the moment how large letters are, when it chooses ticks.
            if "labelsize" not in axis.get_tick_params():
                axis.set_tick_params(labelsize=matplotlib.rcParams["xtick.labelsize"])
            if type(axis.get_major_formatter()) is ScalarFormatter:
                plain(axis)
    engine, dpi = figure.get_layout_engine(), figure.dpi
    figure.set_dpi(_DPI)
    # Where a panel is narrower than its place, the layout takes the rest for room of titles: it sees none that is.
    square = {axes: axes.get_aspect() for axes in figure.axes if axes.get_aspect() != "auto" and axes.name != "3d"}
    if engine is not None and figure.axes:
        for axes in square:
            axes.set_aspect("auto")
        for _ in range(_ROUNDS):
            engine.execute(figure)
            changed = [_heightened(figure, square)]
            changed += [_broken(text, inches) for text, inches in _places(figure)]
            changed += [_thinned(axis) for axes in figure.axes for axis in _axes_of(axes)]
            if not any(changed):
                break
        else:
            engine.execute(figure)
        for axes, aspect in square.items():
            axes.set_aspect(aspect)
    figure.set_layout_engine("none")
    figure.set_dpi(dpi)


def _heightened(figure: Figure, square: dict[Any, Any]) -> bool:
    """Make the figure as high as panels of equal units need it; whether it changed."""
    more: list[float] = []
    for axes, aspect in square.items():
        place = axes.get_subplotspec()
        if place is None or not axes.axison:
            continue
        width, height = axes.bbox.width / figure.dpi, axes.bbox.height / figure.dpi
        wanted = min(width * axes.get_data_ratio() * float(aspect), _ROW)
        more.append((wanted - height) * place.get_gridspec().nrows)
    if not more:
        return False
    high = float(np.clip(figure.get_figheight() + max(more), 1.0, HIGHEST))
    if abs(high - figure.get_figheight()) < 0.02:
        return False
    figure.set_figheight(high)
    return True


def _axes_of(axes: Axes) -> list[Any]:
    return [axes.xaxis, axes.yaxis] + ([axes.zaxis] if hasattr(axes, "zaxis") else [])


def _places(figure: Figure) -> Iterator[tuple[Any, float]]:
    """Every title and label with the inches that there are for it."""
    dpi = figure.dpi
    for part in (figure, *_parts(figure)):
        for text, side in ((part._suptitle, "width"), (part._supxlabel, "width"), (part._supylabel, "height")):
            if text is not None and text.get_text():
                yield text, getattr(part.bbox, side) / dpi - _SLACK
    shown = [a for a in figure.axes if a.axison and a.get_visible()]
    for axes in shown:
        others = [a.bbox for a in shown if a is not axes and a.bbox.bounds != axes.bbox.bounds]
        page = (figure.bbox.x0, figure.bbox.y0, figure.bbox.x1, figure.bbox.y1)
        across = _room(axes.bbox, others, page, 0) / dpi - _SLACK
        upwards = _room(axes.bbox, others, page, 1) / dpi - _SLACK
        if axes.title.get_text():
            yield axes.title, min(across, axes.bbox.width / dpi + 0.05)
        if axes.name == "3d":
            continue
        if axes.xaxis.label.get_text():
            yield axes.xaxis.label, across
        if axes.yaxis.label.get_text():
            yield axes.yaxis.label, upwards


def _parts(figure: Any) -> Iterator[Any]:
    for part in figure.subfigs:
        yield part
        yield from _parts(part)


def _room(box: Bbox, others: list[Any], page: tuple[float, ...], way: int) -> float:
    """How long what is centred on ``box`` can be, in pixels, before it meets what is centred on a neighbour."""
    mine, there = (box.x0, box.x1), (box.y0, box.y1)
    if way:
        mine, there = there, mine
    low, high = page[way], page[way + 2]
    for other in others:
        its, beside = ((other.x0, other.x1), (other.y0, other.y1))[:: -1 if way else 1]
        if min(beside[1], there[1]) - max(beside[0], there[0]) <= 1:
            continue
        if its[0] >= mine[1] - 1:
            high = min(high, (its[0] + mine[1]) / 2)
        if its[1] <= mine[0] + 1:
            low = max(low, (its[1] + mine[0]) / 2)
    middle = sum(mine) / 2
    return float(2 * min(middle - low, high - middle))


def _broken(text: Any, inches: float) -> bool:
    """Break a text into lines that are no longer than ``inches``; whether it changed."""
    told = "\n".join(wrapped(line, inches, text.get_fontsize()) for line in text.get_text().split("\n"))
    if told == text.get_text():
        return False
    text.set_text(told)
    return True


def _thinned(axis: Any) -> bool:
    """Take fewer of matplotlib's ticks where their labels meet; whether that was so."""
    from matplotlib.ticker import MaxNLocator

    locator = axis.get_major_locator()
    if axis.axis_name != "x" or not isinstance(locator, MaxNLocator) or hasattr(axis.axes, "zaxis"):
        return False
    low, high = sorted(axis.get_view_interval())
    renderer = axis.get_figure(root=True).canvas.get_renderer()
    boxes = [
        tick.label1.get_window_extent(renderer)
        for tick in axis.get_major_ticks()
        if low <= tick.get_loc() <= high and tick.label1.get_visible() and tick.label1.get_text()
    ]
    boxes.sort(key=lambda box: box.x0)
    slack = 0.05 * axis.figure.dpi
    if len(boxes) < 3 or all(a.x1 + slack <= b.x0 for a, b in itertools.pairwise(boxes)):
        return False
    axis.set_major_locator(MaxNLocator(max(len(boxes) - 2, 1), steps=[1, 2, 2.5, 5, 10]))
    return True
