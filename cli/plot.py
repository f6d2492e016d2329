"""Draw figures from stored results: files, or run folders with all that is stored in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from landscape.base.errors import UsageError

from .drawing import FOLDER, check_kinds, draw
from .options import Common, FigureOptions
from .screen import Screen


@dataclass(frozen=True, kw_only=True)
class PlotOptions(FigureOptions):
    """What is drawn, and how."""

    kind: tuple[str, ...] = ()
    """Figure kinds; see `landscape list figures` (default: all that the results allow)."""
    direction: str | None = None
    """Of surfaces, draw those along this direction: filter, eigvec:1, ... (default: those of most networks)."""
    height: Literal["log", "linear"] = "log"
    """What 3-D surfaces in print are as high as: the logarithm of the loss, or the loss."""
    mark_points: bool = False
    """Mark the points of the grid on contours."""
    out: Path = FOLDER
    """Folder of the figures."""


@dataclass(frozen=True)
class Arguments:
    """Arguments of ``landscape plot``."""

    results: Positional[tuple[str, ...]] = ()
    """Stored results (.nc), surfaces of tomgoldstein/loss-landscape (.h5), or run folders."""
    options: PlotOptions = field(default_factory=PlotOptions)
    common: Common = field(default_factory=Common)


def run(arguments: Arguments, screen: Screen) -> dict[str, object]:
    """Draw, print the paths."""
    from landscape.figures.draw.comparable import along
    from landscape.figures.draw.style import Style
    from landscape.figures.render import drawable
    from landscape.results.staleness import one_look

    options = arguments.options
    check_kinds(options.kind, "--kind")
    results = collect(arguments.results)
    kinds = options.kind or tuple(drawable(along(results, options.direction)))
    if not kinds:
        raise UsageError("nothing to draw from these results", "command line", "name a --kind to see what it needs")
    with one_look():
        style = Style(options.venue, options.columns, options.mark_points, options.height)
        drawn = draw(kinds, results, options.format, style, options.out, screen, direction=options.direction)
        changed = stale_objects(results)
    return {"command": "plot", "outputs": drawn.outputs, "notes": drawn.notes, "changed": changed}


def stale_objects(results: Sequence[Any]) -> list[dict[str, Any]]:
    """Of each stored result of which something changed since, or of which nothing is known, what that is."""
    from landscape.results.staleness import since

    found = [(str(r.path) if r.path else r.record.get("target"), since(r)) for r in results]
    return [{"result": p, "stale": list(s.stale), "unknown": list(s.unknown)} for p, s in found if s.told]


def holds_results(name: str) -> bool:
    """Whether this is a stored result, or a folder of them that is no run."""
    from landscape.results.run import Run

    path = Path(name)
    return path.suffix in (".nc", ".h5") or (path.is_dir() and not Run.is_run(path) and any(path.glob("*.nc")))


def collect(names: tuple[str, ...]) -> list[Any]:
    """Load the named results; a run folder stands for its training course and all that is stored in it.

    An ``.h5`` file is read as a surface of tomgoldstein/loss-landscape.

    Raises:
        UsageError: If nothing is named, or a name is neither.
    """
    from landscape.results.result import Result
    from landscape.results.run import Run

    found = []
    for name in names:
        path = Path(name)
        if Run.is_run(path):
            from landscape.results.history import training_result

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
