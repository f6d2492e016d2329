"""Measures of flatness against generalization gaps, a point per model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...results.result import Result
from ..draw.drawing import Drawing, Row, styled
from ..draw.method_styles import looks, name
from ..draw.style import Style
from ..draw.text import safe
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
    figure = style.figure(max(1, len(outcomes)) * 13 * style.em + 2 * style.em)
    if not outcomes or not measures:
        nothing(figure, "no measure was correlated with an outcome")
        return Drawing(figure, [], tuple(notes))
    grid = figure.subplots(len(outcomes), len(measures), squeeze=False, sharex="col", sharey="row")
    labels = [str(v) for v in data["arm"].values]
    table: list[Row] = []
    handles = {}
    room = style.width / len(measures) * 0.9
    for line, outcome in zip(grid, outcomes, strict=True):
        gaps = data["outcome_value"].sel(outcome=outcome).values
        correlated = rows_of(record, outcome)
        for axes, measure in zip(line, measures, strict=True):
            values = data["value"].sel(measure=measure).values
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
                        "measure": measure,
                        "value": float(values[i]),
                        "outcome": outcome,
                        "gap": float(gaps[i]),
                    }
                    for i in chosen
                ]
            row = correlated.get(measure)
            if row is not None and row["tau_low"] is not None:
                told = f"τ = {row['tau']:+.2f} [{row['tau_low']:+.2f}, {row['tau_high']:+.2f}]"
                axes.set_title(told if row["verdict"] != "cannot tell" else f"{told}?", fontsize=style.small)
            if (values[np.isfinite(values)] > 0).all() and np.ptp(np.log10(values[values > 0])) > 1:
                axes.set_xscale("log")
            if axes in grid[-1]:
                axes.set_xlabel(safe(measure, style.letters(room, style.small)), fontsize=style.small)
        line[0].set_ylabel(safe(title(outcome)), fontsize=style.small)
    style.legend(figure, list(handles.values()), [safe(name(k)) for k in handles])
    brackets = interval_words(record["correlations"])
    notes.append(f"one point per model; brackets: {brackets}; ?: the verdict is cannot tell")
    others = len(record["correlations"]) // max(1, len(record["outcomes"])) - len(measures)
    if others > 0:
        notes.append("shown are the first measures of each family, in the order of the experiment file")
    return Drawing(figure, table, tuple(notes))


def _families(record: Row) -> list[str]:
    """The first measure of every family that has a correlation."""
    seen: dict[str, str] = {}
    for row in record["correlations"]:
        if row["kind"] == "measure" and row["tau"] is not None:
            seen.setdefault(row["measure"].split()[0], row["measure"])
    return list(seen.values())[:MOST]
