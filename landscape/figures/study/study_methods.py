"""Methods against a baseline, pair by pair."""

from __future__ import annotations

from collections.abc import Sequence

from ...results.result import Result
from ...study.verdicts import quantity_words
from ..draw.drawing import Drawing, Row, styled
from ..draw.method_styles import name
from ..draw.style import Style
from ..draw.text import safe
from .study_parts import WANTS, nothing, one

__all__ = ["WANTS", "draw"]


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw a panel per quantity, a line per method: every paired difference, their mean and its 95 % interval.

    What to read: an interval off the line at 0 with a filled point is a difference that survives the correction for
    all comparisons made. With fewer than six pairs only the differences are shown.
    """
    from matplotlib.ticker import MaxNLocator

    result, notes = one(results)
    comparison = result.record["comparison"]
    pairs = comparison["pairs"]
    quantities = list(dict.fromkeys(p["quantity"] for p in pairs))
    methods = list(dict.fromkeys(p["name"] for p in pairs))
    headings = [_heading(q) for q in quantities]
    lines = 6 + 1.5 * any("\n" in h for h in headings)
    figure = style.figure((2.2 * len(methods) + lines) * style.small / 72)
    if not pairs:
        nothing(figure, "there is one method: nothing to compare")
        return Drawing(figure, [], tuple(notes))
    panels = figure.subplots(1, len(quantities), sharey=True, squeeze=False)[0]
    table: list[Row] = []
    for axes, quantity, heading in zip(panels, quantities, headings, strict=True):
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
        axes.set_xlabel(heading, fontsize=style.small, linespacing=1)
        axes.xaxis.set_major_locator(MaxNLocator(3, min_n_ticks=2))
    panels[0].set_yticks(range(len(methods)), [safe(name(m), 30) for m in methods])
    panels[0].set_ylim(len(methods) - 0.5, -0.5)
    figure.suptitle(f"difference from {safe(name(str(comparison['baseline'])))}", fontsize=style.small)
    notes.append(
        "ticks: one difference per configuration and seed; bars: Student's 95 % interval of the mean, "
        "over means of settings and of seeds where pairs share them; filled: "
        "p < 0.05 by sign flips (Student's t of fewer than six means) after Holm's correction"
    )
    return Drawing(figure, table, tuple(notes))


def _heading(quantity: str) -> str:
    """A quantity in words, on two lines where brackets say of what it is."""
    head, bracket, of = quantity_words(quantity).partition(" (")
    if not bracket:
        head, bracket, of = head.partition(" [")
    return f"{safe(head)}\n{safe(bracket.strip() + of)}" if bracket else safe(head)
