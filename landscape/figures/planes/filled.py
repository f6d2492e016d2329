"""A plane of losses as filled contours, smooth between the grid's points, with its colour bar and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...base.arrays import Floats
from ..draw.style import Style
from ..draw.text import text_inches
from .levels import level_text, loss_levels, loss_ticks
from .smooth import smooth

CAPTION = (
    "Colour is the loss on a logarithmic scale, from the lowest to the highest value of the data; thin lines join "
    "places of equal loss, at the round values on the colour bar, and some carry their value. Between the points of "
    "the grid the surface is interpolated smoothly for drawing. Hatched: not finite."
)
_EDGE = 0.05  # inches between a label and the border
_APART = 0.3  # inches between two labels


@dataclass(frozen=True)
class Heights:
    """The scale that all planes of a figure share.

    Attributes:
        low: The lowest height, where the colours and the colour bar begin.
        high: The highest one, where they end.
        levels: Of the contour lines, between them.
    """

    low: float
    high: float
    levels: Any

    @classmethod
    def between(cls, low: float, high: float) -> Heights:
        """The scale from ``low`` to ``high`` with about a dozen round losses between them."""
        return cls(low, high, loss_levels(low, high))

    @property
    def norm(self) -> Any:
        """For the colours."""
        from matplotlib.colors import Normalize

        return Normalize(self.low, self.high)

    @property
    def bounds(self) -> Any:
        """Of the colours' bands."""
        return np.array([self.low, *self.levels, self.high])


def fill_panel(
    axes: Any, x: Floats, y: Floats, height: Any, heights: Heights, style: Style, evaluated: Any = None
) -> tuple[Any, Any]:
    """Filled contours with thin dark lines, hatching where the height is NaN, equal units on both axes.

    Args:
        axes: Where to draw.
        x: ``(w,)``.
        y: ``(h,)``.
        height: ``(h, w)``, a logarithm of the loss.
        heights: The scale.
        style: Whether to mark the grid's points.
        evaluated: ``(h, w)``, for adaptive grids; None where every cell was. These points are always marked.

    Returns:
        What a colour bar needs, and the lines; None if no cell is finite.
    """
    axes.grid(visible=False)
    axes.set(xlim=(x.min(), x.max()), ylim=(y.min(), y.max()))
    axes.set_aspect("equal" if 0.2 <= np.ptp(y) / np.ptp(x) <= 5 else "auto")
    axes.patch.set(facecolor="0.85", edgecolor="0.5", hatch="////")
    filled = lines = None
    if np.isfinite(height).any():
        fine_x, fine_y, fine = smooth(x, y, height)
        cells = np.ma.masked_invalid(np.clip(fine, heights.low, heights.high))
        filled = axes.contourf(fine_x, fine_y, cells, heights.bounds, norm=heights.norm, cmap="viridis")
        looks = {"colors": "#1a1a1a", "linewidths": 0.35, "linestyles": "solid"}
        if len(heights.levels):
            lines = axes.contour(fine_x, fine_y, cells, heights.levels, **looks)
    if evaluated is not None or style.points:
        rows, columns = np.nonzero(np.ones(np.shape(height), dtype=bool) if evaluated is None else evaluated)
        axes.plot(x[columns], y[rows], ".", color="white", ms=1.4, mew=0, alpha=0.8)
    return filled, lines


def cross(axes: Any, size: float = 6.0) -> None:
    """Mark the network itself."""
    axes.plot(0, 0, "+", color="white", ms=size + 1, mew=0.35 * size)
    axes.plot(0, 0, "+", color="black", ms=size, mew=0.15 * size)


def colour_bar(figure: Any, filled: Any, panels: Sequence[object], words: str, **place: object) -> None:
    """A colour bar that ends where the data end, with round losses beside it."""
    bar = figure.colorbar(filled, ax=list(panels), spacing="proportional", **{"fraction": 0.05, "pad": 0.02} | place)
    bar.ax.yaxis.minorticks_off()
    loss_ticks(bar.ax.yaxis)
    bar.set_label(words)
    bar.ax.tick_params(width=0.6)


def label_lines(axes: Any, lines: Any, style: Style, most: int = 3) -> None:
    """Write the loss onto some lines, off the border, off the cross and off each other.

    Lines without such a place stay without a number. The layout must stand.
    """
    from matplotlib.patheffects import withStroke

    if lines is None:
        return
    dpi = axes.figure.dpi
    frame = axes.get_window_extent()
    kept = [np.asarray(axes.transData.transform((0, 0)))]
    order = np.linspace(0, len(lines.levels) - 1, min(len(lines.levels), 2 * most + 1)).round().astype(int)
    for place in dict.fromkeys([*order[1::2].tolist(), *order[::2].tolist()]):
        words = level_text(lines.levels[place])
        half = np.array([text_inches(words, style.small), style.small / 72]) * dpi / 2
        spot = _spot(axes, lines.get_paths()[place], frame, kept, half + _EDGE * dpi, dpi)
        if spot is None:
            continue
        kept.append(spot)
        where = [tuple(axes.transData.inverted().transform(spot))]
        told = {"fmt": {lines.levels[place]: words}, "fontsize": style.small, "inline_spacing": 1, "manual": where}
        for text in axes.clabel(lines, [lines.levels[place]], **told):
            text.set_path_effects([withStroke(linewidth=1.4, foreground="white")])
            text.set_clip_on(False)
        if len(kept) > most:
            return


def _spot(axes: Any, path: Any, frame: Any, kept: Sequence[Any], margin: Any, dpi: float) -> Any:
    """The point of a line that is farthest from the border and from what is kept; None if none is far enough."""
    points = axes.transData.transform(path.vertices) if len(path.vertices) else np.empty((0, 2))
    reach = max(margin)
    border = np.minimum.reduce(
        [points[:, 0] - frame.x0, frame.x1 - points[:, 0], points[:, 1] - frame.y0, frame.y1 - points[:, 1]]
    )
    if not len(points) or border.max() < reach:
        return None
    others = np.min([np.hypot(*(points - k).T) for k in kept], axis=0)
    fit = (border >= reach) & (others >= max(_APART * dpi, 1.6 * reach))
    if not fit.any():
        return None
    best = np.where(fit, np.minimum(2 * border, others), -np.inf).argmax()
    return points[best]
