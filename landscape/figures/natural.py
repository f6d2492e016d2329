"""One result as the figure that shows it best."""

from __future__ import annotations

import io
from functools import partial
from typing import TYPE_CHECKING

from ..base.errors import UsageError
from ..registry import FIGURES
from ..results.result import Result, shows_stored
from .draw.drawing import Drawing
from .draw.style import Style
from .render import fitting, wants

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 110  # dots of a notebook to an inch of paper
# By analysis, the kinds that are tried in this order; any other kind that fits comes after them.
_FIRST = {
    "hessian": ("spectra", "eigenvalues"),
    "sharpness": ("m-sharpness", "sharpness-radius", "domain-sharpness", "controls"),
    "surface": ("contour", "slice"),
    "plane": ("plane",),
    "path": ("path",),
    "domains": ("domains",),
    "domain-curves": ("domain-curves",),
    "training": ("training",),
    "study": ("study-forest", "study-methods"),
}


@shows_stored
def plot(result: Result, kind: str | None = None, *, venue: str = "neurips", columns: int = 1) -> Figure:
    """Draw one result.

    Args:
        result: Any.
        kind: A name in `landscape.registry.FIGURES`; None: the one that shows the analysis best.
        venue: Sizes and fonts.
        columns: Columns of the page that the figure spans.

    Raises:
        UsageError: If a name is unknown, or the result has nothing for such a figure.
    """
    chosen = kind or natural(result)
    drawing: Drawing = FIGURES.load(chosen)(fitting(chosen, [result]), Style(venue, columns))
    figure = drawing.figure
    vars(figure)["_repr_png_"] = partial(_picture, figure)
    return figure


def _picture(figure: Figure) -> tuple[bytes, dict[str, int]]:
    """What a notebook shows where pyplot, which does not know of the figure, has not taught it: twice as fine."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=2 * SHOWN)
    width, height = (round(inches * SHOWN) for inches in figure.get_size_inches())
    return file.getvalue(), {"width": width, "height": height}


def natural(result: Result) -> str:
    """The kind of figure that shows a result best.

    Raises:
        UsageError: If there is none.
    """
    fit: list[str] = []
    every: list[str] = [*_FIRST.get(result.kind, ()), *FIGURES]
    for kind in dict.fromkeys(every):
        try:
            members = fitting(kind, [result])
        except UsageError:
            continue
        if wants(kind).tells(members):
            return kind
        fit.append(kind)
    if fit:
        return fit[0]
    raise UsageError(f"there is no figure of a {result.kind} result alone", "", "see `landscape list figures`")
