"""2-D contours of the loss, on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ...results.result import Result
from ..draw.axis_labels import direction_notes, shared_axis_text
from ..draw.drawing import Drawing, each, styled
from ..draw.panels import PLANE, Panel, Panels
from ..draw.style import Style, hide_unused
from ..draw.text import safe
from ..draw.words import method
from ..planes.filled import CAPTION, Heights, colour_bar, cross, fill_panel, label_lines

WANTS = PLANE


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw contours of the logarithm of the loss, a panel per optimizer.

    What to read: all panels share one colour bar, so equal colours are equal losses, and distances are in the
    units that the axis text names. Numbers on the lines are those of the colour bar; under a panel stands the error
    of the network itself. Wide dark rings mean a loss that stays low around the network (the cross)
    *in this one random plane*. Grey hatching marks cells whose loss is not finite. Compare panels with each
    other, and with eigenvalues, before believing a shape.
    """
    shown = Panels.of(results)
    heights = Heights.between(shown.low, shown.high)
    titles = [panel_title(panel) for panel in shown.panels]
    across = style.across(len(shown.panels), 10 if len(shown.panels) > 1 else 1, titles)
    rows = -(-len(shown.panels) // across)
    figure = style.figure(rows * (style.width / across) + 3 * style.em)
    panels = figure.subplots(rows, across, sharex=True, sharey=True, squeeze=False).ravel()
    filled = None
    labels = []
    for axes, panel, title in zip(panels, shown.panels, titles, strict=False):
        drawn, lines = fill_panel(axes, panel.x, panel.y, panel.height, heights, style, panel.evaluated)
        filled = drawn or filled
        cross(axes)
        axes.set_title(title)
        axes.set_xlabel(_error(panel), fontsize=style.small)
        labels.append(partial(label_lines, axes, lines, style))
    hide_unused(panels, len(shown.panels), across)
    if filled is not None:
        colour_bar(figure, filled, list(panels), shown.printed_scale)
    every = [p.result for p in shown.panels]
    figure.supxlabel(shared_axis_text("α", every, 0), fontsize=style.small)
    figure.supylabel(shared_axis_text("β", every, 1), fontsize=style.small)
    notes = [*shown.notes, *direction_notes(every)]
    if any(p.evaluated is not None for p in shown.panels):
        notes.append("white dots are evaluated points; between them the surface is interpolated")
    caption = f"Loss in a plane through each network (the cross). {CAPTION}" + _dots(style)
    return Drawing(figure, shown.rows(), tuple(notes), caption=caption, finish=lambda: each(labels))


def _dots(style: Style) -> str:
    return " White dots: points of the grid." if style.points else ""


def panel_title(panel: Panel) -> str:
    """Name above seed."""
    return "\n".join(line for line in (safe(method(panel.label)), panel.which) if line)


def _error(panel: Panel) -> str:
    """The error of the network itself, on test data where the surface holds it; empty without an accuracy."""
    data, record = panel.result.data, panel.result.record
    if "test_accuracy" in data:
        centre = data["test_accuracy"].sel(x=0, y=0, method="nearest")
        return f"test error {100 * (1 - float(centre)):.1f} %"
    if record.get("accuracy") is None:
        return ""
    return f"{safe(record.get('split') or 'train')} error {100 * (1 - record['accuracy']):.1f} %"
