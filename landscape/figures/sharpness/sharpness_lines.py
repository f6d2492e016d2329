"""m-sharpness along one of its two parameters, a panel for each value of the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...results.result import Result
from ..draw.bands import draw_band
from ..draw.drawing import Drawing, Row
from ..draw.method_styles import LOOKS, looks
from ..draw.scales import loss_scale
from ..draw.series import Groups, by_label, lost_note, seeded, stack
from ..draw.style import HIGHEST, Style, hide_unused
from ..draw.text import safe
from ..draw.ticks import at, logarithmic, number_text

_SIGNS = {"m": "m", "rho": "ρ"}
_WORDS = {"m": "m (examples per block)", "rho": "ρ"}


def sharpness_lines(results: Sequence[Result], style: Style, *, over: str) -> Drawing:
    """Draw a line per optimizer over ``m`` or ``rho``."""
    groups, notes = by_label(results)
    other = "rho" if over == "m" else "m"
    places = sorted({float(v) for members in groups.values() for r in members for v in r.data[other].values})
    across = style.across(len(places), 15)
    rows = style.rows(-(-len(places) // across), 14 * style.em, 6 * style.em)
    left_out = places[rows * across :]
    places = places[: rows * across]
    each = max(style.width / (1.75 if across == 1 else 1.35 * across), 13 * style.em)
    figure = style.figure(rows * min(each, (HIGHEST - 6 * style.em) / rows) + 0.25)
    panels = figure.subplots(rows, across, sharex=True, sharey=True, squeeze=False).ravel()
    table: list[Row] = []
    lost, handles, shown, ticks = 0, dict[str, Any](), [], set[float]()
    for axes, place in zip(panels, places, strict=False):
        for label, look in looks(groups).items():
            fit = [r for r in groups[label] if place in r.data[other].values]
            if not fit:
                continue
            lines = [_line(r, over, other, place, "value") for r in fit]
            fixed: Row = {"label": label, other: place, "seeds": len(fit)}
            band = draw_band(axes, lines, look, style, fixed, over=over)
            handles[label] = band.handle
            table += _with_errors(band.rows, fit, over, other, place)
            if len(fit) == 1:
                middle, errors = ([row[k] for row in band.rows] for k in ("mean", "stderr_over_blocks"))
                whiskers = {"ecolor": look.colour, "elinewidth": 0.7, "capsize": 2}
                axes.errorbar(band.x, middle, np.nan_to_num(errors), fmt="none", **whiskers)
            lost += band.lost
            shown.append(band.finite)
            ticks |= set(band.x.tolist())
        title = f"{_SIGNS[other]} = {number_text(place)}"
        axes.set_title(title + (_ball(groups) if other == "rho" else ""))
    if over == "m":
        panels[0].set_xscale("log", base=2)
        at(panels[0].xaxis, ticks)
    else:
        panels[0].set_xscale("log")
        logarithmic(panels[0].xaxis)
    if len(ticks) == 1:  # matplotlib would show decades around the only value
        panels[0].set_xlim(0.5 * min(ticks), 2 * max(ticks))
    extra = loss_scale(panels[0], np.concatenate([*shown, []]))
    for axes in panels[max(0, len(places) - across) : len(places)]:  # the lowest of each column
        axes.set_xlabel(_WORDS[over] + (_ball(groups) if over == "rho" else ""))
    for axes in panels[::across]:
        axes.set_ylabel(f"m-sharpness{extra}")
    hide_unused(panels, len(places), across)
    style.legend(figure, list(handles.values()), seeded(groups, handles))
    notes.append(
        "several seeds: mean, band from lowest to highest seed; one seed: whiskers are the standard error over blocks"
    )
    if left_out:
        notes.append(f"not drawn, for there is no room: {_SIGNS[other]} = {', '.join(map(number_text, left_out))}")
    caption = (
        f"m-sharpness over {_WORDS[over]}, a panel per {_SIGNS[other]}. A line is the mean over seeds, a band "
        "reaches from the lowest to the highest seed; of a single seed, whiskers are the standard error over blocks. "
        f"{LOOKS}"
    )
    return Drawing(figure, table, (*notes, *lost_note(lost)), caption=caption)


def _line(result: Result, over: str, other: str, place: float, quantity: str) -> tuple[object, object]:
    return result.data[over].values, result.data[quantity].sel({other: place}).transpose(over).values


def _with_errors(rows: list[Row], fit: Sequence[Result], over: str, other: str, place: float) -> list[Row]:
    """The rows with the standard error over blocks, where there is one seed."""
    errors = [float("nan")] * len(rows)
    if len(fit) == 1:
        errors = stack([_line(fit[0], over, other, place, "stderr")])[1][0].tolist()
    for row, error in zip(rows, errors, strict=True):
        row["stderr_over_blocks"] = error
    return rows


def _ball(groups: Groups) -> str:
    """The norm of the ball, where it is not the plain Euclidean one."""
    specs = [r.record.get("spec") or {} for v in groups.values() for r in v]
    balls = sorted({(str(s.get("p", "2")), bool(s.get("adaptive"))) for s in specs})
    if balls == [("2", False)]:
        return ""
    return ", " + " or ".join(f"p = {safe(p)}{', adaptive' if adaptive else ''}" for p, adaptive in balls)
