"""How the domains act on each other: cosines of their gradients, and what one's ascent does to the others."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...base.arrays import Floats
from ...base.digits import unsigned_zero
from ...results.result import Result
from ..draw.drawing import Drawing, Row, Want, styled
from ..draw.series import Groups, by_label, lost_note
from ..draw.style import Style
from ..draw.text import safe, text_inches, wrapped
from ..draw.words import domain, method

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_LONGEST = 0.95  # inches of a name beside a matrix


class _Several(Want):
    def tells(self, results: Sequence[Result]) -> bool:
        return any(r.data.sizes["domain"] > 1 for r in results)


WANTS = _Several(
    "domains", "compute them with `landscape domains`", "gradient_cosine", frozenset({"domain", "other"})
)


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw a row of matrices for the gradients' cosines, and one for the sharpness across domains.

    What to read: above, blue pairs of domains pull the same way, red ones against each other; a step for one raises
    the other's loss. Below (with ``sharpness``), how much a column's loss rises at a row's ascent step: a bright
    diagonal with dark neighbours is sharpness of single domains that the pooled loss does not show. Domains marked
    with * were held out. Several seeds: the mean over them.
    """
    groups, notes = by_label(results)
    fields = ["gradient_cosine"] + ["cross_sharpness"] * any(
        "cross_sharpness" in r.data for v in groups.values() for r in v
    )
    across, bands, panel, below = _grid(groups, len(fields), style)
    if len(groups) > across * bands:
        notes.append(f"{len(groups) - across * bands} optimizers are not drawn: there is no room")
        groups = dict(list(groups.items())[: across * bands])
    figure = style.figure(len(fields) * bands * (panel + 0.5) + below)
    grid = figure.subplots(len(fields) * bands, across, squeeze=False, sharex=False)
    table: list[Row] = []
    lost = 0
    for place, field in enumerate(fields):
        rows = grid[place * bands : (place + 1) * bands]
        drawn = {label: _mean(v, field) for label, v in groups.items() if any(field in r.data for r in v)}
        finite = np.concatenate([np.abs(m[np.isfinite(m)]) for m, _, _ in drawn.values()] + [np.zeros(1)])
        top = 1.0 if field == "gradient_cosine" else float(finite.max()) or 1.0
        low = -top if field == "gradient_cosine" or any((m < 0).any() for m, _, _ in drawn.values()) else 0.0
        colours = "RdBu" if low < 0 and field == "gradient_cosine" else "PuOr_r" if low < 0 else "viridis"
        image = None
        for axes, label in itertools.zip_longest(rows.ravel(), groups):
            if label not in drawn:
                axes.set_axis_off()
                continue
            matrix, sources, columns = drawn[label]
            image = axes.imshow(matrix, cmap=colours, vmin=low, vmax=top)
            first = any(axes is row[0] for row in rows)
            last = place == len(fields) - 1 and list(groups).index(label) >= len(groups) - across
            shown = [safe(domain(n), 40) for n in columns] if last else [""] * len(columns)
            axes.set_xticks(range(len(columns)), shown, rotation=90)
            told = [wrapped(safe(domain(s), 40), _LONGEST, style.small) for s in sources]
            axes.set_yticks(range(len(sources)), told if first else [""] * len(sources))
            _numbers(axes, matrix, panel, style, top)
            axes.set_title(safe(method(label)))
            axes.grid(visible=False)
            lost += int((~np.isfinite(matrix)).sum())
            table += [
                {"quantity": field, "label": label, "row": s, "column": n, "value": float(matrix[i, j])}
                for i, s in enumerate(sources)
                for j, n in enumerate(columns)
            ]
        if image is not None:
            title = "cosine of gradients" if field == "gradient_cosine" else "rise at the row's ascent"
            figure.colorbar(image, ax=list(rows.ravel()), label=title, shrink=0.9, fraction=0.05, pad=0.02)
    notes.append("domains marked with * were not trained on; rows of the lower matrices: whose ascent step is taken")
    caption = (
        "Domains against each other, a matrix per optimizer, the mean over seeds: the cosine of the gradients of two "
        "domains' losses (blue: they pull the same way, red: against each other)"
    )
    if len(fields) > 1:
        caption += ", and below how much a column's loss rises at the ascent step that a row takes"
    caption += ". Domains marked with * were held out."
    return Drawing(figure, table, (*notes, *lost_note(lost)), caption=caption)


def _grid(groups: Groups, fields: int, style: Style) -> tuple[int, int, float, float]:
    """How many matrices stand side by side and in how many rows, inches of each, and inches of the names below."""
    names = _labels(groups)
    beside = 1.15 * style.small / 72 + max(min(text_inches(n, style.small), _LONGEST) for n in names)
    below = max(text_inches(n, style.small) for n in names)
    lines = 1.5 + 1.6 * max(wrapped(n, _LONGEST, style.small).count("\n") for n in names)
    each = lines * style.small / 72 * len(names) + 0.1  # of a matrix whose names have room
    each = max(each, style.longest_word([safe(method(k)) for k in groups]) + 0.1)
    room = style.width - beside - 0.75
    across = max(1, min(len(groups), int(room / min(each, room))))
    bands = style.rows(-(-len(groups) // across), fields * (each + 0.55) + below, 0.4)
    across = min(across, -(-len(groups) // bands))
    return across, bands, min(room / across, max(2.2, each)), below


def _labels(groups: Groups) -> list[str]:
    """The names beside the matrices."""
    every = [r for members in groups.values() for r in members]
    return [*dict.fromkeys(f"{safe(domain(str(d)), 40)}*" for r in every for d in r.data["domain"].values), "seen"]


def _numbers(axes: Axes, matrix: Floats, inches: float, style: Style, top: float) -> None:
    """Write each value into its cell, where there is room: the ends of a diverging map are one grey."""
    texts = {place: _short(value) for place, value in np.ndenumerate(matrix) if np.isfinite(value)}
    widest = max((text_inches(t, style.small) for t in texts.values()), default=0.0)
    if 0.9 * inches / matrix.shape[1] < widest + 0.04:
        return
    for (i, j), text in texts.items():
        colour = "white" if abs(matrix[i, j]) > 0.6 * top else "black"
        axes.text(j, i, text, color=colour, ha="center", va="center", fontsize=style.small)


def _short(value: float) -> str:
    text = unsigned_zero(value, 2) if abs(value) < 10 else f"{value:.3g}"
    return text.replace("0.", ".").replace("-", "−")


def _mean(results: Sequence[Result], field: str) -> tuple[Any, list[str], list[str]]:
    """Mean of the matrices over seeds, and the names of rows and columns, with * behind held-out domains."""
    fit = [r for r in results if field in r.data]
    first = fit[0].data
    held = {str(d) for d, seen in zip(first["domain"].values, first["seen"].values, strict=True) if not seen}
    dims = list(first[field].dims)

    def marked(dim: object) -> list[str]:
        return [str(d) + "*" * (str(d) in held) for d in first[dim].values]

    same = [r.data[field].values for r in fit if r.data[field].shape == first[field].shape]
    return np.mean(same, axis=0), marked(dims[0]), marked(dims[1])
