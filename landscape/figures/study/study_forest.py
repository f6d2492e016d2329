"""Rank correlations of every measure with every gap, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence

from ...results.result import Result
from ..draw.drawing import Drawing, Row, styled
from ..draw.style import Style, hide_unused
from ..draw.text import safe
from ..draw.words import measure
from .study_parts import WANTS, interval_words, known_outcomes, nothing, one, rows_of, title

__all__ = ["WANTS", "draw"]

_NAMES = 0.36  # of the width, for the names of measures
_OTHERS = 7.5  # ems above and below the rows


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw a panel per outcome, a line per measure.

    What to read: an interval that crosses the line at 0 says nothing about the sign; inside the grey band are
    correlations that unrelated rankings have, too. Filled points have a verdict, open ones are "cannot tell". Squares
    below the line are predictors that look at no landscape; a measure has to beat them.
    """
    result, notes = one(results)
    record = result.record
    outcomes = known_outcomes(record)
    kinds = {r["measure"]: r["kind"] for r in record["correlations"] if r["tau"] is not None}
    order = {"measure": 0, "course": 1, "baseline": 2}
    measures = sorted(kinds, key=lambda m: order[kinds[m]])
    if not outcomes or not measures:
        figure = style.figure(10 * style.em)
        nothing(figure, "no measure was correlated with an outcome")
        return Drawing(figure, [], tuple(notes))
    names, inches = style.names_beside([safe(measure(m), 60) for m in measures], _NAMES, _OTHERS * style.em)
    beside = style.beside(names)
    across = max(1, min(len(outcomes), int((style.width - beside) / (7.8 * style.em))))
    each = inches * len(measures) + _OTHERS * style.em
    stacked = style.rows(-(-len(outcomes) // across), each, 0.1)
    if len(outcomes) > stacked * across:
        left = ", ".join(title(o) for o in outcomes[stacked * across :])
        notes.append(f"not drawn, for there is no room: {left}")
        outcomes = outcomes[: stacked * across]
    figure = style.figure(stacked * each)
    panels = figure.subplots(stacked, across, sharey=True, squeeze=False).ravel()
    hide_unused(panels, len(outcomes), across)
    table: list[Row] = []
    for axes, outcome in zip(panels, outcomes, strict=False):
        correlated = rows_of(record, outcome)
        bands = [r["permuted_band"] for r in correlated.values()]
        band = max(bands, default=0.0)
        axes.axvspan(-band, band, color="0.9", lw=0)
        axes.axvline(0, color="0.3", lw=0.6)
        for place, key in enumerate(measures):
            row = correlated.get(key)
            if row is None:
                continue
            tells = row["verdict"] != "cannot tell"
            colour = {"predicts": "#D55E00", "predicts the opposite": "#0072B2"}.get(row["verdict"], "#000000")
            shape = "o" if kinds[key] == "measure" else "s"
            if row["tau_low"] is not None:
                axes.plot([row["tau_low"], row["tau_high"]], [place, place], color=colour, lw=0.9)
            axes.plot(
                row["tau"],
                place,
                shape,
                color=colour,
                mfc=colour if tells else "white",
                ms=0.33 * style.text,
                mew=0.7,
            )
            fields = ("tau", "tau_low", "tau_high", "permuted_band", "p_permutation", "p_holm", "verdict", "n")
            table.append({"outcome": outcome, "measure": key, "kind": kinds[key]} | {f: row[f] for f in fields})
        axes.set(xlim=(-1.05, 1.05), xlabel="Kendall's τ")
        axes.set_title(safe(title(outcome)), fontsize=style.small)
        axes.set_xticks([-1, 0, 1])
    split = sum(k == "measure" for k in kinds.values()) - 0.5
    for axes in panels[: len(outcomes)]:
        axes.axhline(split, color="0.5", lw=0.5, ls=":")
    panels[0].set_yticks(range(len(measures)), names)
    panels[0].set_ylim(len(measures) - 0.5, -0.5)
    notes += [
        f"bars: {interval_words(record['correlations'])}",
        "grey: |τ| that 95 % of permuted gaps stay below (the widest of all measures)",
        "orange: sharper is worse, blue: sharper is better, open: cannot tell; squares: no look at the landscape",
    ]
    caption = (
        "Kendall's rank correlation τ of each measure (rows) with each gap (columns). A point is τ, its bar the 95 % "
        "interval; the grey band is what unrelated rankings reach. Orange: sharper is worse; blue: sharper is "
        "better; open: cannot tell. Below the dotted line, squares are predictors that look at no landscape."
    )
    return Drawing(figure, table, tuple(notes), caption=caption)
