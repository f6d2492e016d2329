"""3-D surfaces: to turn in a browser, or still for paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...results.result import Result
from ..draw.axis_labels import direction_notes, shared_axis_text
from ..draw.drawing import Drawing, styled
from ..draw.panels import PLANE, Panels
from ..draw.scales import common_range
from ..draw.style import Style
from ..draw.text import text_inches, wrapped
from ..draw.ticks import number_text
from ..planes.interactive import together
from ..planes.levels import level_text, loss_levels
from ..planes.relief import relief
from .contour import panel_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WANTS = PLANE
_BROAD, _TALL = 0.92, 0.8  # of a square: how much of it a box in perspective fills
_BELOW = 2.2  # ems below a box
_PEAK = 0.5  # a peak is as high above the 95th percentile as half of what lies under it


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw surfaces over a random plane, one colour range and one height range for all.

    What to read: as in the contour figure, in perspective, which makes shapes plain and distances hard to
    judge: read numbers off the contours, the CSV, or in HTML by pointing at a cell. Holes are cells whose loss
    is not finite. On paper single peaks are cut to a plateau, which the notes say; in HTML they are not.
    """
    shown = Panels.of(results)
    tall, low, high = _heights(shown, style)
    top = _plateau(tall, low, high)
    titles = [panel_title(panel) for panel in shown.panels]
    across = style.across(len(shown.panels), 13.5 if len(shown.panels) > 1 else 1, titles)
    high_row = _TALL * _side(style, across, 0.5) + _BELOW * style.small / 72 + 3.5 * style.em
    rows = style.rows(-(-len(shown.panels) // across), high_row, 3 * style.em)
    kept = min(len(shown.panels), rows * across)
    head = (max(t.count("\n") for t in titles) + 1.3) * 1.25 * style.em
    beside = _beside(low, top, style)
    side = _side(style, across, beside)
    cell = (style.width / across, head + _TALL * side + _BELOW * style.small / 72)
    below = wrapped(_plane([p.result for p in shown.panels[:kept]]), style.width - 0.1, style.small)
    figure = style.figure(rows * cell[1] + (1.2 + 1.4 * (below.count("\n") + 1)) * style.small / 72)
    figure.set_layout_engine("none")  # which would make room for the empty corners of each box
    words = shown.printed_scale if style.height == "log" else "loss"
    for i, panel in enumerate(shown.panels[:kept]):
        left, top_edge = (i % across) * cell[0], figure.get_figheight() - (i // across) * cell[1]
        middle = left + (cell[0] - beside) / 2 + 0.03, top_edge - head - _TALL * side / 2
        axes = figure.add_axes(_box(middle, side, figure), projection="3d")
        relief(axes, panel.x, panel.y, tall[i], (low, top), words, style)
        told = "\n".join(wrapped(line, cell[0], style.text) for line in titles[i].split("\n"))
        spot = (left + cell[0] / 2) / style.width, (top_edge - 0.3 * style.em) / figure.get_figheight()
        figure.text(*spot, told, ha="center", va="top", fontsize=style.text)
    every = [p.result for p in shown.panels[:kept]]
    figure.text(0.5, 0.4 * style.em / figure.get_figheight(), below, ha="center", va="bottom", fontsize=style.small)
    notes = [*shown.notes, *direction_notes(every)]
    if top < high:
        notes.append(f"heights above {top:.3g} are cut to a plateau; the highest is {high:.3g}")
    if kept < len(shown.panels):
        notes.append(f"{len(shown.panels) - kept} networks are not drawn: there is no room")
    alone = Panels(shown.panels[:kept], shown.scale, shown.low, shown.high, shown.notes)
    caption = (
        f"Loss over a plane through each network, on one scale. Height and colour are the loss, on a "
        f"{'logarithmic' if style.height == 'log' else 'linear'} scale; the light only shows the shape. Below, the "
        "same surface as contours, in the same colours. Between the points of the grid it is interpolated smoothly "
        "for drawing; holes are cells whose loss is not finite."
    )
    return Drawing(figure, alone.rows(), tuple(notes), together(shown), caption=caption)


def _side(style: Style, across: int, beside: float) -> float:
    """Inches of the square that a box is seen in."""
    return float(min((style.width / across - beside) / _BROAD, 3.4))


def _beside(low: float, high: float, style: Style) -> float:
    """Inches right of a box, for its numbers and their label."""
    numbers = [level_text(v) for v in loss_levels(low, high, 4)] if style.height == "log" else [number_text(high, 3)]
    return max((text_inches(n, style.small) for n in numbers), default=0.0) + 3.2 * style.small / 72


def _heights(shown: Panels, style: Style) -> tuple[list[Any], float, float]:
    """What the surfaces are as high as, and the lowest and highest of it."""
    if style.height == "log":
        return [p.height for p in shown.panels], shown.low, shown.high
    every = [np.where(np.isfinite(p.planes["loss"]), p.planes["loss"], np.nan) for p in shown.panels]
    return every, *common_range(every)


def _box(middle: tuple[float, float], side: float, figure: Figure) -> tuple[float, float, float, float]:
    wide, high = figure.get_size_inches()
    return (middle[0] - side / 2) / wide, (middle[1] - side / 2) / high, side / wide, side / high


def _plateau(tall: Sequence[Any], low: float, high: float) -> float:
    """Where still surfaces are cut: at the 95th percentile of all heights if single peaks would flatten the rest."""
    every = np.concatenate([t[np.isfinite(t)].ravel() for t in tall])
    if not len(every):
        return high
    cut = float(np.percentile(every, 95))
    return cut if high - cut > _PEAK * (cut - low) > 0 else high


def _plane(results: Sequence[Result]) -> str:
    return f"{shared_axis_text('α', results, 0)}; {shared_axis_text('β', results, 1)}"
