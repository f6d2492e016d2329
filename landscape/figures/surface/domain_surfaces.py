"""The loss surface of every domain under every optimizer, on one colour scale."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import Any

from ...results.result import Result
from ..draw.axis_labels import direction_notes, shared_axis_text
from ..draw.drawing import Drawing, Row, styled
from ..draw.panels import LEVELS, Panel, Panels, Planes, lost_cells
from ..draw.scales import common_range, log_losses
from ..draw.series import lost_note
from ..draw.style import Style
from ..draw.text import safe
from .contour import fill_panel, panel_title


class _Domains(Planes):
    def fits(self, result: Result) -> bool:
        return super().fits(result) and "domain_loss" in result.data


WANTS = _Domains(
    "surface", "compute it with `landscape surface --dim 2` on data with domains", "loss", frozenset({"x", "y"})
)


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw a grid of contours: optimizers in columns, domains in rows, one norm and one colour bar for all.

    What to read: down a column, whether the domains agree on where the valley lies: a plane that is flat for the
    mean of the losses can hide domains whose valleys lie side by side. Along a row, which optimizer is flatter in
    that domain, along the same directions.
    """
    from matplotlib.colors import Normalize
    from matplotlib.ticker import MaxNLocator

    shown = Panels.of(results)
    domains = list(dict.fromkeys(str(d) for p in shown.panels for d in p.result.data["domain"].values))
    grids = {(d, i): _grid(p, d) for d in domains for i, p in enumerate(shown.panels)}
    heights, scale = log_losses([g for g in grids.values() if g is not None])
    found = dict(zip([k for k, g in grids.items() if g is not None], heights, strict=True))
    levels = MaxNLocator(LEVELS).tick_values(*common_range(heights))
    norm = Normalize(float(levels[0]), float(levels[-1]))
    columns = len(shown.panels)
    side = min((style.width - 8 * style.em) / columns, 16 * style.em)
    figure = style.figure(len(domains) * (side + 0.8 * style.em) + 7 * style.em)
    panels = figure.subplots(len(domains), columns, sharex=True, sharey=True, squeeze=False)
    filled: Any = None
    for (domain, i), height in found.items():
        panel, axes = shown.panels[i], panels[domains.index(domain), i]
        evaluated = panel.evaluated
        filled = fill_panel(axes, panel.x, panel.y, height, levels, norm, evaluated) or filled
        axes.plot(0, 0, "+", color="white", ms=5, mew=1.8)
        axes.plot(0, 0, "+", color="black", ms=4, mew=0.8)
    for i, panel in enumerate(shown.panels):
        panels[0, i].set_title(panel_title(panel, style, side))
    for axes, domain in zip(panels[:, 0], domains, strict=True):
        axes.set_ylabel(safe(domain, style.letters(side)))
    for axes in panels.ravel():
        axes.tick_params(labelsize=0.8 * style.small)
    if filled is not None:
        label = scale.replace("log₁₀", r"$\log_{10}$").replace("loss", "domain loss")
        figure.colorbar(filled, ax=panels, label=label, fraction=0.04, pad=0.02)
    every = [p.result for p in shown.panels]
    words = f"{shared_axis_text('α', every, 0)}; {shared_axis_text('β', every, 1)}"
    figure.supxlabel(fill(words, style.letters(style.width, style.small)), fontsize=style.small)
    notes = [n for n in shown.notes if "hatched" not in n]
    missing = sum(lost_cells(h, shown.panels[i].result.data) for (_, i), h in found.items())
    return Drawing(
        figure, _rows(shown.panels, domains, found), (*notes, *direction_notes(every), *lost_note(missing))
    )


def _grid(panel: Panel, domain: str) -> Any:
    """The domain's loss ``(y, x)``, or None where a result does not have it."""
    values = panel.result.data["domain_loss"].transpose("domain", "y", "x")
    names = [str(d) for d in panel.result.data["domain"].values]
    return values.values[names.index(domain)] if domain in names else None


def _rows(panels: Sequence[Panel], domains: Sequence[str], heights: dict[tuple[str, int], Any]) -> list[Row]:
    rows: list[Row] = []
    for (domain, i), height in heights.items():
        panel = panels[i]
        loss = _grid(panel, domain)
        for r, y in enumerate(panel.y):
            for c, x in enumerate(panel.x):
                place: Row = {"label": panel.label, "seed": panel.result.seed, "domain": domain}
                numbers = {"x": float(x), "y": float(y), "loss": float(loss[r, c])}
                rows.append(place | numbers | {"plotted_height": float(height[r, c])})
    return rows
