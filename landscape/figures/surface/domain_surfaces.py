"""The loss surface of every domain under every optimizer, on one colour scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...results.result import Result
from ..draw.axis_labels import direction_notes, shared_axis_text
from ..draw.drawing import Drawing, Row, styled
from ..draw.panels import Panel, Panels, Planes, lost_cells, printed
from ..draw.scales import common_range, log_losses
from ..draw.series import lost_note
from ..draw.style import Style
from ..draw.text import safe, text_inches
from ..draw.words import domain as domain_words
from ..planes.filled import CAPTION, Heights, colour_bar, cross, fill_panel
from .contour import panel_title


class _Domains(Planes):
    def fits(self, result: Result) -> bool:
        return super().fits(result) and "domain_loss" in result.data

    def tells(self, results: Sequence[Result]) -> bool:
        return any(r.data.sizes["domain"] > 1 for r in results)


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
    shown = Panels.of(results)
    domains = list(dict.fromkeys(str(d) for p in shown.panels for d in p.result.data["domain"].values))
    panels_shown, domains_shown = _fitting(shown.panels, domains, style)
    grids = {(d, i): _grid(p, d) for d in domains_shown for i, p in enumerate(panels_shown)}
    heights, scale = log_losses([g for g in grids.values() if g is not None])
    found = dict(zip([k for k, g in grids.items() if g is not None], heights, strict=True))
    common = Heights.between(*common_range(heights))
    columns = len(panels_shown)
    figure = style.figure(len(domains_shown) * style.width / (columns + 1) + 7 * style.em)
    panels = figure.subplots(len(domains_shown), columns, sharex=True, sharey=True, squeeze=False)
    filled = None
    for (domain, i), height in found.items():
        panel, axes = panels_shown[i], panels[domains_shown.index(domain), i]
        filled = fill_panel(axes, panel.x, panel.y, height, common, style, panel.evaluated)[0] or filled
        cross(axes, 4.5)
    for i, panel in enumerate(panels_shown):
        panels[0, i].set_title(panel_title(panel))
    for axes, domain in zip(panels[:, 0], domains_shown, strict=True):
        axes.set_ylabel(safe(domain_words(domain)))
    if filled is not None:
        colour_bar(figure, filled, list(panels.ravel()), f"{printed(scale)} of a domain", fraction=0.04)
    every = [p.result for p in panels_shown]
    words = f"{shared_axis_text('α', every, 0)}; {shared_axis_text('β', every, 1)}"
    figure.supxlabel(words, fontsize=style.small)
    notes = [n for n in shown.notes if "hatched" not in n]
    missing = sum(lost_cells(h, panels_shown[i].result.data) for (_, i), h in found.items())
    left = {"networks": len(shown.panels) - columns, "domains": len(domains) - len(domains_shown)}
    notes += [f"{n} {what} are not drawn: there is no room" for what, n in left.items() if n]
    caption = (
        "Loss of each domain (rows) in one plane through each network (columns; the cross is the network), on one "
        f"scale. {CAPTION}"
    )
    every_note = (*notes, *direction_notes(every), *lost_note(missing))
    return Drawing(figure, _rows(panels_shown, domains_shown, found), every_note, caption=caption)


def _fitting(panels: Sequence[Panel], domains: Sequence[str], style: Style) -> tuple[list[Panel], list[str]]:
    """The first networks and domains, as many as have room on a page of the style's width."""
    longest = style.longest_word([panel_title(p) for p in panels])
    if np.ptp(panels[0].y) < 0.6 * np.ptp(panels[0].x):  # low panels, beside which names of domains have no room
        longest = max(longest, text_inches("m" * 12, style.text))
    least = max(7.5 * style.em, longest + 0.6 * style.em)
    columns = max(1, min(len(panels), int((style.width - 7.5 * style.em) / least)))
    side = min((style.width - 7.5 * style.em) / columns, 3.3)
    ratio = float(np.ptp(panels[0].y) / np.ptp(panels[0].x))
    side = side * ratio if 0.2 <= ratio <= 5 else side
    need = style.longest_word([safe(domain_words(d)) for d in domains]) + 0.1
    rows = style.rows(len(domains), max(side, need) + 0.8 * style.em, 9 * style.em)
    return list(panels[:columns]), list(domains[:rows])


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
