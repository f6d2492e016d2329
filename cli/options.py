"""Flags that are about the command itself, not about what it computes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Common:
    """Flags of every command."""

    json: bool = False
    """Print one JSON object to stdout instead of a table."""
    config: Path | None = None
    """TOML file with defaults, which flags override."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True, kw_only=True)
class AnalysisCommon(Common):
    """Flags of every analysis."""

    out: Path | None = None
    """Folder of the results (default: the run's, or landscape-results)."""
    force: bool = False
    """Compute anew even if the result is stored."""
    trust_run: bool = False
    """Import the plug-ins that a run names, though you have not named them yourself."""
    checkpoints: Literal["last", "all"] = "last"
    """The run's last checkpoint, or all of them."""


@dataclass(frozen=True, kw_only=True)
class FigureOptions:
    """Where a figure is printed, and as what."""

    venue: Literal["neurips", "icml", "iclr", "cvpr", "tmlr", "slides"] = "neurips"
    """Page width and fonts."""
    columns: Literal[1, 2] = 1
    """Columns of the page that the figure spans."""
    format: tuple[Literal["pdf", "png", "svg", "html", "gif"], ...] = ("pdf", "png")
    """File formats; html for what can be turned or moves, gif for what moves; what cannot is left out with a note."""


@dataclass(frozen=True, kw_only=True)
class DrawnCommon(AnalysisCommon, FigureOptions):
    """Flags of the analyses whose results can be drawn at once."""

    figure: tuple[str, ...] = ()
    """Also draw these kinds of figures of all targets together, into landscape-figures."""
