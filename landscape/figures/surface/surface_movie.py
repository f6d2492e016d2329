"""The loss around a network while it is trained, checkpoint by checkpoint (GIF, HTML)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...results.result import Result
from ..draw.axis_labels import direction_notes, shared_axis_text
from ..draw.comparable import alike
from ..draw.drawing import Drawing, Movie, Row, styled
from ..draw.method_styles import ordered
from ..draw.panels import Planes, evaluated_cells, lost_cells, printed
from ..draw.scales import common_range, log_losses
from ..draw.series import lost_note
from ..draw.style import Style, hide_unused
from ..draw.text import safe
from ..draw.words import method
from ..planes.filled import CAPTION, Heights, colour_bar, cross, fill_panel
from ..planes.movies import animated


class _Frames(Planes):
    def of(self, results: Sequence[Result], figure: str) -> list[Result]:
        fit = super().of(results, figure)
        groups: dict[tuple[Any, ...], list[Result]] = {}
        for r in fit:
            groups.setdefault(alike(r), []).append(r)
        moving = {id(r) for group in groups.values() for members in _courses(group).values() for r in members}
        return [r for r in fit if id(r) in moving] or super().of([], figure)


WANTS = _Frames("surface", "compute it with `landscape surface RUN --checkpoints all`", "loss", frozenset({"x", "y"}))


@styled
def draw(results: Sequence[Result], style: Style) -> Drawing:
    """Draw the loss in a plane through the network at every checkpoint of a run, a panel per optimizer.

    What to read: how the valley around the network forms, deepens and narrows. All frames and panels have one colour
    scale. Directions are the same random ones at all times, scaled to the network of that time; one seed per
    optimizer is shown. The still picture is the last checkpoint.
    """
    courses = _courses(results)
    flat = [r for members in courses.values() for r in members]
    heights, scale = log_losses([r.data["loss"].transpose("y", "x").values for r in flat])
    height_of = {id(r): h for r, h in zip(flat, heights, strict=True)}
    common = Heights.between(*common_range(heights))
    titles = [f"{safe(method(label))} step" for label in courses]
    across = style.across(len(courses), 10, titles)
    rows = -(-len(courses) // across)
    figure = style.figure(rows * style.width / across + 4 * style.em)
    panels = figure.subplots(rows, across, sharex=True, sharey=True, squeeze=False).ravel()
    frames = max(map(len, courses.values()))

    def show(frame: int) -> Any:
        filled = None
        for axes, (label, members) in zip(panels, courses.items(), strict=False):
            for old in (*axes.collections, *axes.lines):
                old.remove()
            at = members[min(frame, len(members) - 1)]
            x, y = at.data["x"].values, at.data["y"].values
            height = height_of[id(at)]
            filled = fill_panel(axes, x, y, height, common, style, evaluated_cells(at.data))[0] or filled
            cross(axes)
            axes.set_title(f"{safe(method(label))}\nstep {_step(at)}")
        return filled

    filled = show(frames - 1)
    hide_unused(panels, len(courses), across)
    if filled is not None:
        colour_bar(figure, filled, list(panels), printed(scale))
    figure.supxlabel(shared_axis_text("α", flat, 0), fontsize=style.small)
    figure.supylabel(shared_axis_text("β", flat, 1), fontsize=style.small)
    missing = sum(lost_cells(h, r.data) for h, r in zip(heights, flat, strict=True))
    notes = [f"{frames} checkpoints", *direction_notes(flat), *lost_note(missing)]
    page = _page(courses, height_of, (common.low, common.high), frames, scale)
    caption = (
        "Loss in a plane through each network (the cross) while it is trained; shown is the last checkpoint. All "
        f"checkpoints and panels share one scale. {CAPTION}"
    )
    rows_of = _rows(courses, height_of)
    movie = Movie(frames, lambda i: (show(i), None)[1])
    return Drawing(figure, rows_of, tuple(notes), page, movie, caption=caption)


def _courses(results: Sequence[Result]) -> dict[str, list[Result]]:
    """By optimizer the surfaces of its lowest seed in order of steps, where there are two or more."""
    runs: dict[str, dict[Any, dict[int, Result]]] = {}
    for r in results:
        if r.seed is not None:
            runs.setdefault(r.label, {}).setdefault(r.seed, {}).setdefault(_step(r), r)
    found = {}
    for label in ordered(runs):
        long = {seed: steps for seed, steps in runs[label].items() if len(steps) > 1}
        if long:
            steps = long[min(long)]
            found[label] = [steps[s] for s in sorted(steps)]
    return found


def _step(result: Result) -> int:
    return int((result.record.get("run") or {}).get("step") or 0)


def _rows(courses: dict[str, list[Result]], height_of: dict[int, Any]) -> list[Row]:
    rows: list[Row] = []
    for label, members in courses.items():
        for r in members:
            fixed: Row = {"label": label, "seed": r.seed, "step": _step(r)}
            loss, height = r.data["loss"].transpose("y", "x").values, height_of[id(r)]
            for j, y in enumerate(r.data["y"].values):
                for i, x in enumerate(r.data["x"].values):
                    place: Row = {"x": float(x), "y": float(y), "loss": float(loss[j, i])}
                    rows.append(fixed | place | {"plotted_height": float(height[j, i])})
    return rows


def _page(
    courses: dict[str, list[Result]], height_of: Any, limits: tuple[float, float], frames: int, words: str
) -> Any:
    from html import escape

    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    grid = [[{"type": "scene"}] * len(courses)]
    titles = [escape(method(label)) for label in courses]
    figure = make_subplots(1, len(courses), specs=grid, subplot_titles=titles, horizontal_spacing=0.02)

    def bodies(frame: int) -> list[object]:
        found = []
        for k, members in enumerate(courses.values()):
            r = members[min(frame, len(members) - 1)]
            colours = {"cmin": limits[0], "cmax": limits[1], "colorscale": "Viridis", "showscale": k == 0}
            colours["colorbar"] = {"title": {"text": words, "side": "top"}, "thickness": 14, "len": 0.7}
            place = {"x": r.data["x"].values, "y": r.data["y"].values, "z": height_of[id(r)]}
            found.append(go.Surface(**place, **colours, scene="scene" if k == 0 else f"scene{k + 1}"))
        return found

    for k, body in enumerate(bodies(frames - 1)):
        figure.add_trace(body, row=1, col=k + 1)
    camera = {"eye": {"x": 1.55, "y": -1.55, "z": 1.0}, "center": {"x": 0, "y": 0, "z": -0.15}}
    axes = {
        "camera": camera,
        "xaxis": {"title": {"text": "α"}},
        "yaxis": {"title": {"text": "β"}},
        "aspectmode": "cube",
    }
    figure.update_scenes(zaxis={"title": {"text": words}, "range": limits}, **axes)
    longest = max(courses.values(), key=len)
    named = [(f"{_step(longest[i])}", bodies(i), list(range(len(courses)))) for i in range(frames)]
    return animated(figure, named, "step ")
