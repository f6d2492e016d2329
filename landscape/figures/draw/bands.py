"""A line with a band around it: the middle of several seeds or directions, and how far they reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...base.arrays import Floats
from .drawing import Row
from .method_styles import Look
from .series import middle_and_band, points, stack
from .style import Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ENDS = {"mean": ("mean", "lowest_seed", "highest_seed"), "median": ("median", "lower_quartile", "upper_quartile")}


@dataclass(frozen=True)
class Band:
    """What was drawn.

    Attributes:
        handle: For a legend.
        x: Places, sorted.
        values: A row per line, NaN where it has no finite value.
        rows: The plotted numbers.
        lost: How many values are not finite.
    """

    handle: Any
    x: Floats
    values: Floats
    rows: list[Row]
    lost: int

    @property
    def finite(self) -> Any:
        """All values that can be seen, for the scale of the axis."""
        return self.values[np.isfinite(self.values)]


def draw_band(
    axes: Axes,
    lines: Sequence[tuple[object, object]],
    look: Look,
    style: Style,
    fixed: Row,
    *,
    over: str,
    way: str = "mean",
    marks: int = 8,
    dash: str | None = None,
) -> Band:
    """Draw the middle of ``lines`` with markers, and the band around it.

    Args:
        axes: Where.
        lines: ``(x, values)`` each.
        look: Colour, marker and dash.
        style: For the size of the markers.
        fixed: What the rows of all points share.
        over: Name of x in the rows.
        way: ``mean`` with lowest and highest, or ``median`` with quartiles.
        marks: About how many markers the line has.
        dash: In place of the look's.
    """
    x, values, lost = stack(lines)
    middle, low, high = middle_and_band(values, way)
    (handle,) = axes.plot(
        x,
        middle,
        color=look.colour,
        ls=dash or look.dash,
        marker=look.marker,
        ms=(0.45 if len(x) <= marks else 0.3) * style.text,
        markevery=max(1, len(x) // marks),
    )
    axes.fill_between(x, low, high, color=look.colour, alpha=0.18, lw=0)
    rows = points(fixed, **{over: x, **dict(zip(_ENDS[way], (middle, low, high), strict=True))})
    return Band(handle, x, values, rows, lost)
