"""Figures that move: as GIF from matplotlib, as HTML with a slider from plotly."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from ..draw.drawing import Drawing
from ..draw.style import Style

_DPI = 110  # of a GIF, which is looked at on screens
_LAST = 4  # how many times longer the last picture stays


def gif(drawing: Drawing, style: Style) -> bytes:
    """All pictures of a figure that moves, for ever; the figure ends at its last."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    movie = drawing.movie
    assert movie is not None
    drawing.figure.set_dpi(_DPI)
    canvas: Any = FigureCanvasAgg(drawing.figure)
    pictures = []
    with style.applied():
        for frame in range(movie.frames):
            movie.show(frame)
            canvas.draw()
            pictures.append(Image.fromarray(np.array(canvas.buffer_rgba())[..., :3]))
    palette = pictures[-1].quantize(255, dither=Image.Dither.NONE)
    frames = [p.quantize(palette=palette, dither=Image.Dither.NONE) for p in pictures]
    long = int(1000 * movie.seconds)
    buffer = io.BytesIO()
    lengths = [long] * (len(frames) - 1) + [_LAST * long]
    frames[0].save(
        buffer, format="GIF", save_all=True, append_images=frames[1:], duration=lengths, loop=0, optimize=False
    )
    return buffer.getvalue()


def animated(figure: Any, frames: Sequence[tuple[str, list[Any], list[int]]], prefix: str) -> object:
    """Give a plotly figure frames with a slider and a button that plays them; it starts at the last.

    Args:
        figure: At its last frame.
        frames: Name, traces, and the places in the figure of the traces that they replace.
        prefix: Before the name, above the slider.
    """
    import plotly.graph_objects as go

    figure.frames = [go.Frame(name=name, data=data, traces=places) for name, data, places in frames]
    still = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    playing = {"fromcurrent": False, "frame": {"duration": 400, "redraw": True}, "transition": {"duration": 0}}
    steps = [{"label": name, "method": "animate", "args": [[name], still]} for name, _, _ in frames]
    buttons = [
        {"label": "Play", "method": "animate", "args": [None, playing]},
        {"label": "Pause", "method": "animate", "args": [[None], still]},
    ]
    slider = {"steps": steps, "active": len(steps) - 1, "x": 0.16, "len": 0.82, "y": 0, "yanchor": "top"}
    slider |= {"pad": {"t": 62, "b": 10}, "currentvalue": {"prefix": prefix, "xanchor": "left", "offset": 8}}
    beside = {"x": 0.0, "y": 0, "xanchor": "left", "yanchor": "top", "pad": {"t": 76, "r": 10}, "showactive": False}
    figure.update_layout(
        template="none",
        height=640,
        sliders=[slider],
        updatemenus=[{"type": "buttons", "buttons": buttons, "direction": "left", **beside}],
        margin={"l": 70, "r": 30, "t": 80, "b": 150, "autoexpand": True},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
    return figure
