"""Merge trees of loss surfaces: which minima there are, how deep, and where their basins meet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...results.result import Result
from ...surfaces.topology import Basin, basins
from ..draw.axis_labels import direction_notes
from ..draw.drawing import Drawing, Row, styled
from ..draw.panels import PLANE, Panels, Planes
from ..draw.style import Style, hide_unused
from ..draw.ticks import number_text
from ..planes.levels import loss_ticks
from .contour import panel_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class _Rough(Planes):
    def tells(self, results: Sequence[Result]) -> bool:
        return any(len(basins(p.height, p.evaluated)) > 1 for p in Panels.of(results).panels)


WANTS = _Rough(PLANE.kind, PLANE.command, PLANE.variable, PLANE.dims)
_MOST = 40


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw the merge tree of every surface, on one height scale.

    What to read: each vertical line is a basin, from the loss of its minimum up to the loss at which it meets a
    deeper one; the horizontal line leads there. A smooth bowl is one line. Many short lines are roughness (the
    number is their total length), few long ones are separate valleys *of this plane*. A coarse grid hides both.
    Of adaptive grids only evaluated cells are looked at.
    """
    shown = Panels.of(results)
    across = style.across(len(shown.panels), 10, [panel_title(p) for p in shown.panels])
    rows = -(-len(shown.panels) // across)
    side = (style.width - 4 * style.em) / across
    figure = style.figure(rows * float(np.clip(0.9 * side, 13 * style.em, 18 * style.em)) + 4 * style.em)
    panels = figure.subplots(rows, across, sharey=True, squeeze=False).ravel()
    table: list[Row] = []
    cut = 0
    for axes, panel in zip(panels, shown.panels, strict=False):
        every = basins(panel.height, panel.evaluated)
        drawn = every[:_MOST]
        cut += len(every) - len(drawn)
        _tree(axes, drawn, shown.high)
        finite = [b.persistence for b in every if b.into is not None]
        axes.set_title(panel_title(panel))
        words = f"{len(every)} {'minimum' if len(every) == 1 else 'minima'}, roughness {number_text(sum(finite), 2)}"
        axes.set_xlabel(words, fontsize=style.small)
        table += [_row(panel, b) for b in every]
    hide_unused(panels, len(shown.panels), across)
    loss_ticks(panels[0].yaxis)
    figure.supylabel(shown.printed_scale, fontsize=style.text)
    notes = [*shown.notes, *direction_notes([p.result for p in shown.panels])]
    if cut:
        notes.append(f"the {cut} shortest lines are not drawn")
    caption = (
        "Minima of the loss in a plane through each network, and where their basins meet. A vertical line is a "
        "basin, from its minimum (dot) up to the loss at which it meets a deeper one; the horizontal line leads "
        "there. The roughness is the total length, in decades, of all lines but the deepest basin's."
    )
    return Drawing(figure, table, tuple(notes), caption=caption)


def _tree(axes: Axes, every: Sequence[Basin], top: float) -> None:
    axes.set_xticks([])
    axes.grid(visible=False, axis="x")
    place = _places(every)
    known = {b.minimum: b for b in every}
    for b in every:
        x, end = place[b.minimum], min(b.death, top)
        axes.plot([x, x], [b.birth, end], color="#1a1a1a", lw=1.2, solid_capstyle="butt")
        axes.plot(x, b.birth, "o", color="#0072B2", ms=3)
        if b.into in known:
            axes.plot([x, place[b.into]], [b.death, b.death], color="#1a1a1a", lw=0.8)
    axes.margins(x=0.12)


def _places(every: Sequence[Basin]) -> dict[object, float]:
    """Horizontal places without crossings: what ends in a basin stands right of it, the first to end nearest."""
    known = {b.minimum for b in every}
    children: dict[Any, list[Basin]] = {}
    for b in every:
        children.setdefault(b.into if b.into in known else None, []).append(b)
    order = []
    waiting = sorted(children.get(None, []), key=lambda b: b.birth, reverse=True)
    while waiting:
        b = waiting.pop()
        order.append(b.minimum)
        waiting += sorted(children.get(b.minimum, []), key=lambda c: c.death, reverse=True)
    return {minimum: float(i) for i, minimum in enumerate(order)}


def _row(panel: Any, b: Basin) -> Row:
    j, i = b.minimum
    return {
        "label": panel.label,
        "seed": panel.result.seed,
        "x": float(panel.x[i]),
        "y": float(panel.y[j]),
        "birth": b.birth,
        "death": b.death,
        "persistence": b.persistence,
    }
