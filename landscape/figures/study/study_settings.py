"""Rank correlations within one hyper-parameter at a time: the granulated coefficients, as a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...results.result import Result
from ..draw.drawing import Drawing, Row, styled
from ..draw.style import Style, hide_unused
from ..draw.text import safe, text_inches
from ..draw.words import measure, quantity
from .study_parts import WANTS, known_outcomes, nothing, one, rows_of, title

__all__ = ["WANTS", "draw"]

_NAMES = 0.34  # of the width, for the names of measures
_CELL = 0.037  # inches that a cell with its number is wide, for each point of its letters


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw a matrix per outcome: measures by hyper-parameters, the first column over all models.

    What to read: a column is tau among models that differ in that hyper-parameter alone. Where its sign is not that
    of the first column, the overall correlation comes from somewhere else (Simpson's paradox).
    """
    result, notes = one(results)
    record = result.record
    outcomes = [o for o in known_outcomes(record) if o.endswith("loss")] or known_outcomes(record)
    chosen = [r for r in record["correlations"] if r["tau"] is not None and r["kind"] == "measure"]
    measures = list(dict.fromkeys(r["measure"] for r in chosen))
    factors = list(dict.fromkeys(g["factor"] for r in chosen for g in r["granulated"]))
    if not outcomes or not measures:
        figure = style.figure(10 * style.em)
        nothing(figure, "no measure was correlated with an outcome")
        return Drawing(figure, [], tuple(notes))
    columns = ["all models", *("seeds alone" if f == "seed" else f"{quantity(f)} alone" for f in factors)]
    below = max(text_inches(safe(n, 40), style.small) for n in columns)
    others = below + 10 * style.em
    told, line = style.names_beside([safe(measure(m), 60) for m in measures], _NAMES, others)
    beside = style.beside(told)
    wide = _CELL * style.small * len(columns)
    across = max(1, min(len(outcomes), int((style.width - beside) / (wide + 0.1))))
    each = line * len(measures) + below + 3.5 * style.em
    bands = style.rows(-(-len(outcomes) // across), each, 6 * style.em)
    if len(outcomes) > bands * across:
        left = ", ".join(title(o) for o in outcomes[bands * across :])
        notes.append(f"not drawn, for there is no room: {left}")
        outcomes = outcomes[: bands * across]
    figure = style.figure(bands * each + 6.5 * style.em)
    panels = figure.subplots(bands, across, sharey=True, squeeze=False).ravel()
    hide_unused(panels, len(outcomes), across)
    table: list[Row] = []
    image: Any = None
    for axes, outcome in zip(panels, outcomes, strict=False):
        correlated = rows_of(record, outcome)
        matrix, rows = _matrix(correlated, outcome, measures, factors)
        table += rows
        image = axes.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
        room = (style.width - beside) / across > wide
        for (i, j), value in np.ndenumerate(matrix):
            if room and np.isfinite(value):
                colour = "white" if abs(value) > 0.6 else "black"
                axes.text(j, i, _short(value), ha="center", va="center", fontsize=style.small, color=colour)
        axes.axvline(0.5, color="white", lw=2)
        axes.set_xticks(range(len(columns)), [safe(n, 40) for n in columns], rotation=90)
        axes.set_title(safe(title(outcome)), fontsize=style.small)
        axes.grid(visible=False)
    panels[0].set_yticks(range(len(measures)), told)
    bar: Any = {"orientation": "horizontal", "shrink": 0.6, "aspect": 30, "pad": 0.02}
    figure.colorbar(image, ax=list(panels), label="Kendall's τ", **bar)
    notes.append("each cell but the first column: mean over groups of models that share all other settings")
    caption = (
        "Kendall's rank correlation τ of each measure (rows) with a gap: over all models (first column), and among "
        "models that differ in one hyper-parameter alone, the mean over groups that share all other settings. Colour "
        "is the number in the cell; empty cells have no such groups."
    )
    return Drawing(figure, table, tuple(notes), caption=caption)


def _matrix(
    correlated: dict[str, Any], outcome: str, measures: Sequence[str], factors: Sequence[str]
) -> tuple[object, list[Row]]:
    """Measures by all models and single factors, NaN where there is no number; and the numbers as rows."""
    matrix = np.full((len(measures), len(factors) + 1), np.nan)
    table: list[Row] = []
    for i, key in enumerate(measures):
        row = correlated.get(key)
        if row is None:
            continue
        matrix[i, 0] = row["tau"]
        table.append({"outcome": outcome, "measure": key, "factor": "all models", "tau": row["tau"]})
        for granule in row["granulated"]:
            if granule["psi"] is None:
                continue
            matrix[i, 1 + factors.index(granule["factor"])] = granule["psi"]
            fixed: Row = {"outcome": outcome, "measure": key, "factor": granule["factor"], "tau": granule["psi"]}
            table.append({**fixed, "stderr": granule["stderr"], "groups": granule["groups"]})
    return matrix, table


def _short(value: float) -> str:
    """One decimal with its sign, and no sign on what rounds to 0."""
    text = f"{value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")
