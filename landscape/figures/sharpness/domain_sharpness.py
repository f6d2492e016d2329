"""Sharpness of the pooled loss beside that of each domain: what looks flat together need not be flat anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...results.result import Result
from ..course.measured import common_cell
from ..draw.drawing import Drawing, Row, Want, styled
from ..draw.method_styles import LOOKS, looks
from ..draw.series import by_label, lost_note, seeded
from ..draw.style import Style
from ..draw.words import domain as domain_words


class _Domains(Want):
    def tells(self, results: Sequence[Result]) -> bool:
        return any(r.data.sizes["domain"] > 1 for r in results)


WANTS = _Domains(
    "sharpness",
    "compute it with `landscape sharpness --per-domain`",
    "domain_value",
    frozenset({"domain", "m", "rho"}),
)
_POOLED = "all together"


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw m-sharpness of the pooled loss (grey ground) and of the loss of each domain alone, at one m and rho.

    What to read: single domains that stand far above the bar of the pooled loss are a "fake flat minimum": their
    rises cancel or are averaged away in the pooled loss (arXiv 2503.23430). A bar is the mean over seeds, a dot one
    seed. A negative value means that the loss fell along the ascent step, which happens with large rho.
    """
    groups, notes = by_label(results)
    every = [r for v in groups.values() for r in v]
    cell = common_cell(every)
    kept = groups if cell else {}
    words = f"m = {cell[0]:g}, ρ = {cell[1]:g}" if cell else "no m and rho in common"
    if not cell:
        notes.append("the results have no m and rho in common")
    domains = list(dict.fromkeys(str(d) for r in every for d in r.data["domain"].values))
    figure = style.figure(max(style.width / 2.4, 18 * style.em))
    axes = figure.subplots()
    table: list[Row] = []
    width = 0.8 / max(1, len(kept))
    handles, lost = dict[str, Any](), 0
    for i, (label, look) in enumerate(looks(kept).items()):
        at = (i - (len(kept) - 1) / 2) * width
        for j, place in enumerate([_POOLED, *domains]):
            rows = [_row(label, r, place, cell) for r in kept[label] if cell and (place == _POOLED or _has(r, place))]
            values = np.array([row["value"] for row in rows if np.isfinite(row["value"])])
            lost += len(rows) - len(values)
            table += rows
            if not len(values):
                continue
            bar = axes.bar(j + at, values.mean(), 0.92 * width, color=look.colour, alpha=0.55, lw=0)
            handles.setdefault(label, bar)
            axes.plot(
                [j + at] * len(values),
                values,
                look.marker,
                color=look.colour,
                ms=0.3 * style.text,
                mec="black",
                mew=0.4,
            )
    axes.axvspan(-0.5, 0.5, color="0.92", lw=0, zorder=0)
    axes.axhline(0, color="black", lw=0.6)
    axes.set_xlim(-0.5, len(domains) + 0.5)
    axes.set_ylabel(f"m-sharpness ({words})")
    axes.grid(visible=False, axis="x")
    style.names_below(axes, [_POOLED, *map(domain_words, domains)])
    style.legend(figure, list(handles.values()), seeded(groups, handles))
    notes.append("bar: mean over seeds, dot: one seed; grey ground: the loss of all domains together")
    caption = (
        f"m-sharpness at {words} of the loss of all domains together (grey ground) and of each domain alone. A bar "
        f"is the mean over seeds, a small marker one seed. {LOOKS}"
    )
    return Drawing(figure, table, (*notes, *lost_note(lost)), caption=caption)


def _has(result: Result, domain: str) -> bool:
    return domain in [str(d) for d in result.data["domain"].values]


def _row(label: str, result: Result, place: str, cell: tuple[int, float] | None) -> Row:
    assert cell is not None
    at = {"m": cell[0], "rho": cell[1]}
    table = result.data["value"] if place == _POOLED else result.data["domain_value"].sel(domain=place)
    return {"label": label, "seed": result.seed, "domain": place, **at, "value": float(table.sel(at))}
