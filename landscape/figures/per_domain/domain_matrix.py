"""How the domains act on each other: cosines of their gradients, and what one's ascent does to the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...results.result import Result
from ..draw.drawing import Drawing, Row, Want, styled
from ..draw.method_styles import name
from ..draw.series import by_label, lost_note
from ..draw.style import Style
from ..draw.text import safe

WANTS = Want("domains", "compute them with `landscape domains`", "gradient_cosine", frozenset({"domain", "other"}))


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw a row of matrices for the gradients' cosines, and one for the sharpness across domains.

    What to read: above, blue pairs of domains pull the same way, red ones against each other; a step for one raises
    the other's loss. Below (with ``--sharpness``), how much a column's loss rises at a row's ascent step: a bright
    diagonal with dark neighbours is sharpness of single domains that the pooled loss does not show. Domains marked
    with * were held out. Several seeds: the mean over them.
    """
    groups, notes = by_label(results)
    fields = ["gradient_cosine"] + ["cross_sharpness"] * any(
        "cross_sharpness" in r.data for v in groups.values() for r in v
    )
    across = len(groups)
    panel = min(style.width / (across + 0.35), 24 * style.em)
    figure = style.figure(len(fields) * (panel + 4.5 * style.em) + style.em)
    grid = figure.subplots(len(fields), across, squeeze=False)
    table: list[Row] = []
    lost = 0
    for row, field in zip(grid, fields, strict=True):
        drawn = {label: _mean(v, field) for label, v in groups.items() if any(field in r.data for r in v)}
        finite = np.concatenate([np.abs(m[np.isfinite(m)]) for m, _, _ in drawn.values()] + [np.zeros(1)])
        top = 1.0 if field == "gradient_cosine" else float(finite.max()) or 1.0
        low = -top if field == "gradient_cosine" or any((m < 0).any() for m, _, _ in drawn.values()) else 0.0
        colours = "RdBu" if low < 0 and field == "gradient_cosine" else "PuOr_r" if low < 0 else "viridis"
        image = None
        for axes, label in zip(row, groups, strict=True):
            if label not in drawn:
                axes.set_axis_off()
                continue
            matrix, sources, names = drawn[label]
            image = axes.imshow(matrix, cmap=colours, vmin=low, vmax=top)
            axes.set_xticks(range(len(names)), [safe(n, 10) for n in names], rotation=60, ha="right")
            _numbers(axes, matrix, panel, style, top)
            first = axes is row[0]
            axes.set_yticks(range(len(sources)), [safe(s, 10) for s in sources] if first else [""] * len(sources))
            axes.set_title(safe(name(label), style.letters(panel)))
            axes.grid(visible=False)
            lost += int((~np.isfinite(matrix)).sum())
            table += [
                {"quantity": field, "label": label, "row": s, "column": n, "value": float(matrix[i, j])}
                for i, s in enumerate(sources)
                for j, n in enumerate(names)
            ]
        if image is not None:
            title = "cosine of gradients" if field == "gradient_cosine" else "rise at the row's ascent"
            figure.colorbar(image, ax=list(row), label=title, shrink=0.8)
    notes.append("domains marked with * were not trained on; rows of the lower matrices: whose ascent step is taken")
    return Drawing(figure, table, (*notes, *lost_note(lost)))


def _numbers(axes: Any, matrix: Any, inches: float, style: Style, top: float) -> None:
    """Write each value into its cell, where there is room: the ends of a diverging map are one grey."""
    if 0.62 * inches * 72 / matrix.shape[1] < 2.2 * style.small:
        return
    for (i, j), value in np.ndenumerate(matrix):
        if np.isfinite(value):
            dark = abs(value) > 0.6 * top
            options = {"ha": "center", "va": "center", "fontsize": 0.8 * style.small}
            axes.text(j, i, f"{value:.2f}".replace("0.", "."), color="white" if dark else "black", **options)


def _mean(results: Sequence[Result], field: str) -> tuple[Any, list[str], list[str]]:
    """Mean of the matrices over seeds, and the names of rows and columns, with * behind held-out domains."""
    fit = [r for r in results if field in r.data]
    first = fit[0].data
    held = {str(d) for d, seen in zip(first["domain"].values, first["seen"].values, strict=True) if not seen}
    dims = list(first[field].dims)

    def marked(dim: Any) -> list[str]:
        return [str(d) + "*" * (str(d) in held) for d in first[dim].values]

    same = [r.data[field].values for r in fit if r.data[field].shape == first[field].shape]
    return np.mean(same, axis=0), marked(dims[0]), marked(dims[1])
