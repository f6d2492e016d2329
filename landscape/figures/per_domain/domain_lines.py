"""A panel per optimizer with a line per domain: solid where it was trained on, dashed where it was held out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...results.result import Result
from ..draw.domain_styles import domain_looks
from ..draw.drawing import Row
from ..draw.scales import loss_scale
from ..draw.series import Groups, middle_and_band, points, stack
from ..draw.style import Style, hide_unused
from ..draw.text import safe
from ..draw.words import domain as domain_words
from ..draw.words import method


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


@dataclass(frozen=True)
class DomainPanels:
    """What was drawn.

    Attributes:
        handles: For a legend, by domain and whether it was trained on.
        lost: How many values are not finite and left out.
    """

    handles: dict[tuple[str, bool], Any]
    lost: int


def domain_names(groups: Groups, lines_of: Callable[[Result], Lines]) -> list[str]:
    """Every domain, in the order of the results."""
    every = [lines_of(r) for members in groups.values() for r in members]
    return list(dict.fromkeys(d for lines in every for d in lines.values))


def domain_legend(part: object, drawn: DomainPanels, style: Style) -> None:
    """One legend of all domains below a part of a figure."""
    style.legend(part, list(drawn.handles.values()), domain_texts(drawn.handles), below=True)


def domain_texts(every: Iterable[tuple[str, bool]]) -> list[str]:
    """The entries of the legend."""
    return [safe(domain_words(domain), 40) + ("" if seen else " (unseen)") for domain, seen in every]


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
) -> DomainPanels:
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
    """
    panels = part.subplots(*shape, sharex=True, sharey=True, squeeze=False).ravel()
    every = {label: [lines_of(r) for r in members] for label, members in groups.items()}
    looks = domain_looks(domain_names(groups, lines_of))
    lost, handles, shown = 0, dict[tuple[str, bool], Any](), []
    for axes, (label, members) in zip(panels, every.items(), strict=False):
        for domain, look in looks.items():
            for seen in (True, False):
                fit = [one for one in members if domain in one.values and one.seen[domain] == seen]
                if not fit:
                    continue
                x, values, missing = stack([(one.steps, one.values[domain]) for one in fit])
                middle, low, high = middle_and_band(values, "mean")
                lost += missing
                marks = {"marker": look.marker, "ms": 0.3 * style.text, "markevery": max(1, len(x) // 5)}
                dash = "-" if seen else "--"
                (handles[domain, seen],) = axes.plot(x, middle, color=look.colour, ls=dash, lw=0.9, **marks)
                axes.fill_between(x, low, high, color=look.colour, alpha=0.15, lw=0)
                fixed: Row = {"quantity": quantity, "label": label, "domain": domain, "seen": seen}
                fixed["seeds"] = len(fit)
                table += points(fixed, step=x, mean=middle, lowest_seed=low, highest_seed=high)
                shown.append(values[np.isfinite(values)])
        axes.set_title(safe(method(label)))
    extra = loss_scale(panels[0], np.concatenate([*shown, []])) if losses else ""
    hide_unused(panels, len(groups), shape[1])
    for axes in panels[max(0, len(groups) - shape[1]) : len(groups)]:
        axes.set_xlabel("step")
    part.supylabel(f"{title}{extra}", fontsize=style.text)
    return DomainPanels(handles, lost)
