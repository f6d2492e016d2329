"""The loss on the way between two checkpoints, with its barrier."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...base.arrays import Floats
from ...results.result import Result
from ..draw.drawing import Drawing, Row, Want, styled
from ..draw.method_styles import looks
from ..draw.scales import field_scale
from ..draw.series import lost_note, points
from ..draw.style import HIGHEST, Style
from ..draw.text import safe
from ..draw.words import method, spoken

if TYPE_CHECKING:
    from matplotlib.axes import Axes


WANTS = Want("path", "compute it with `landscape path A B`", "loss", frozenset({"t"}))


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw loss and accuracy from A (t = 0) to B (t = 1), a line per path.

    What to read: the arrow is the barrier, the largest height above the straight dotted line between the losses of
    the ends. Two minima without a barrier lie in one valley. What is done with BatchNorm statistics between the
    ends can make or unmake a barrier, so every line says it; under ``recalibrate`` the ends differ a little from
    the checkpoints' own losses.
    """
    ordered = sorted(results, key=lambda r: (_name(r), str(r.record.get("b_weights_hash")), str(r.path)))
    names = _distinct([_name(r) for r in ordered])
    left = len(names)
    names, ordered = _fitting(names, ordered, style)
    left -= len(names)
    styles = looks(names)
    fields = ["loss"] + ["accuracy"] * any("accuracy" in r.data for r in ordered)
    across = style.across(len(fields), 16)
    rows = -(-len(fields) // across)
    figure = style.figure(rows * max(style.width / (1.8 * across), 14 * style.em) + 2 * style.em)
    panels = figure.subplots(rows, across, squeeze=False, sharex=True).ravel()
    table: list[Row] = []
    lost, handles = 0, {}
    for axes, field in zip(panels, fields, strict=True):
        shown = []
        for label, result in zip(names, ordered, strict=True):
            if field not in result.data:
                continue
            t, values = result.data["t"].values, result.data[field].values.astype(float)
            drawn = np.where(np.isfinite(values), values, np.nan)
            look = styles[label]
            every = max(1, len(t) // 8)
            (handles[label],) = axes.plot(
                t, drawn, color=look.colour, ls=look.dash, marker=look.marker, markevery=every
            )
            if field == "loss":
                _barrier(axes, result, t, drawn, look.colour)
                lost += int((~np.isfinite(values)).sum())
            shown.append(drawn[np.isfinite(drawn)])
            fixed: Row = {"quantity": field, "label": result.label, "path": label}
            table += points(fixed, t=t, value=values)
        axes.set_ylabel(field_scale(axes, field, np.concatenate([*shown, []])))
    figure.supxlabel("t (A → B)", fontsize=style.text)
    style.legend(figure, list(handles.values()), [safe(spoken(k), 90) for k in handles])
    notes = [
        f"{label}: barrier {r.record['barrier']:.4g}, ends {r.record['loss'][_end(r, 0)]:.4g} and "
        f"{r.record['loss'][_end(r, 1)]:.4g}"
        for label, r in zip(names, ordered, strict=True)
        if r.record.get("barrier") is not None
        and None not in (r.record["loss"][_end(r, 0)], r.record["loss"][_end(r, 1)])
    ]
    if left:
        notes.append(f"{left} paths are not drawn: there is no room")
    caption = (
        "Loss and accuracy on the way from checkpoint A (t = 0) to checkpoint B (t = 1). The arrow is the barrier: "
        "the largest height above the dotted line between the losses of the ends. Colour, marker and dash tell the "
        "paths of the legend apart."
    )
    return Drawing(figure, table, (*notes, *lost_note(lost)), caption=caption)


def _fitting(names: Sequence[str], results: Sequence[Result], style: Style) -> tuple[list[str], list[Result]]:
    """The first paths, as many as have room in the legend of a page."""
    room = HIGHEST - 32 * style.em
    count = len(names)
    while count > 1 and style.legend_inches([safe(spoken(n), 90) for n in names[:count]]) > room:
        count -= 1
    return list(names[:count]), list(results[:count])


def _end(result: Result, t: float) -> int:
    return int(np.abs(np.asarray(result.data["t"].values) - t).argmin())


def _barrier(axes: Axes, result: Result, t: Floats, loss: Floats, colour: str) -> None:
    """The chord between the ends, and an arrow from it to the curve where the height above it is largest."""
    inside = (t >= 0) & (t <= 1) & np.isfinite(loss)
    ends = loss[_end(result, 0)], loss[_end(result, 1)]
    if not np.isfinite(ends).all() or not inside.any():
        return
    s, height = t[inside], loss[inside]
    chord = (1 - s) * ends[0] + s * ends[1]
    axes.plot(s, chord, color=colour, lw=0.7, ls=":")
    top = int((height - chord).argmax())
    if height[top] > chord[top]:
        arrow = {"arrowstyle": "<->", "color": colour, "lw": 0.8, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (s[top], height[top]), (s[top], chord[top]), arrowprops=arrow)


def _name(result: Result) -> str:
    record = result.record
    ends = [method(str((record.get(k) or {}).get("optimizer") or "")) for k in ("run", "b_run")]
    seeds = [(record.get(k) or {}).get("seed") for k in ("run", "b_run")]
    files = [Path(str(record.get(k) or k.upper())).stem for k in ("a", "b")]
    shown = [f"{e} {s}" if e else f for e, s, f in zip(ends, seeds, files, strict=True)]
    treatment = f", BatchNorm: {record.get('bn_policy')}" if record.get("batchnorm_layers") else ""
    aligned = ", aligned" if record.get("aligned") else ""
    return f"{shown[0]} → {shown[1]}, {record.get('kind')}{aligned}{treatment}"


def _distinct(names: Sequence[str]) -> list[str]:
    """The same names, numbered where they are equal."""
    return [n if names.count(n) == 1 else f"{n} ({names[: i + 1].count(n)})" for i, n in enumerate(names)]
