"""Methods against a baseline, pair by pair."""

from __future__ import annotations

from collections.abc import Sequence

from ..result import Result
from .drawing import Drawing, Row, styled
from .looks import name
from .study_parts import WANTS, nothing, one
from .style import Style
from .text import safe

__all__ = ["WANTS", "draw"]


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw a panel per quantity, a line per method: every paired difference, their mean and its 95 % interval.

    What to read: an interval off the line at 0 with a filled point is a difference that survives the correction for
    all comparisons made. With fewer than six pairs only the differences are shown.
    """
    result, notes = one(results)
    comparison = result.record["comparison"]
    pairs = comparison["pairs"]
    quantities = list(dict.fromkeys(p["quantity"] for p in pairs))
    methods = list(dict.fromkeys(p["name"] for p in pairs))
    figure = style.figure((2.2 * len(methods) + 6) * style.small / 72)
    if not pairs:
        nothing(figure, "there is one method: nothing to compare")
        return Drawing(figure, [], tuple(notes))
    panels = figure.subplots(1, len(quantities), sharey=True, squeeze=False)[0]
    table: list[Row] = []
    for axes, quantity in zip(panels, quantities, strict=True):
        axes.axvline(0, color="0.3", lw=0.6)
        for pair in (p for p in pairs if p["quantity"] == quantity):
            place = methods.index(pair["name"])
            axes.plot(pair["differences"], [place + 0.22] * pair["n"], "|", color="0.6", ms=0.5 * style.text)
            effect = pair["effect"]
            if effect is not None:
                tells = pair["verdict"] != "cannot tell"
                if effect["low"] is not None:
                    axes.plot([effect["low"], effect["high"]], [place, place], color="black", lw=1)
                axes.plot(
                    effect["mean"], place, "o", color="black", mfc="black" if tells else "white", ms=0.4 * style.text
                )
            table += [
                {"label": pair["name"], "quantity": quantity, "difference": d, "verdict": pair["verdict"]}
                for d in pair["differences"]
            ]
        axes.set_xlabel(safe(quantity.replace("_", " ")), fontsize=style.small)
    panels[0].set_yticks(range(len(methods)), [safe(name(m), 30) for m in methods])
    panels[0].set_ylim(len(methods) - 0.5, -0.5)
    figure.suptitle(f"difference from {safe(name(str(comparison['baseline'])))}", fontsize=style.small)
    notes.append(
        "ticks: one difference per configuration and seed; bars: Student's 95 % interval of the mean; filled: "
        "p < 0.05 by exact sign flips after Holm's correction"
    )
    return Drawing(figure, table, tuple(notes))
