"""Accuracy against the radius rho of the perturbation (DISAM, arXiv 2405.18861, figure 1a)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...results.result import Result
from ..course.finals import ACCURACIES, Ended, Final, finals
from ..draw.drawing import Drawing, Row, styled
from ..draw.method_styles import ERM, LOOKS, looks
from ..draw.style import Style
from ..draw.text import safe
from ..draw.ticks import at
from ..draw.words import method


class _WithRadius(Ended):
    def fits(self, result: Result) -> bool:
        rho = (result.record.get("spec") or {}).get("rho")
        return super().fits(result) and (result.label in ERM or rho is not None)

    def tells(self, results: Sequence[Result]) -> bool:
        return len({(r.record.get("spec") or {}).get("rho") for r in results if r.label not in ERM}) > 1


WANTS = _WithRadius(
    "training", "train runs with several radii: `landscape train --rho R --out runs-R`", "", frozenset()
)


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw the accuracy at the end of training over rho, a line per method; plain training is a horizontal line.

    What to read: whether a method beats plain training at any radius, and how narrow the range is in which it does.
    A marker is the mean over seeds, its whisker reaches from the lowest to the highest; the band of plain training
    likewise. The best of several radii chosen on these data is an optimistic estimate.
    """
    every, quantity = finals(results)
    figure = style.figure()
    axes = figure.subplots()
    table: list[Row] = []
    handles = {}
    styles = looks(one.label for one in every)
    radii = sorted({one.rho for one in every if one.rho is not None})
    low, high = (min(radii), max(radii)) if radii else (0.01, 0.1)
    for label, look in styles.items():
        mine = [one for one in every if one.label == label and quantity in one.accuracy]
        if not mine:
            continue
        table += [_row(one, quantity) for one in mine]
        if label in ERM:
            values = _percent(mine, quantity)
            handles[label] = axes.axhline(values.mean(), color=look.colour, ls=look.dash)
            axes.axhspan(values.min(), values.max(), color=look.colour, alpha=0.12, lw=0)
            continue
        places = sorted({one.rho for one in mine if one.rho is not None})
        groups = [_percent([one for one in mine if one.rho == rho], quantity) for rho in places]
        means = [g.mean() for g in groups]
        (handles[label],) = axes.plot(places, means, color=look.colour, ls=look.dash, marker=look.marker)
        axes.vlines(places, [g.min() for g in groups], [g.max() for g in groups], color=look.colour, lw=0.8)
    if radii:
        axes.set_xscale("log")
        at(axes.xaxis, radii)
        axes.minorticks_off()
        axes.set_xlim(low / 1.3, high * 1.3)
    axes.set(xlabel="ρ", ylabel=ACCURACIES[quantity])
    counts = {k: len({one.seed for one in every if one.label == k}) for k in handles}
    texts = [f"{safe(method(k))} ({n} seed{'s' if n > 1 else ''})" for k, n in counts.items()]
    style.legend(figure, list(handles.values()), texts)
    caption = (
        "Accuracy at the end of training over the radius ρ of the perturbation. A marker is the mean over seeds, its "
        "whisker reaches from the lowest to the highest; horizontal lines and their bands are plain training, which "
        f"has no radius. {LOOKS}"
    )
    notes = ("marker: mean over seeds, whisker and band: lowest to highest seed",)
    return Drawing(figure, table, notes, caption=caption)


def _percent(finals: Sequence[Final], quantity: str) -> Any:
    return 100 * np.array([one.accuracy[quantity] for one in finals])


def _row(one: Final, quantity: str) -> Row:
    fixed: Row = {"label": one.label, "seed": one.seed, "rho": one.rho, "holdout": " ".join(one.holdout)}
    return {**fixed, "quantity": quantity, "value": one.accuracy[quantity]}
