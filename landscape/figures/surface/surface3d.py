"""3-D surfaces: to turn in a browser, or still for paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...results.result import Result
from ..draw.axis_labels import direction_notes, shared_axis_text
from ..draw.drawing import Drawing, styled
from ..draw.interactive import together
from ..draw.panels import PLANE, Panels
from ..draw.style import Style
from .contour import panel_title

WANTS = PLANE
_PEAK = 0.5  # a peak is as high above the 95th percentile as half of what lies under it


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw surfaces over a random plane, one colour range and one height range for all.

    What to read: as in the contour figure, in perspective, which makes shapes plain and distances hard to
    judge: read numbers off the contours, the CSV, or in HTML by pointing at a cell. Holes are cells whose loss
    is not finite. On paper single peaks are cut to a plateau, which the notes say; in HTML they are not.
    """
    from matplotlib.colors import Normalize

    shown = Panels.of(results)
    top = _plateau(shown)
    across = style.across(len(shown.panels), 12.8 if len(shown.panels) > 1 else 1)
    rows = -(-len(shown.panels) // across)
    side = style.width / across
    figure = style.figure(rows * min(0.86 * side + style.em, 27 * style.em) + 2 * style.em)
    norm = Normalize(shown.low, top)
    fill: Any = None
    panels = []
    for i, panel in enumerate(shown.panels):
        axes: Any = figure.add_subplot(rows, across, i + 1, projection="3d")
        panels.append(axes)
        x, y = np.meshgrid(panel.x, panel.y)
        if np.isfinite(panel.height).any():
            body = {"norm": norm, "cmap": "viridis", "rasterized": True, "lw": 0.1, "edgecolor": "#1a1a1a"}
            fill = axes.plot_surface(x, y, np.minimum(panel.height, top), rcount=61, ccount=61, **body)
        axes.set(xlabel="α", ylabel="β", zlim=(shown.low, top))
        axes.set_title(panel_title(panel, style, side), pad=0)
        axes.tick_params(pad=-3, labelsize=0.85 * style.small)
        axes.xaxis.labelpad = axes.yaxis.labelpad = style.text - 17
        axes.locator_params(nbins=4)
        axes.view_init(elev=28, azim=-52)
    if fill is not None:
        figure.colorbar(fill, ax=panels, label=shown.printed_scale, shrink=0.7, fraction=0.04, pad=0.05)
    every = [p.result for p in shown.panels]
    figure.supxlabel(_plane(every), fontsize=style.small)
    notes = [*shown.notes, *direction_notes(every)]
    if top < shown.high:
        notes.append(f"heights above {top:.3g} are cut to a plateau; the highest is {shown.high:.3g}")
    return Drawing(figure, shown.rows(), tuple(notes), together(shown))


def _plateau(shown: Panels) -> float:
    """Where still surfaces are cut: at the 95th percentile of all heights if single peaks would flatten the rest."""
    every = np.concatenate([p.height[np.isfinite(p.height)].ravel() for p in shown.panels])
    if not len(every):
        return shown.high
    cut = float(np.percentile(every, 95))
    return cut if shown.high - cut > _PEAK * (cut - shown.low) > 0 else shown.high


def _plane(results: Sequence[Result]) -> str:
    return f"{shared_axis_text('α', results, 0)}; {shared_axis_text('β', results, 1)}"
