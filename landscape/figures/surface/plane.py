"""Planes through checkpoints: trajectories of trainings, or three minima, over the loss below them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...base.arrays import Floats
from ...results.result import Result
from ..draw.axis_labels import axis_text
from ..draw.drawing import Drawing, Row, Want, styled
from ..draw.method_styles import looks, name
from ..draw.panels import evaluated_cells, lost_cells, printed
from ..draw.scales import common_range, log_losses
from ..draw.series import lost_note
from ..draw.style import Style
from ..draw.text import safe
from ..draw.words import method
from ..planes.filled import CAPTION, Heights, colour_bar, cross, fill_panel, label_lines

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes


WANTS = Want(
    "plane", "compute it with `landscape surface RUN... --direction pca:1 pca:2`", "loss", frozenset({"x", "y"})
)
_MARKERS = 10
_CAPTION = (
    "Checkpoints projected onto a plane over the loss in that plane. Lines are trainings, from the hollow circle to "
    "the star, in the colour, dash and marker of the legend; single markers are single checkpoints. The larger a "
    "marker on the way, the larger the share of the checkpoint's distance from the cross that lies off the plane, "
    f"where its own loss is not that of the contour below it. {CAPTION}"
)


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw the loss in a plane and the checkpoints projected onto it.

    What to read: lines are trainings, from the hollow marker to the star. The larger a marker on the way, the
    larger the share of the checkpoint's distance from the cross that lies off the plane: its own loss is not that
    of the contour below it (both stand in the CSV). A share of the squared distances near 1 alone proves little:
    random walks have that, too (arXiv 1806.08805).
    """
    result, *others = largest_first(results)
    figure, axes, height, lines = ground(result, style)
    handles = _checkpoints(axes, result, style)
    if handles:
        style.legend(figure, list(handles.values()), list(handles))
    _mean_of_three(axes, result)
    off = f"{100 * shares(result.data).max():.0f} %"
    notes = [f"the cross is {safe(_origin(result), 60)}; checkpoints lie up to {off} off the plane"]
    if through_three(result):
        notes.append("the white circle is the mean of the three checkpoints")
    if others:
        notes.append(f"{len(others)} further plane(s) are not drawn")
    every = (*notes, *lost_note(lost_cells(height, result.data)))
    return Drawing(
        figure, _rows(result, height), every, caption=_CAPTION, finish=lambda: label_lines(axes, lines, style)
    )


def largest_first(results: Sequence[Result]) -> list[Result]:
    """The plane with most checkpoints first; then any fixed order."""
    return sorted(results, key=_rank, reverse=True)


def ground(result: Result, style: Style) -> tuple[Any, Any, Any, Any]:
    """A figure with the loss in the plane, its axes, the plotted height ``(y, x)``, and the contour lines."""
    data = result.data
    (height,), scale = log_losses([data["loss"].transpose("y", "x").values])
    figure = style.figure(0.72 * style.width)
    axes = figure.subplots()
    heights = Heights.between(*common_range([height]))
    x, y = data["x"].values, data["y"].values
    filled, lines = fill_panel(axes, x, y, height, heights, style, evaluated_cells(data))
    if filled is not None:
        colour_bar(figure, filled, [axes], printed(scale))
    cross(axes, 7)
    axes.set_xlabel(axis_text("x", result, 0))
    axes.set_ylabel(axis_text("y", result, 1))
    return figure, axes, height, lines


def through_three(result: Result) -> bool:
    """Whether the plane was laid through the target and the first two checkpoints."""
    return result.record.get("plane") == "through three checkpoints" and result.data.sizes["checkpoint"] >= 2


def _mean_of_three(axes: Axes, result: Result) -> None:
    """Mark the mean of the three weights that span the plane, which lies in it (arXiv 1803.05407)."""
    if through_three(result):
        x, y = (float(result.data[f"checkpoint_{k}"].values[:2].sum()) / 3 for k in "xy")
        axes.plot(x, y, "o", color="white", mec="black", mew=0.7, ms=5, zorder=5)


def _rank(result: Result) -> tuple[object, ...]:
    return result.data.sizes["checkpoint"], str(result.record.get("target")), str(result.path)


def shares(data: xr.Dataset) -> Any:
    """Which part of each checkpoint's distance from the origin lies off the plane."""
    off, far = data["off_plane"].values, data["from_origin"].values
    return np.divide(off, far, out=np.zeros_like(off), where=far > 0)


def _checkpoints(axes: Any, result: Result, style: Style) -> dict[str, object]:
    """Draw every run; a handle per optimizer."""
    from matplotlib.lines import Line2D

    data, facts = result.data, result.record["checkpoints"]
    at = np.stack([data["checkpoint_x"].values, data["checkpoint_y"].values], 1)
    away, runs = shares(data), data["run"].values
    labels = [str(f.get("label")) for f in facts]
    styles = looks(labels)
    handles: dict[str, Any] = {}
    for run in dict.fromkeys(runs.tolist()):
        mine = np.flatnonzero(runs == run)
        look = styles[labels[mine[0]]]
        sizes = ((0.35 + 0.45 * away[mine]) * style.text) ** 2
        if len(mine) > 1:
            between = mine[1:-1][:: max(1, len(mine) // _MARKERS)]
            axes.plot(*at[mine].T, color="white", lw=2.2, zorder=3)
            axes.plot(*at[mine].T, color=look.colour, lw=1.2, ls=look.dash, zorder=3)
            own = sizes[1:-1][:: max(1, len(mine) // _MARKERS)]
            axes.scatter(*at[between].T, s=own, marker=look.marker, color=look.colour, lw=0, zorder=4)
            axes.scatter(*at[mine[0]], s=sizes[0], marker="o", fc="white", ec=look.colour, zorder=4)
        end = "*" if len(mine) > 1 else look.marker
        size = style.text**2
        last: Any = axes.scatter(*at[mine[-1]], s=size, marker=end, color=look.colour, ec="white", lw=0.6, zorder=5)
        count = len({r for r, label in zip(runs.tolist(), labels, strict=True) if label == labels[mine[0]]})
        if len(mine) > 1:  # the marker on the way, which tells methods apart without colour
            last = Line2D([], [], color=look.colour, ls=look.dash, lw=1.2, marker=look.marker)
        handles.setdefault(safe(method(labels[mine[0]])) + (f" ({count} runs)" if count > 1 else ""), last)
    return handles


def _origin(result: Result) -> str:
    run = result.record.get("run") or {}
    return f"{name(run['optimizer'])}, seed {run['seed']}, step {run['step']}" if run else result.label


def _rows(result: Result, height: Floats) -> list[Row]:
    data = result.data
    rows: list[Row] = []
    for j, y in enumerate(data["y"].values):
        for i, x in enumerate(data["x"].values):
            loss = float(data["loss"].transpose("y", "x").values[j, i])
            place = {"x": float(x), "y": float(y)}
            rows.append(
                {"label": result.label, "what": "plane", **place, "loss": loss, "plotted_height": float(height[j, i])}
            )
    for i, facts in enumerate(result.record["checkpoints"]):
        run = facts.get("run") or {}
        place = {"x": float(data["checkpoint_x"][i]), "y": float(data["checkpoint_y"][i])}
        numbers = {k: float(data[k][i]) for k in ("off_plane", "from_origin", "checkpoint_loss", "plane_loss")}
        who = {"seed": run.get("seed"), "step": facts.get("step")}
        rows.append(
            {
                "label": str(facts.get("label")),
                "what": "checkpoint",
                **place,
                "loss": numbers["checkpoint_loss"],
                **numbers,
                **who,
            }
        )
    return rows
