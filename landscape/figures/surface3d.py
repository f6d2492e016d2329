"""3-D surfaces: to turn in a browser, or still for paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import UsageError
from ..result import Result
from .axes import axis_text, direction_notes, shared_axis_text
from .contour import panel_title
from .drawing import Drawing, styled
from .panels import PLANE, Panel, Panels
from .scales import common_range
from .style import Style

WANTS = PLANE
CAMERA = {"eye": {"x": 1.45, "y": -1.45, "z": 0.95}}


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw surfaces over a random plane, one colour range and one height range for all.

    What to read: as in the contour figure, in perspective, which makes shapes plain and distances hard to
    judge: read numbers off the contours, the CSV, or in HTML by pointing at a cell. Holes are cells whose loss
    is not finite.
    """
    from matplotlib.colors import Normalize

    shown = Panels.of(results)
    if any(min(p.height.shape) < 2 for p in shown.panels):
        raise UsageError("a surface needs at least 2 x 2 points", "", "compute a finer surface")
    across = style.across(len(shown.panels), 12.8 if len(shown.panels) > 1 else 1)
    rows = -(-len(shown.panels) // across)
    side = style.width / across
    figure = style.figure(rows * min(0.86 * side + style.em, 27 * style.em) + 2 * style.em)
    norm = Normalize(shown.low, shown.high)
    fill: Any = None
    panels = []
    for i, panel in enumerate(shown.panels):
        axes: Any = figure.add_subplot(rows, across, i + 1, projection="3d")
        panels.append(axes)
        x, y = np.meshgrid(panel.x, panel.y)
        if np.isfinite(panel.height).any():
            body = {"norm": norm, "cmap": "viridis", "rasterized": True, "lw": 0.1, "edgecolor": "#1a1a1a"}
            fill = axes.plot_surface(x, y, panel.height, rcount=61, ccount=61, **body)
        axes.set(xlabel="α", ylabel="β", zlim=(shown.low, shown.high))
        axes.set_title(panel_title(panel, style, side), pad=0)
        axes.tick_params(pad=-3, labelsize=0.85 * style.small)
        axes.xaxis.labelpad = axes.yaxis.labelpad = style.text - 17
        axes.locator_params(nbins=4)
        axes.view_init(elev=28, azim=-52)
    if fill is not None:
        figure.colorbar(fill, ax=panels, label=shown.printed_scale, shrink=0.7, fraction=0.04, pad=0.05)
    every = [p.result for p in shown.panels]
    figure.supxlabel(_plane(every), fontsize=style.small)
    notes = (*shown.notes, *direction_notes(every))
    return Drawing(figure, shown.rows(), notes, _together(shown))


def _plane(results: Sequence[Result]) -> str:
    return f"{shared_axis_text('α', results, 0)}; {shared_axis_text('β', results, 1)}"


def figures(results: Sequence[Result]) -> list[tuple[str, Any]]:
    """A plotly figure per panel, ready to be turned, with its title; all on one range.

    Each figure holds a surface per view, the first visible. ``layout.meta["views"]`` lists their names, the
    text and the range of the vertical axis, for buttons that switch between them.
    """
    import plotly.graph_objects as go

    shown = Panels.of(results)
    views = _views(shown)
    made = []
    for i, panel in enumerate(shown.panels):
        figure = go.Figure([_surface(panel, view, i, visible=view is views[0]) for view in views])
        figure.update_layout(
            scene=_scene(panel, views[0]),
            meta={"views": [{k: view[k] for k in ("name", "text", "range")} for view in views]},
            margin={"l": 0, "r": 0, "t": 0, "b": 0},
            paper_bgcolor="rgba(0,0,0,0)",
            template="none",
            font={"family": "system-ui, sans-serif"},
        )
        made.append((full_title(panel), figure))
    return made


def full_title(panel: Panel) -> str:
    """Name and seed in one line."""
    return ", ".join(part for part in (panel.name, panel.which) if part)


def _together(shown: Panels) -> Any:
    """All panels in one plotly figure, with buttons for the views."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    views = _views(shown)
    across = 1 if len(shown.panels) == 1 else 2
    rows = -(-len(shown.panels) // across)
    grid = [[{"type": "scene"} for _ in range(across)] for _ in range(rows)]
    titles = [_escaped(full_title(p)) for p in shown.panels]
    figure: Any = make_subplots(
        rows, across, specs=grid, subplot_titles=titles, horizontal_spacing=0.02, vertical_spacing=0.06
    )
    scenes = ["scene" if i == 0 else f"scene{i + 1}" for i in range(len(shown.panels))]
    for i, panel in enumerate(shown.panels):
        for view in views:
            trace = _surface(panel, view, i, visible=view is views[0], bar=i == 0)
            figure.add_trace(trace, row=i // across + 1, col=i % across + 1)
        figure.update_layout({scenes[i]: _scene(panel, views[0])})
    buttons = []
    for view in views:
        visible = [v is view for _ in shown.panels for v in views]
        change = {
            f"{s}.zaxis.{k}": v for s in scenes for k, v in (("title.text", view["text"]), ("range", view["range"]))
        }
        buttons.append({"label": view["name"], "method": "update", "args": [{"visible": visible}, change]})
    menu = {
        "type": "buttons",
        "direction": "right",
        "buttons": buttons,
        "x": 0,
        "y": 1.0,
        "xanchor": "left",
        "yanchor": "bottom",
    }
    figure.update_layout(
        go.Layout(
            updatemenus=[menu | {"pad": {"b": 28}}],
            height=120 + 480 * rows,
            template="none",
            margin={"l": 10, "r": 10, "t": 100, "b": 10},
        )
    )
    return figure


def _views(shown: Panels) -> list[dict[str, Any]]:
    """What can be switched between: logarithm of the loss, the loss itself, accuracy where there is any."""
    grids = {"log loss": ([p.height for p in shown.panels], shown.scale)}
    for title, field in (("loss", "loss"), ("accuracy", "accuracy")):
        if all(field in p.result.data for p in shown.panels):
            planes = [p.result.data[field].transpose("y", "x").values.astype(float) for p in shown.panels]
            grids[title] = ([np.where(np.isfinite(g), g, np.nan) for g in planes], field)
    return [
        {"name": title, "text": text, "grids": planes, "range": list(common_range(planes))}
        for title, (planes, text) in grids.items()
    ]


def _surface(panel: Panel, view: dict[str, Any], number: int, *, visible: bool, bar: bool = True) -> Any:
    import plotly.graph_objects as go

    data = panel.result.data
    planes = {str(k): data[k].transpose("y", "x").values for k in data if set(data[k].dims) == {"x", "y"}}
    hover = "".join(f"<br>{_escaped(k)} %{{customdata[{i}]:.5g}}" for i, k in enumerate(planes))
    low, high = view["range"]
    return go.Surface(
        x=panel.x,
        y=panel.y,
        z=view["grids"][number],
        cmin=low,
        cmax=high,
        colorscale="Viridis",
        visible=visible,
        showscale=bar,
        colorbar={"title": {"text": view["text"]}, "len": 0.7, "thickness": 12},
        customdata=np.stack(list(planes.values()), axis=-1).astype(float),
        hovertemplate=f"α %{{x:.3g}}, β %{{y:.3g}}{hover}<extra></extra>",
        contours={
            "z": {
                "show": True,
                "color": "#1a1a1a",
                "width": 1,
                "start": low,
                "end": high,
                "size": (high - low) / 12,
            }
        },
    )


def _scene(panel: Panel, view: dict[str, Any]) -> dict[str, Any]:
    return {
        "xaxis": {"title": {"text": _escaped(axis_text("α", panel.result, 0)), "font": {"size": 11}}},
        "yaxis": {"title": {"text": _escaped(axis_text("β", panel.result, 1)), "font": {"size": 11}}},
        "zaxis": {"title": {"text": view["text"], "font": {"size": 11}}, "range": view["range"]},
        "aspectmode": "cube",
        "camera": CAMERA,
    }


def _escaped(text: str) -> str:
    """Plotly reads a small HTML of its own in titles and hover texts."""
    from html import escape

    return escape(text, quote=False)
