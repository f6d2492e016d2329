"""Surfaces to turn in a browser."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from ..draw.axis_labels import axis_text
from ..draw.panels import Panel, Panels
from ..draw.scales import common_range

# Of everything that plotly shows here: nothing is sent anywhere, and no button offers it.
CONFIG = {"displaylogo": False, "responsive": True, "showSendToCloud": False}
_CAMERA = {"eye": {"x": 1.5, "y": -1.5, "z": 0.95}, "center": {"x": 0, "y": 0, "z": -0.12}}
_BESIDE = {"thickness": 14, "len": 0.7}


@dataclass(frozen=True)
class Camera:
    """What the height shows.

    Attributes:
        name: Of the button that switches to it.
        text: Title of the vertical axis.
        range: Of height and colour, the same for all panels.
    """

    name: str
    text: str
    range: tuple[float, float]


def together(shown: Panels) -> Any:
    """All panels in one plotly figure, with buttons for the views."""
    from plotly.subplots import make_subplots

    views = _views(shown)
    across = 1 if len(shown.panels) == 1 else 2
    rows = -(-len(shown.panels) // across)
    grid = [[{"type": "scene"}] * across for _ in range(rows)]
    titles = [f"{escape(panel.title)}<br><sub>{escape(axes_text(panel))}</sub>" for panel in shown.panels]
    figure = make_subplots(rows, across, specs=grid, subplot_titles=titles, horizontal_spacing=0.02)
    scenes = ["scene" if i == 0 else f"scene{i + 1}" for i in range(len(shown.panels))]
    for i, panel in enumerate(shown.panels):
        for view in views:
            trace = _surface(panel, view, view is views[0], _BESIDE if i == 0 else None)
            figure.add_trace(trace, row=i // across + 1, col=i % across + 1)
        figure.update_layout({scenes[i]: _scene(views[0])})
    buttons = []
    for view in views:
        visible = [v is view for _ in shown.panels for v in views]
        vertical = {"title.text": view.text, "range": view.range}
        change = {f"{scene}.zaxis.{k}": v for scene in scenes for k, v in vertical.items()}
        buttons.append({"label": view.name, "method": "update", "args": [{"visible": visible}, change]})
    place = {"x": 0, "y": 1.0, "xanchor": "left", "yanchor": "bottom", "pad": {"b": 55}}
    figure.update_layout(
        updatemenus=[{"type": "buttons", "direction": "right", "buttons": buttons, **place}],
        height=150 + 480 * rows,
        template="none",
        margin={"l": 10, "r": 10, "t": 130, "b": 10},
    )
    return figure


def axes_text(panel: Panel) -> str:
    """What both horizontal axes are."""
    return ", ".join(axis_text(symbol, panel.result, axis) for axis, symbol in enumerate("αβ"))


def _views(shown: Panels) -> list[Camera]:
    """Logarithm of the loss, the loss itself, accuracy where there is any."""
    views = [Camera("log loss", shown.scale, (shown.low, shown.high))]
    for field in ("loss", "accuracy"):
        if all(field in panel.result.data for panel in shown.panels):
            views.append(Camera(field, field, common_range([_height(panel, field) for panel in shown.panels])))
    return views


def _height(panel: Panel, view: str) -> object:
    if view == "log loss":
        return panel.height
    plane = panel.planes[view]
    return np.where(np.isfinite(plane), plane, np.nan)


def _surface(panel: Panel, view: Camera, visible: bool, bar: dict[str, Any] | None) -> object:
    import plotly.graph_objects as go

    low, high = view.range
    cells = "".join(f"<br>{escape(k)} %{{customdata[{i}]:.5g}}" for i, k in enumerate(panel.planes))
    return go.Surface(
        x=panel.x,
        y=panel.y,
        z=_height(panel, view.name),
        cmin=low,
        cmax=high,
        colorscale="Viridis",
        visible=visible,
        showscale=bar is not None,
        colorbar={"title": {"text": view.text, "side": "top"}, **(bar or {})},
        customdata=np.stack(list(panel.planes.values()), axis=-1),
        hovertemplate=f"α %{{x:.3g}}, β %{{y:.3g}}{cells}<extra></extra>",
        contours_z={
            "show": True,
            "color": "#1a1a1a",
            "width": 1,
            "start": low,
            "end": high,
            "size": (high - low) / 12,
        },
    )


def _scene(view: Camera) -> dict[str, object]:
    return {
        "xaxis": {"title": {"text": "α", "font": {"size": 12}}},
        "yaxis": {"title": {"text": "β", "font": {"size": 12}}},
        "zaxis": {"title": {"text": view.text, "font": {"size": 12}}, "range": view.range},
        "aspectmode": "cube",
        "camera": _CAMERA,
    }
