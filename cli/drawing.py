"""Figures from results, of `landscape plot` and of analyses that are told to draw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from landscape.names import unknown_name
from landscape.registry import FIGURES

from .options import DrawnCommon, FigureOptions
from .screen import Screen

FOLDER = Path("landscape-figures")


def check_kinds(kinds: Sequence[str], flag: str) -> None:
    """Refuse unknown kinds before anything is computed.

    Raises:
        UsageError: With the known ones.
    """
    for kind in kinds:
        if kind not in FIGURES:
            raise unknown_name("figure", kind, FIGURES, flag)


def draw(
    kinds: Sequence[str], results: Sequence[Any], options: FigureOptions, out: Path, screen: Screen
) -> list[str]:
    """Draw each kind from all results, print and return the paths."""
    from landscape.figures.render import render

    outputs: list[str] = []
    for kind in kinds:
        paths = render(kind, results, out, formats=options.format, venue=options.venue, columns=options.columns)
        outputs += [str(path.absolute()) for path in paths]
    for path in outputs:
        screen.path("figure", Path(path))
    return outputs


def drawn(found: dict[str, Any], results: Sequence[Any], common: DrawnCommon, screen: Screen) -> dict[str, Any]:
    """What a command prints as JSON, with the figures that it was told to draw."""
    if not common.figure:
        return found
    return {**found, "figures": draw(common.figure, results, common, FOLDER, screen)}
