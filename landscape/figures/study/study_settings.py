"""Rank correlations within one hyper-parameter at a time: the granulated coefficients, as a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...results.result import Result
from ..draw.drawing import Drawing, Row, styled
from ..draw.style import Style
from ..draw.text import safe
from .study_parts import WANTS, known_outcomes, nothing, one, rows_of, title

__all__ = ["WANTS", "draw"]


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
    figure = style.figure((1.5 * len(measures) + 7) * style.small / 72)
    if not outcomes or not measures:
        nothing(figure, "no measure was correlated with an outcome")
        return Drawing(figure, [], tuple(notes))
    panels = figure.subplots(1, len(outcomes), sharey=True, squeeze=False)[0]
    table: list[Row] = []
    image: Any = None
    for axes, outcome in zip(panels, outcomes, strict=True):
        correlated = rows_of(record, outcome)
        matrix = np.full((len(measures), len(factors) + 1), np.nan)
        for i, measure in enumerate(measures):
            row = correlated.get(measure)
            if row is None:
                continue
            matrix[i, 0] = row["tau"]
            table.append({"outcome": outcome, "measure": measure, "factor": "all models", "tau": row["tau"]})
            for granule in row["granulated"]:
                if granule["psi"] is None:
                    continue
                matrix[i, 1 + factors.index(granule["factor"])] = granule["psi"]
                table.append(
                    {
                        "outcome": outcome,
                        "measure": measure,
                        "factor": granule["factor"],
                        "tau": granule["psi"],
                        "stderr": granule["stderr"],
                        "groups": granule["groups"],
                    }
                )
        image = axes.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
        for (i, j), value in np.ndenumerate(matrix):
            if np.isfinite(value):
                colour = "white" if abs(value) > 0.6 else "black"
                axes.text(j, i, _short(value), ha="center", va="center", fontsize=0.8 * style.small, color=colour)
        axes.axvline(0.5, color="white", lw=2)
        names = ["all models", *("seeds alone" if f == "seed" else f"{f} alone" for f in factors)]
        axes.set_xticks(range(len(names)), [safe(n, 18) for n in names], rotation=50, ha="right")
        axes.set_title(safe(title(outcome)), fontsize=style.small)
        axes.grid(visible=False)
    panels[0].set_yticks(range(len(measures)), [safe(m, 40) for m in measures])
    figure.colorbar(image, ax=list(panels), label="Kendall's τ", shrink=0.8)
    notes.append("each cell but the first column: mean over groups of models that share all other settings")
    return Drawing(figure, table, tuple(notes))


def _short(value: float) -> str:
    """One decimal with its sign, and no sign on what rounds to 0."""
    text = f"{value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")
