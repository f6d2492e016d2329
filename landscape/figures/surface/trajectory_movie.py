"""Trajectories growing checkpoint by checkpoint over the loss in their plane (GIF, HTML)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...results.result import Result
from ..draw.axis_labels import axis_text
from ..draw.drawing import Drawing, Movie, Row, Want, styled
from ..draw.method_styles import LOOKS, looks
from ..draw.style import Style
from ..draw.text import safe
from ..draw.words import method
from ..planes.filled import CAPTION
from ..planes.movies import animated
from .plane import ground, largest_first, shares


class _Trajectories(Want):
    def fits(self, result: Result) -> bool:
        return super().fits(result) and result.data.sizes["checkpoint"] > len(set(result.data["run"].values.tolist()))


WANTS = _Trajectories(
    "plane", "compute it with `landscape surface RUN... --direction pca:1 pca:2`", "loss", frozenset({"x", "y"})
)


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw how trainings move through the plane of their principal components; the still picture is the end.

    What to read: who turns early and who late, and whether paths that start together stay together. A frame is a
    checkpoint, so equal frames need not be equal steps (the CSV holds them). The head of a line grows with the share
    of its distance from the cross that lies off the plane, where its own loss is not that of the contour below it.
    """
    result, *others = largest_first(results)
    figure, axes, height, _ = ground(result, style)
    lines = _lines(result)
    styles = looks(line["label"] for line in lines)
    drawn = []
    for line in lines:
        look = styles[line["label"]]
        (halo,) = axes.plot([], [], color="white", lw=2.2, zorder=3)
        (path,) = axes.plot([], [], color=look.colour, lw=1.2, ls=look.dash, zorder=3)
        head = axes.scatter([], [], marker=look.marker, color=look.colour, ec="white", lw=0.6, zorder=5)
        drawn.append((line, halo, path, head))

    def show(frame: int) -> None:
        for line, halo, path, head in drawn:
            last = min(frame, len(line["at"]) - 1)
            for artist in (halo, path):
                artist.set_data(*line["at"][: last + 1].T)
            head.set_offsets(line["at"][last : last + 1])
            head.set_sizes([((0.6 + 0.5 * line["share"][last]) * style.text) ** 2])

    frames = max(len(line["at"]) for line in lines)
    show(frames - 1)
    handles = {safe(method(line["label"])): path for line, _, path, _ in drawn}
    style.legend(figure, list(handles.values()), list(handles))
    notes = [f"{frames} checkpoints of each run; off-plane shares up to {100 * shares(result.data).max():.0f} %"]
    if others:
        notes.append(f"{len(others)} further plane(s) are not drawn")
    page = _page(result, height, lines, styles, frames)
    caption = (
        "Trainings in the plane of their principal components over the loss in that plane, checkpoint by checkpoint; "
        "shown is the last. The head of a line grows with the share of its distance from the cross that lies off the "
        f"plane. {LOOKS} {CAPTION}"
    )
    return Drawing(figure, _rows(lines), tuple(notes), page, Movie(frames, show), caption=caption)


def _lines(result: Result) -> list[dict[str, Any]]:
    """A line per run: its label, coordinates ``(n, 2)``, steps, losses, off-plane shares."""
    data, facts = result.data, result.record["checkpoints"]
    at = np.stack([data["checkpoint_x"].values, data["checkpoint_y"].values], 1)
    share, runs = shares(data), data["run"].values
    found = []
    for run in dict.fromkeys(runs.tolist()):
        mine = np.flatnonzero(runs == run)
        first = facts[mine[0]]
        found.append(
            {
                "label": str(first.get("label")),
                "seed": (first.get("run") or {}).get("seed"),
                "at": at[mine],
                "share": share[mine],
                "step": [facts[i].get("step") for i in mine],
                "loss": data["checkpoint_loss"].values[mine],
            }
        )
    return found


def _rows(lines: Sequence[dict[str, Any]]) -> list[Row]:
    return [
        {
            "label": line["label"],
            "seed": line["seed"],
            "frame": i,
            "step": line["step"][i],
            "x": float(x),
            "y": float(y),
            "off_plane_share": float(line["share"][i]),
            "loss": float(line["loss"][i]),
        }
        for line in lines
        for i, (x, y) in enumerate(line["at"])
    ]


def _page(result: Result, height: object, lines: Sequence[Any], styles: Any, frames: int) -> object:
    from html import escape

    import plotly.graph_objects as go

    def paths(frame: int) -> list[Any]:
        found: list[Any] = []
        for line in lines:
            last = min(frame, len(line["at"]) - 1)
            x, y = line["at"][: last + 1].T
            words = [f"step {s}, loss {v:.4g}" for s, v in zip(line["step"], line["loss"], strict=True)]
            found.append(
                go.Scatter(
                    x=x,
                    y=y,
                    mode="lines+markers",
                    name=escape(method(line["label"])),
                    legendgroup=line["label"],
                    showlegend=all(line["label"] != other.legendgroup for other in found),
                    text=words[: last + 1],
                    hoverinfo="text+name",
                    line={"color": styles[line["label"]].colour, "width": 3},
                )
            )
        return found

    x, y = result.data["x"].values, result.data["y"].values
    field = go.Contour(x=x, y=y, z=height, colorscale="Viridis", colorbar={"title": {"text": "log₁₀ loss"}})
    figure = go.Figure([field, *paths(frames - 1)])
    figure.update_xaxes(title=escape(axis_text("x", result, 0)), constrain="domain")
    figure.update_yaxes(title=escape(axis_text("y", result, 1)), scaleanchor="x", constrain="domain")
    every = [(f"{i}", paths(i), list(range(1, 1 + len(lines)))) for i in range(frames)]
    return animated(figure, every, "checkpoint ")
