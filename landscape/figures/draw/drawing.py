"""What a figure kind asks for, and what it gives back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import TYPE_CHECKING, Any

from ...base.errors import UsageError
from ...results.result import Result
from ...results.staleness import changes, first_time
from .comparable import comparable
from .fit import lay_out

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .style import Style

log = logging.getLogger(__name__)

Row = dict[str, Any]
Draw = Callable[[Sequence[Result], "Style"], "Drawing"]


@dataclass(frozen=True)
class Want:
    """The results that a figure kind is drawn from.

    Attributes:
        kind: The analysis they come from.
        command: The command that computes them, for the error where there are none.
        variable: An array that they hold.
        dims: Dimensions which that array has.
    """

    kind: str
    command: str
    variable: str
    dims: frozenset[str]

    def of(self, results: Sequence[Result], figure: str) -> list[Result]:
        """The results that fit.

        Raises:
            UsageError: If none does; says what is missing and which command makes it.
        """
        fit = [r for r in results if self.fits(r)]
        if not fit:
            there = ", ".join(sorted({r.kind for r in results})) or "no result"
            raise UsageError(
                f"nothing to draw: a {figure} figure needs a {self.kind} result, there is {there}",
                "",
                self.command,
            )
        return fit

    def tells(self, results: Sequence[Result]) -> bool:
        """Whether a figure of these results, which fit, says something: whether it is drawn without being named."""
        return bool(results)

    def fits(self, result: Result) -> bool:
        """Whether ``result`` is of the kind and holds the array."""
        return (
            result.kind == self.kind
            and self.variable in result.data
            and self.dims <= {str(d) for d in result.data[self.variable].dims}
        )


@dataclass(frozen=True)
class Movie:
    """How a figure moves.

    Attributes:
        frames: How many pictures.
        show: Brings the figure to one of them, counted from 0; the figure is handed over at the last.
        seconds: How long each is shown.
    """

    frames: int
    show: Callable[[int], None]
    seconds: float = 0.4


@dataclass(frozen=True)
class Drawing:
    """A drawn figure with the numbers in it.

    Attributes:
        figure: For paper.
        rows: Every plotted number, a row per point, for the CSV beside the figure.
        notes: What the reader must know and cannot see: results left out, points that are not finite,
            definitions of bands and whiskers.
        interactive: A plotly figure for HTML, of the kinds that have one.
        movie: How the figure moves, of the kinds that do.
        changed: What of code, data, weights or versions has changed since its results were made; in the notes, too.
        warned: Which of the notes were logged: results that were left out, and what has changed.
        caption: What every mark, band and colour means, in sentences, for the caption in a paper.
        finish: What is drawn when the layout stands, because it depends on distances on the page.
    """

    figure: Figure
    rows: list[Row]
    notes: tuple[str, ...] = ()
    interactive: Any = None
    movie: Movie | None = None
    changed: tuple[str, ...] = ()
    warned: tuple[str, ...] = ()
    caption: str = ""
    finish: Callable[[], None] | None = None


def styled(draw: Draw) -> Draw:
    """Make ``draw`` run on what can be compared, under the settings of its style, and lay the figure out once."""

    @wraps(draw)
    def inside(results: Sequence[Result], style: Style) -> Drawing:
        with style.applied():
            alike, left_out = comparable(results)
            changed = tuple(changes(alike))
            for note in (*left_out, *changed):  # nobody who looks at a file sees its notes
                if first_time(note):
                    log.warning("%s", note)
            drawing = draw(alike, style)
            notes = tuple(dict.fromkeys((*drawing.notes, *left_out, *changed)))
            drawing = replace(drawing, notes=notes, changed=changed, warned=(*left_out, *changed))
            lay_out(drawing.figure)
            if drawing.finish is not None:
                drawing.finish()
            return drawing

    return inside


def each(late: Sequence[Callable[[], object]]) -> None:
    """Call all of them: what is drawn when the layout stands."""
    for one in late:
        one()
