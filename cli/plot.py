"""Draw figures from stored results: files, or run folders with all that is stored in them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from landscape.errors import UsageError
from landscape.names import unknown_name
from landscape.registry import FIGURES

from .options import Common
from .screen import Screen


@dataclass(frozen=True, kw_only=True)
class PlotOptions:
    """What is drawn, and how."""

    kind: tuple[str, ...] = ()
    """Figure kinds; see `landscape list figures` (default: all that the results allow)."""
    venue: Literal["neurips", "icml", "iclr", "cvpr", "tmlr", "slides"] = "neurips"
    """Page width and fonts."""
    columns: Literal[1, 2] = 1
    """Columns of the page that the figure spans."""
    format: tuple[Literal["pdf", "png", "svg", "html", "gif"], ...] = ("pdf", "png")
    """File formats; html for what can be turned or moves, gif for what moves."""
    out: Path = Path("landscape-figures")
    """Folder of the figures."""


@dataclass(frozen=True)
class Arguments:
    """Arguments of ``landscape plot``."""

    results: Positional[tuple[str, ...]] = ()
    """Stored results (.nc), surfaces of tomgoldstein/loss-landscape (.h5), or run folders."""
    options: PlotOptions = field(default_factory=PlotOptions)
    common: Common = field(default_factory=Common)


def run(arguments: Arguments, screen: Screen) -> dict[str, Any]:
    """Draw, print the paths."""
    from landscape.figures.render import drawable, render

    options = arguments.options
    for kind in options.kind:
        if kind not in FIGURES:
            raise unknown_name("figure", kind, FIGURES, "--kind")
    results = collect(arguments.results)
    outputs: list[Path] = []
    for kind in options.kind or drawable(results):
        outputs += render(
            kind, results, options.out, formats=options.format, venue=options.venue, columns=options.columns
        )
    if not outputs:
        raise UsageError("nothing to draw from these results", "command line", "name a --kind to see what it needs")
    for path in outputs:
        screen.path("figure", path.absolute())
    return {"command": "plot", "outputs": [str(p.absolute()) for p in outputs]}


def collect(names: tuple[str, ...]) -> list[Any]:
    """Load the named results; a run folder stands for its training course and all that is stored in it.

    An ``.h5`` file is read as a surface of tomgoldstein/loss-landscape.

    Raises:
        UsageError: If nothing is named, or a name is neither.
    """
    from landscape.result import Result
    from landscape.run import Run

    found = []
    for name in names:
        path = Path(name)
        if Run.is_run(path):
            from landscape.analysis import training_result

            found.append(training_result(Run(path)))
            found += [Result.load(p) for p in sorted((path / "results").glob("*.nc"))]
        elif path.is_dir():
            files = sorted(path.glob("*.nc"))
            if not files:
                raise UsageError("the folder holds no stored results", name, "name .nc files or run folders")
            found += [Result.load(p) for p in files]
        elif path.suffix == ".h5":
            from landscape.surfaces.foreign import read_surface_h5

            found.append(read_surface_h5(path))
        else:
            found.append(Result.load(path))
    if not found:
        raise UsageError("no result", "command line", "name stored results (.nc) or run folders")
    return found
