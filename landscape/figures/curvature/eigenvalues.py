"""Bars of the top Hessian eigenvalues, with how far each can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...results.result import Result
from ..course.measured import residual_scale
from ..draw.drawing import Drawing, Row, Want, styled
from ..draw.method_styles import LOOKS, looks
from ..draw.series import by_label, lost_note, seeded
from ..draw.style import Style
from ..draw.text import safe

WANTS = Want("hessian", "compute them with `landscape hessian`", "eigenvalues", frozenset({"rank"}))


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw the top-k eigenvalues per optimizer.

    What to read: the height of a group of bars is the curvature along the sharpest directions, its fall from
    left to right tells one stiff direction from many. A bar is the mean over seeds, a dot one seed. A whisker
    is the largest residual of these seeds in units of the eigenvalue: the true eigenvalue of that matrix lies
    no farther away. Where it is shorter than the line is wide, the error is too small to see. A cross marks a
    seed whose eigenvalue did not converge. Rescaling a ReLU network changes these numbers without changing
    what it computes.
    """
    groups, notes = by_label(results)
    operators = sorted({str(r.record.get("operator") or "hessian") for v in groups.values() for r in v})
    figure = style.figure(max(style.width / 1.75, 17 * style.em))
    axes = figure.add_subplot()
    width = 0.84 / len(groups)
    table: list[Row] = []
    lost, handles, ranks = 0, dict[str, Any](), set()
    for i, (label, look) in enumerate(looks(groups).items()):
        place = (i - (len(groups) - 1) / 2) * width
        seeds = [row for r in groups[label] for row in _rows(label, r)]
        lost += sum(not np.isfinite(row["eigenvalue"]) for row in seeds)
        for rank in sorted({row["rank"] for row in seeds}):
            here = [row for row in seeds if row["rank"] == rank and np.isfinite(row["eigenvalue"])]
            if not here:
                continue
            ranks.add(rank)
            mean = {
                "label": label,
                "seed": "mean",
                "rank": rank,
                "eigenvalue": float(np.mean([row["eigenvalue"] for row in here])),
                "residual": max(row["residual"] for row in here),
                "converged": all(row["converged"] for row in here),
            }
            table += [mean, *here]
            bar = axes.bar(rank + place, mean["eigenvalue"], 0.92 * width, color=look.colour, alpha=0.55, lw=0)
            handles.setdefault(label, bar)
            whisker = mean["residual"] if np.isfinite(mean["residual"]) else 0.0
            axes.errorbar(rank + place, mean["eigenvalue"], whisker, color="black", capsize=1.5, lw=0.7, capthick=0.7)
            for row in here:
                shape = look.marker if row["converged"] else "x"
                axes.plot(
                    rank + place,
                    row["eigenvalue"],
                    shape,
                    color=look.colour,
                    ms=0.3 * style.text,
                    mec="black",
                    mew=0.4,
                )
    axes.axhline(0, color="black", lw=0.6)
    matrix = ", ".join(
        safe(o.replace("hessian", "Hessian").replace("ggn", "GGN").replace("-", " ")) for o in operators
    )
    axes.set(xlabel="rank of the eigenvalue", ylabel=f"eigenvalue of the {matrix}")
    axes.set_xticks(sorted(ranks))
    axes.grid(visible=False, axis="x")
    texts = seeded(groups, handles)
    style.legend(figure, list(handles.values()), texts)
    if any(not row["converged"] for row in table):
        notes.append("a cross marks an eigenvalue that did not converge")
    notes.append("bar: mean over seeds, dot: one seed, whisker: largest residual in units of the eigenvalue")
    caption = (
        "Largest eigenvalues by rank. A bar is the mean over seeds, a small marker one seed (a cross if it did not "
        "converge); a whisker is the largest residual of these seeds in units of the eigenvalue, too short to see "
        f"where it is small. {LOOKS}"
    )
    return Drawing(figure, table, (*notes, *lost_note(lost)), caption=caption)


def _rows(label: str, result: Result) -> list[Row]:
    data = result.data
    values = data["eigenvalues"].values.astype(float)
    scale = residual_scale(result)
    return [
        {
            "label": label,
            "seed": result.seed,
            "rank": int(rank),
            "eigenvalue": float(value),
            "residual": float(residual) * scale,
            "converged": bool(converged),
        }
        for rank, value, residual, converged in zip(
            data["rank"].values, values, data["residuals"].values, data["converged"].values, strict=True
        )
    ]
