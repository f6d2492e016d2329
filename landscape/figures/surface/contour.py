"""2-D contours of the loss, on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import Any

import numpy as np

from ...results.result import Result
from ..draw.axis_labels import direction_notes, shared_axis_text
from ..draw.drawing import Drawing, styled
from ..draw.panels import LEVELS, PLANE, Panel, Panels
from ..draw.style import Style, hide_unused
from ..draw.text import safe

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
    from matplotlib.colors import Normalize
    from matplotlib.ticker import MaxNLocator

    shown = Panels.of(results)
    across = style.across(len(shown.panels), 10 if len(shown.panels) > 1 else 1)
    rows = -(-len(shown.panels) // across)
    side = min((style.width - 8 * style.em) / across, 32 * style.em)
    figure = style.figure(max(rows * (0.95 * side + 3.4 * style.em) + 3 * style.em, 15 * style.em))
    panels = figure.subplots(rows, across, sharex=True, sharey=True, squeeze=False).ravel()
    levels = MaxNLocator(LEVELS).tick_values(shown.low, shown.high)
    norm = Normalize(float(levels[0]), float(levels[-1]))
    filled: Any = None
    for axes, panel in zip(panels, shown.panels, strict=False):
        drawn = _panel(axes, panel, levels, norm, style)
        filled = drawn or filled
        axes.set_title(panel_title(panel, style, side))
        axes.set_xlabel(_error(panel), fontsize=style.small)
    hide_unused(panels, len(shown.panels), across)
    if filled is not None:
        bar = figure.colorbar(filled, ax=list(panels), label=shown.printed_scale, fraction=0.05, pad=0.02)
        bar.ax.tick_params(width=0.6)
    every = [p.result for p in shown.panels]
    figure.supxlabel(shared_axis_text("α", every, 0), fontsize=style.small)
    words = fill(shared_axis_text("β", every, 1), style.letters(figure.get_figheight(), style.small))
    figure.supylabel(words, fontsize=style.small)
    notes = [*shown.notes, *direction_notes(every)]
    if any(p.evaluated is not None for p in shown.panels):
        notes.append("white dots are evaluated points; between them the surface is interpolated")
    return Drawing(figure, shown.rows(), tuple(notes))


def panel_title(panel: Panel, style: Style, inches: float) -> str:
    """Name above seed, cut to the width of the panel."""
    return "\n".join(line for line in (safe(panel.name, style.letters(inches)), panel.which) if line)


def _error(panel: Panel) -> str:
    """The error of the network itself, on test data where the surface holds it; empty without an accuracy."""
    data, record = panel.result.data, panel.result.record
    if "test_accuracy" in data:
        centre = data["test_accuracy"].sel(x=0, y=0, method="nearest")
        return f"test error {100 * (1 - float(centre)):.1f} %"
    if record.get("accuracy") is None:
        return ""
    return f"{safe(record.get('split') or 'train')} error {100 * (1 - record['accuracy']):.1f} %"


def _panel(axes: Any, panel: Panel, levels: Any, norm: Any, style: Style) -> Any:
    """Fill one panel; None if no cell of it is finite."""
    filled = fill_panel(axes, panel.x, panel.y, panel.height, levels, norm, panel.evaluated, letters=style.small)
    axes.plot(0, 0, "+", color="white", ms=7, mew=2.2)
    axes.plot(0, 0, "+", color="black", ms=6, mew=0.9)
    return filled


def fill_panel(
    axes: Any,
    x: Any,
    y: Any,
    height: Any,
    levels: Any,
    norm: Any,
    evaluated: Any = None,
    *,
    letters: float | None = None,
) -> Any:
    """Filled contours with thin dark lines, grey hatching where the height is NaN, dots where it was evaluated.

    Args:
        axes: Where to draw.
        x: ``(w,)``.
        y: ``(h,)``.
        height: ``(h, w)``.
        levels: Of the contours.
        norm: Of the colours.
        evaluated: ``(h, w)``, for adaptive grids; None where every cell was.
        letters: Points of the numbers on every third line; None for none.

    Returns:
        What a colour bar needs; None if no cell is finite.
    """
    from matplotlib.patheffects import withStroke

    axes.grid(visible=False)
    axes.set(xlim=(x.min(), x.max()), ylim=(y.min(), y.max()))
    axes.patch.set(facecolor="0.85", edgecolor="0.5", hatch="////")
    filled = None
    if np.isfinite(height).any():
        cells = np.ma.masked_invalid(height)
        filled = axes.contourf(x, y, cells, levels, norm=norm, cmap="viridis", extend="max")
        lines = axes.contour(x, y, cells, levels, colors="#1a1a1a", linewidths=0.35, linestyles="solid")
        if letters is not None:
            shown = axes.clabel(lines, lines.levels[1::3], fontsize=0.8 * letters, fmt="%.3g", inline_spacing=2)
            for text in shown:
                text.set_path_effects([withStroke(linewidth=1.4, foreground="white")])
    if evaluated is not None:
        rows, columns = np.nonzero(evaluated)
        axes.plot(x[columns], y[rows], ".", color="white", ms=1.2, alpha=0.7)
    return filled
