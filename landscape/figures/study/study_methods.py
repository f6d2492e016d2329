"""Methods against a baseline, pair by pair."""

from __future__ import annotations

from collections.abc import Sequence

from ...results.result import Result
from ..draw.drawing import Drawing, Row, Want, styled
from ..draw.style import Style, hide_unused
from ..draw.text import safe, text_inches
from ..draw.words import method, methods
from ..draw.words import quantity as quantity_words
from .study_parts import OUTCOMES, nothing, one
from .study_parts import WANTS as STUDY


class _Compared(Want):
    def tells(self, results: Sequence[Result]) -> bool:
        return any(r.record["comparison"]["pairs"] for r in results)


WANTS = _Compared(STUDY.kind, STUDY.command, STUDY.variable, STUDY.dims)


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
    compared = list(dict.fromkeys(p["name"] for p in pairs))
    if not pairs:
        figure = style.figure(10 * style.em)
        nothing(figure, "there is one method: nothing to compare")
        return Drawing(figure, [], tuple(notes))
    headings = [_heading(q) for q in quantities]
    names, line = style.names_beside([safe(m, 60) for m in methods(compared)], 0.34, 8 * style.em)
    line += 0.6 * style.small / 72
    beside = style.beside(names)
    longest = max(text_inches(w, style.small) for h in headings for w in h.split())
    across = max(1, min(len(quantities), int((style.width - beside) / max(10 * style.em, longest + 0.1))))
    across = -(-len(quantities) // -(-len(quantities) // across))
    bands = -(-len(quantities) // across)
    figure = style.figure(bands * (line * len(compared) + 5.5 * style.small / 72) + 2 * style.em)
    panels = figure.subplots(bands, across, sharey=True, squeeze=False).ravel()
    hide_unused(panels, len(quantities), across)
    table: list[Row] = []
    for axes, quantity, heading in zip(panels, quantities, headings, strict=False):
        axes.axvline(0, color="0.3", lw=0.6)
        for pair in (p for p in pairs if p["quantity"] == quantity):
            place = compared.index(pair["name"])
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
        axes.set_xlabel(heading, fontsize=style.small)
        axes.xaxis.set_major_locator(MaxNLocator(3, min_n_ticks=2))
    panels[0].set_yticks(range(len(compared)), names)
    panels[0].set_ylim(len(compared) - 0.5, -0.5)
    figure.suptitle(f"difference from {safe(method(str(comparison['baseline'])))}", fontsize=style.small)
    notes.append(
        "ticks: one difference per configuration and seed; bars: Student's 95 % interval of the mean, "
        "over means of settings and of seeds where pairs share them; filled: "
        "p < 0.05 by sign flips (Student's t of fewer than six means) after Holm's correction"
    )
    caption = (
        f"Methods against {method(str(comparison['baseline']))}, pair by pair, a panel per quantity. Grey strokes "
        "are the paired differences, the point is their mean, the bar its 95 % interval; filled points are "
        "differences that survive the correction for all comparisons made."
    )
    return Drawing(figure, table, tuple(notes), caption=caption)


def _heading(key: str) -> str:
    """A quantity in words."""
    return safe(OUTCOMES.get(key) or quantity_words(key), 80)
