"""Measures of flatness against generalization gaps, a point per model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...results.result import Result
from ..draw.drawing import Drawing, Row, styled
from ..draw.method_styles import looks
from ..draw.style import Style
from ..draw.text import safe
from ..draw.ticks import logarithmic
from ..draw.words import measure, method
from .study_parts import WANTS, interval_words, known_outcomes, nothing, one, rows_of, title

__all__ = ["WANTS", "draw"]

MOST = 4  # measures: the first of each family


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw a row of panels per outcome, a panel per measure.

    What to read: whether points of all methods rise together, or whether each method only sits elsewhere. Above each
    panel Kendall's tau with its 95 % interval; a relation inside one colour may be the opposite of the whole.
    """
    result, notes = one(results)
    record, data = result.record, result.data
    outcomes = [o for o in known_outcomes(record) if o.endswith("loss")] or known_outcomes(record)
    measures = _families(record)
    if not outcomes or not measures:
        figure = style.figure(10 * style.em)
        nothing(figure, "no measure was correlated with an outcome")
        return Drawing(figure, [], tuple(notes))
    across = style.across(len(measures), 11.4)
    each = 14.5 * style.em
    bands = -(-len(measures) // across)
    kept = style.rows(len(outcomes), bands * each, 4 * style.em)
    if kept < len(outcomes):
        notes.append(f"not drawn, for there is no room: {', '.join(title(o) for o in outcomes[kept:])}")
        outcomes = outcomes[:kept]
    figure = style.figure(len(outcomes) * bands * each + 2 * style.em)
    panels = figure.subplots(len(outcomes) * bands, across, squeeze=False)
    grid = panels.reshape(len(outcomes), bands * across)
    hide = [axes for line in grid for axes in line[len(measures) :]]
    for axes in hide:
        axes.set_axis_off()
    labels = [str(v) for v in data["arm"].values]
    table: list[Row] = []
    handles = {}
    for line, outcome in zip(grid, outcomes, strict=True):
        gaps = data["outcome_value"].sel(outcome=outcome).values
        correlated = rows_of(record, outcome)
        for place, (axes, key) in enumerate(zip(line, measures, strict=False)):
            values = data["value"].sel(measure=key).values
            if place:
                axes.sharey(line[0])
                axes.tick_params(labelleft=place % across == 0)
            for label, look in looks(labels).items():
                chosen = [i for i, mine in enumerate(labels) if mine == label]
                (handles[label],) = axes.plot(
                    values[chosen],
                    gaps[chosen],
                    look.marker,
                    color=look.colour,
                    ms=0.3 * style.text,
                    alpha=0.75,
                    mew=0,
                )
                table += [
                    {
                        "label": label,
                        "model": str(data["model"].values[i]),
                        "measure": key,
                        "value": float(values[i]),
                        "outcome": outcome,
                        "gap": float(gaps[i]),
                    }
                    for i in chosen
                ]
            row = correlated.get(key)
            if row is not None and row["tau_low"] is not None:
                told = f"τ = {_signed(row['tau'])} [{_signed(row['tau_low'])}, {_signed(row['tau_high'])}]"
                axes.set_title(told if row["verdict"] != "cannot tell" else f"{told}?", fontsize=style.small)
            if (values[np.isfinite(values)] > 0).all() and np.ptp(np.log10(values[values > 0])) > 1:
                axes.set_xscale("log")
                logarithmic(axes.xaxis)
            axes.set_xlabel(safe(measure(key), 60), fontsize=style.small)
            if place % across == 0:
                axes.set_ylabel(safe(title(outcome)), fontsize=style.small)
    style.legend(figure, list(handles.values()), [safe(method(k)) for k in handles])
    brackets = interval_words(record["correlations"])
    notes.append(f"one point per model; brackets: {brackets}; ?: the verdict is cannot tell")
    others = len(record["correlations"]) // max(1, len(record["outcomes"])) - len(measures)
    if others > 0:
        notes.append("shown are the first measures of each family, in the order of the experiment file")
    caption = (
        "Measures of flatness against generalization gaps, a point per model. Above each panel Kendall's τ with its "
        "95 % interval; a question mark where the verdict is: cannot tell. Colour and marker tell the optimizers of "
        "the legend apart."
    )
    return Drawing(figure, table, tuple(notes), caption=caption)


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _families(record: Row) -> list[str]:
    """The first measure of every family that has a correlation."""
    seen: dict[str, str] = {}
    for row in record["correlations"]:
        if row["kind"] == "measure" and row["tau"] is not None:
            seen.setdefault(row["measure"].split()[0], row["measure"])
    return list(seen.values())[:MOST]
