"""1-D slices of the loss along the same directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...results.result import Result
from ..draw.axis_labels import direction_notes, shared_axis_text
from ..draw.bands import draw_band
from ..draw.drawing import Drawing, Row, Want, styled
from ..draw.method_styles import LOOKS, looks
from ..draw.scales import field_scale
from ..draw.series import by_label, lost_note, seeds_text
from ..draw.style import Style
from ..draw.text import safe
from ..draw.words import method


class Slices(Want):
    """Surfaces of one dimension."""

    def fits(self, result: Result) -> bool:
        """Whether ``result`` is one."""
        return super().fits(result) and "y" not in result.data["loss"].dims


WANTS = Slices("surface", "compute it with `landscape surface --dim 1`", "loss", frozenset({"x"}))


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw loss and accuracy along random directions.

    What to read: how fast the loss leaves its value at the network (α = 0) in a typical direction. The line is
    the median over all directions and seeds, the band their quartiles. Sharpness lives in few directions that a
    random one hardly meets, so equal slices do not mean equal eigenvalues.
    """
    groups, notes = by_label(results)
    fields = ["loss"] + ["accuracy"] * any("accuracy" in r.data for v in groups.values() for r in v)
    across = style.across(len(fields), 16)
    rows = -(-len(fields) // across)
    figure = style.figure(rows * max(style.width / (1.8 * across), 14 * style.em) + 2 * style.em)
    panels = figure.subplots(rows, across, squeeze=False, sharex=True).ravel()
    table: list[Row] = []
    lost, handles = 0, {}
    for axes, field in zip(panels, fields, strict=True):
        shown = []
        for label, look in looks(groups).items():
            lines = [line for r in groups[label] if field in r.data for line in slice_lines(r, field)]
            if not lines:
                continue
            fixed: Row = {"quantity": field, "label": label, "lines": len(lines)}
            band = draw_band(axes, lines, look, style, fixed, over="x", way="median")
            handles[label] = band.handle
            table += band.rows
            lost += band.lost
            shown.append(band.finite)
        axes.set_ylabel(field_scale(axes, field, np.concatenate([*shown, []])))
    every_result = [r for v in groups.values() for r in v]
    figure.supxlabel(shared_axis_text("α", every_result, 0), fontsize=style.text)
    style.legend(figure, list(handles.values()), [f"{safe(method(k))} ({_count(groups[k])})" for k in handles])
    notes += [*direction_notes(every_result), "line: median over directions and seeds, band: quartiles"]
    caption = (
        "Loss and accuracy along random directions through each network (α = 0). A line is the median over "
        f"directions and seeds, a band their quartiles. {LOOKS}"
    )
    return Drawing(figure, table, (*notes, *lost_note(lost)), caption=caption)


def slice_lines(result: Result, field: str) -> list[tuple[Any, Any]]:
    """``(x, values)`` of every direction."""
    values = result.data[field].values
    return [(result.data["x"].values, line) for line in (values if values.ndim == 2 else values[None])]


def _count(members: Sequence[Result]) -> str:
    repeats = sum(len(slice_lines(r, "loss")) for r in members)
    return f"{seeds_text({'': members})}, {repeats} slice{'' if repeats == 1 else 's'}"
