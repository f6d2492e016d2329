"""A panel per optimizer with a line per domain: solid where it was trained on, dashed where it was held out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...results.result import Result
from ..draw.drawing import Row
from ..draw.method_styles import name
from ..draw.scales import loss_scale
from ..draw.series import Groups, middle_and_band, points, stack
from ..draw.style import Style, hide_unused
from ..draw.text import safe


@dataclass(frozen=True)
class Lines:
    """The lines of one result.

    Attributes:
        steps: Training steps, ``(n,)``.
        values: A line per domain, ``(n,)``.
        seen: Which domains were trained on.
    """

    steps: Any
    values: Mapping[str, Any]
    seen: Mapping[str, bool]


def domain_panels(
    part: Any,
    groups: Groups,
    shape: tuple[int, int],
    style: Style,
    table: list[Row],
    *,
    lines_of: Callable[[Result], Lines],
    quantity: str,
    title: str,
    losses: bool = True,
) -> int:
    """Draw the panels into ``part`` and add their points to ``table``.

    Args:
        part: A figure or subfigure.
        groups: Results by label, each of which has lines.
        shape: Rows and columns of panels.
        style: The style.
        table: Rows of plotted numbers.
        lines_of: Reads the lines of a result.
        quantity: Name of what is plotted, in ``table``.
        title: The same for the vertical axis.
        losses: Scale the axis for losses; False leaves it linear.

    Returns:
        How many values are not finite and left out.
    """
    import matplotlib

    panels = part.subplots(*shape, sharex=True, sharey=True, squeeze=False).ravel()
    every = {label: [lines_of(r) for r in members] for label, members in groups.items()}
    domains = list(dict.fromkeys(d for members in every.values() for lines in members for d in lines.values))
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(domains)))
    lost, handles, shown = 0, dict[tuple[str, bool], Any](), []
    for axes, (label, members) in zip(panels, every.items(), strict=False):
        for domain, colour in zip(domains, colours, strict=True):
            for seen in (True, False):
                fit = [one for one in members if domain in one.values and one.seen[domain] == seen]
                if not fit:
                    continue
                x, values, missing = stack([(one.steps, one.values[domain]) for one in fit])
                middle, low, high = middle_and_band(values, "mean")
                lost += missing
                (handles[domain, seen],) = axes.plot(x, middle, color=colour, ls="-" if seen else "--", lw=0.9)
                axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
                fixed: Row = {"quantity": quantity, "label": label, "domain": domain, "seen": seen}
                fixed["seeds"] = len(fit)
                table += points(fixed, step=x, mean=middle, lowest_seed=low, highest_seed=high)
                shown.append(values[np.isfinite(values)])
        axes.set_title(safe(name(label), style.letters(0.62 * style.width / shape[1])))
    extra = loss_scale(panels[0], np.concatenate([*shown, []])) if losses else ""
    hide_unused(panels, len(groups), shape[1])
    part.supxlabel("step", fontsize=style.text)
    part.supylabel(f"{title}{extra}", fontsize=style.text)
    texts = [safe(domain, 14) + ("" if seen else " (unseen)") for domain, seen in handles]
    style.legend_beside(part, list(handles.values()), texts, "domain", most=7 * shape[0])
    return lost
