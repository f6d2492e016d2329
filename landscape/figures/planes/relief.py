"""A lit surface in perspective for print, with contours on the floor below it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...base.arrays import Floats
from ..draw.style import Style
from ..draw.text import text_inches
from ..draw.ticks import numbers_text, plain
from .levels import level_text, loss_levels
from .smooth import smooth

_FINE = 91  # points of the longer side of the body
_HIGH = 0.72  # of the box, in widths
_FLOOR = 0.32  # how far the floor lies below the lowest point, in heights of the surface
_SMALL = 18  # ems; in smaller squares the numbers of horizontal axes would meet
_AMBIENT = 0.52  # of the light; the rest falls from the upper left


def relief(
    axes: Any, x: Floats, y: Floats, height: Floats, ends: tuple[float, float], words: str, style: Style
) -> None:
    """Draw a surface into 3-D axes.

    Args:
        axes: Where.
        x: ``(w,)``.
        y: ``(h,)``.
        height: ``(h, w)``: the logarithm of the loss, or the loss where the style's height is linear.
        ends: Lowest and highest height of all surfaces of the figure; what is higher is cut to a plateau.
        words: What the height is.
        style: The style.
    """
    import matplotlib
    from matplotlib.colors import Normalize

    low, high = ends
    floor = low - _FLOOR * (high - low)
    norm, colours = Normalize(low, high), matplotlib.colormaps["viridis"]
    axes.set(xlim=(x.min(), x.max()), ylim=(y.min(), y.max()), zlim=(floor, high))
    ratio = float(np.clip(np.ptp(y) / np.ptp(x), 0.4, 2.5))
    axes.set_box_aspect((1, ratio, _HIGH), zoom=0.98)
    if np.isfinite(height).any():
        fine_x, fine_y, fine = smooth(x, y, np.minimum(height, high), _FINE)
        fine = np.clip(fine, low, high)
        places = np.meshgrid(fine_x, fine_y)
        lit = colours(norm(fine))
        lit[..., :3] *= _light(fine_x, fine_y, (fine - floor) / (high - floor))[..., None]
        lit = np.clip(0.25 * (lit[:-1, :-1] + lit[1:, :-1] + lit[:-1, 1:] + lit[1:, 1:]), 0, 1)
        lit[np.isnan(lit)] = 0
        body = axes.plot_surface(*places, fine, rstride=1, cstride=1, facecolors=lit, shade=False, rasterized=True)
        body.set(linewidth=0.35, edgecolor=lit.reshape(-1, 4))
        below = np.ma.masked_invalid(fine)
        levels = _levels(low, high, style)
        bounds = np.unique([low, *levels, high])
        options = {"zdir": "z", "offset": floor, "norm": norm, "cmap": colours}
        axes.contourf(*places, below, bounds, alpha=0.35, zorder=-2, **options)
        axes.contour(*places, below, levels, linewidths=0.7, zorder=-1, **options)
    _dress(axes, words, style, low)


def _levels(low: float, high: float, style: Style) -> Any:
    from matplotlib.ticker import MaxNLocator

    if style.height == "log":
        return loss_levels(low, high, 9)
    every = np.asarray(MaxNLocator(9).tick_values(low, high))
    return every[(every > low) & (every < high)]


def _light(x: Floats, y: Floats, height: Floats) -> Any:
    """How bright each point is, between the ambient light and 1.1: Lambert's law with a little gloss."""
    across, along = x / np.ptp(x), y / np.ptp(y)
    filled = np.where(np.isfinite(height), height, np.nanmean(height))
    slope_y, slope_x = np.gradient(_HIGH * filled, along, across)
    normal = np.stack([-slope_x, -slope_y, np.ones_like(filled)], -1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    sun = np.array([-0.45, -0.55, 0.7])
    sun /= np.linalg.norm(sun)
    facing = np.clip(normal @ sun, 0, 1)
    return _AMBIENT + (1.16 - _AMBIENT) * facing


def _dress(axes: Any, words: str, style: Style, low: float) -> None:
    """Quiet walls, few ticks, and labels near their axes."""
    from matplotlib.ticker import MaxNLocator

    axes.view_init(elev=26, azim=-58)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_pane_color((1, 1, 1, 0))
        axis.line.set(linewidth=0.5, color="0.3")
        axis._axinfo["grid"] |= {"linewidth": 0.3, "color": "0.88"}
    ratio = np.ptp(axes.get_ylim()) / np.ptp(axes.get_xlim())
    axes.set_xlabel("α", labelpad=style.text - 15.5)
    axes.set_ylabel("β", labelpad=style.text - 15.5)
    axes.zaxis.set_rotate_label(False)
    small = axes.bbox.width / axes.figure.dpi < _SMALL * style.small / 72
    axes.patch.set_visible(False)
    axes.tick_params(pad=-3.5, labelsize=style.small)
    axes.tick_params(axis="z", pad=-1.5)
    for axis in (axes.xaxis, axes.yaxis):
        ends = axis.get_view_interval()
        inner = [t for t in MaxNLocator(4).tick_values(*ends) if 0.08 < (t - ends[0]) / np.ptp(ends) < 0.92]
        tight = small or (axis is axes.yaxis and ratio < 0.8)
        inner = [inner[0], inner[-1]] if tight and len(inner) > 2 else inner
        axis.set_ticks(inner)
        plain(axis)
    if style.height == "log":
        every = loss_levels(low, axes.get_zlim()[1], 4)
        told = [level_text(v) for v in every]
    else:
        every = [t for t in MaxNLocator(4).tick_values(*axes.get_zlim()) if low <= t <= axes.get_zlim()[1]]
        told = numbers_text(every)
    axes.set_zticks(every, told)
    widest = max((72 * text_inches(t, style.small) for t in told), default=0.0)
    axes.set_zlabel(words, labelpad=widest - 18, rotation=90)
