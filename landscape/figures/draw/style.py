"""Sizes and fonts of a venue, applied to one figure without touching global settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ...base.errors import UsageError
from ...base.names import unknown_name
from ...base.process_state import one_at_a_time
from .text import LONG_WORD, safe, text_inches, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GOLDEN = 1.618
HIGHEST = 9.0  # inches of a page between its margins


@dataclass(frozen=True)
class Venue:
    """Where a figure will be printed.

    Attributes:
        widths: Inches of one and of two columns; equal where the page has one column.
        text: Points of titles and axis labels.
        small: Points of ticks and legends, the smallest letters of a figure; none is below 7.
        serif: Times-like letters, else sans serif.
    """

    widths: tuple[float, float]
    text: float
    small: float
    serif: bool = True


VENUES = {
    "neurips": Venue((5.5, 5.5), 9, 7),
    "iclr": Venue((5.5, 5.5), 9, 7),
    "icml": Venue((3.25, 6.75), 8, 7),
    "cvpr": Venue((3.25, 6.875), 8, 7),
    "tmlr": Venue((6.5, 6.5), 10, 8),
    "slides": Venue((6.0, 12.0), 14, 12, serif=False),
}
_LONGEST = 40  # letters of a name; what is longer ends in an ellipsis
# STIX ships with matplotlib and is cut like Times, so a figure looks alike on machines without Times.
_SERIF = ["Times New Roman", "Times", "TeX Gyre Termes", "Nimbus Roman", "STIXGeneral", "DejaVu Serif"]


@dataclass(frozen=True)
class Style:
    """The look of one figure.

    Attributes:
        venue: A name in `VENUES`.
        columns: 1 or 2 columns of its page.
        points: Mark the points of the grid on contours.
        height: What 3-D surfaces are as high as: ``log`` (the logarithm of the loss) or ``linear`` (the loss).
    """

    venue: str = "neurips"
    columns: int = 1
    points: bool = False
    height: str = "log"

    def __post_init__(self) -> None:
        if self.venue not in VENUES:
            raise unknown_name("venue", self.venue, VENUES, "`venue=`")
        if self.columns not in (1, 2):
            raise UsageError(f"a figure is 1 or 2 columns wide, not {self.columns}", "`columns=`", "choose 1 or 2")
        if self.height not in ("log", "linear"):
            raise UsageError(f"a surface is log or linear, not {self.height}", "`height=`", "choose log or linear")

    @property
    def width(self) -> float:
        """Inches."""
        return VENUES[self.venue].widths[self.columns - 1]

    @property
    def text(self) -> float:
        """Points of titles and axis labels."""
        return VENUES[self.venue].text

    @property
    def small(self) -> float:
        """Points of ticks and legends."""
        return VENUES[self.venue].small

    @property
    def em(self) -> float:
        """Inches of the height of a title: panels are measured in it, so that larger letters get more room."""
        return self.text / 72

    def figure(self, height: float | None = None) -> Figure:
        """An empty figure as wide as its columns; of the golden section, unless ``height`` is given.

        No figure is higher than a page.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        high = min(height or max(self.width / GOLDEN, 18 * self.em), HIGHEST)
        figure = Figure(figsize=(self.width, high), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.03, h_pad=0.04)  # type: ignore[union-attr, call-arg]
        FigureCanvasAgg(figure)  # measures text
        return figure

    def across(self, wanted: int, ems: float, names: Sequence[str] = ()) -> int:
        """How many of ``wanted`` panels at least ``ems`` wide stand side by side; rows are filled evenly.

        Panels are also wide enough for the longest word of the ``names`` above them.
        """
        longest = self.longest_word(names) + 0.5 * self.em
        most = max(1, min(wanted, int(self.width / max(ems * self.em, longest))))
        rows = -(-wanted // most)
        return -(-wanted // rows)

    def longest_word(self, names: Sequence[str]) -> float:
        """Inches of the longest word in titles; words that `wrapped` may break do not count."""
        words = [w for n in names for w in n.split() if len(w) <= LONG_WORD]
        return max((text_inches(w, self.text) for w in words), default=0.0)

    def rows(self, wanted: int, inches: float, others: float) -> int:
        """How many of ``wanted`` rows of ``inches`` fit on a page beside ``others`` inches; at least one."""
        return max(1, min(wanted, int((HIGHEST - others) / inches)))

    def legend(self, figure: Any, handles: Sequence[Any], labels: Sequence[str], *, below: bool = False) -> None:
        """Put one legend above (or below) all panels, in as many columns as its longest entry allows.

        Entries that are longer than the figure is wide get a second line. A figure grows by what the legend has more
        than one line.
        """
        if not labels:
            return
        labels, columns = self._entries(labels)
        options = {"handlelength": 1.8, "columnspacing": 1.2, "handletextpad": 0.5, "borderaxespad": 0.2}
        place = "outside lower center" if below else "outside upper center"
        figure.legend(handles, labels, loc=place, ncols=columns, **options)
        self.grow(figure, self.legend_inches(labels) - 2.4 * self.small / 72)

    def legend_inches(self, labels: Sequence[str]) -> float:
        """How high the `legend` of these labels is."""
        labels, columns = self._entries(labels)
        rows = [labels[i :: -(-len(labels) // columns)] for i in range(-(-len(labels) // columns))]
        return (sum(1.55 * max(t.count("\n") + 1 for t in row) for row in rows) + 0.8) * self.small / 72

    def _entries(self, labels: Sequence[str]) -> tuple[list[str], int]:
        """The entries of a legend in lines that fit, and in how many columns they stand."""
        handle = 3.6 * self.small / 72
        labels = [wrapped(label, self.width - handle - 0.2, self.small) for label in labels]
        widths = [max(text_inches(p, self.small) for p in label.split("\n")) + handle for label in labels]
        for rows in range(1, len(labels) + 1):
            columns = -(-len(labels) // rows)
            parts = [widths[i * rows : (i + 1) * rows] for i in range(columns)]
            if sum(max(part) for part in parts if part) <= self.width - 0.1:
                return labels, columns
        return labels, 1

    def names_beside(self, names: Sequence[str], share: float, others: float) -> tuple[list[str], float]:
        """Names for the left of rows, broken into lines where a page has room for that.

        Args:
            names: What stands beside the rows.
            share: Of the width, for the names if they are broken.
            others: Inches of the figure above and below the rows.

        Returns:
            The names, and how many inches high a row is.
        """
        for width in (share * self.width, 2 * share * self.width):
            told = [wrapped(name, width, self.small) for name in names]
            line = (1.55 + 1.65 * max(t.count("\n") for t in told)) * self.small / 72
            if line * len(told) + others <= HIGHEST:
                break
        return told, line

    def beside(self, names: Sequence[str]) -> float:
        """How many inches wide these names are."""
        return max(text_inches(part, self.small) for name in names for part in name.split("\n")) + 0.15

    def grow(self, figure: Any, inches: float) -> None:
        """Make a figure higher by what stands around its panels, as far as a page allows it."""
        if inches > 0 and hasattr(figure, "set_figheight"):
            figure.set_figheight(min(figure.get_figheight() + inches, HIGHEST))

    def names_below(self, axes: Any, names: Sequence[str], room: float | None = None) -> None:
        """Write the names of users under the x axis at 0, 1, ...; slanted where they are longer than their place.

        Args:
            axes: Where.
            names: What stands at 0, 1, ...
            room: Inches for all of them (default: the width of the figure without a label and ticks at its left).

        The figure grows by what they take below the axis.
        """
        each = (self.width - 0.75 if room is None else room) / len(names)
        lines = [wrapped(safe(n, _LONGEST), each - 0.06, self.small) for n in names]
        height = self.small / 72
        widths = [text_inches(part, self.small) for n in lines for part in n.split("\n")]
        if max(widths) <= each - 0.04 and max(n.count("\n") for n in lines) < 3:
            axes.set_xticks(range(len(names)), lines)
            self.grow(axes.figure, 1.25 * height * max(n.count("\n") for n in lines))
            return
        angle = 35 if each > 2.2 * height else 90
        lines = [
            wrapped(safe(n, _LONGEST), 1.3, self.small) if each > 3 * height else safe(n, _LONGEST) for n in names
        ]
        place = {"ha": "right", "rotation_mode": "anchor"} if angle == 35 else {"ha": "center"}
        axes.set_xticks(range(len(names)), lines, rotation=angle, va="top", **place)
        longest = max(text_inches(part, self.small) for n in lines for part in n.split("\n"))
        self.grow(axes.figure, longest * (0.57 if angle == 35 else 1.0))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Matplotlib's own defaults plus this style, for as long as the block lasts."""
        import matplotlib

        with one_at_a_time(), matplotlib.rc_context():
            matplotlib.rcdefaults()
            for key, value in self._rc().items():
                matplotlib.rcParams[key] = value
            yield

    def _rc(self) -> Any:
        serif = VENUES[self.venue].serif
        return {
            "font.family": _families() if serif else ["DejaVu Sans"],
            "mathtext.fontset": "stix" if serif else "dejavusans",
            "font.size": self.text,
            "axes.formatter.use_mathtext": False,
            "axes.titlesize": self.text,
            "axes.labelsize": self.text,
            "xtick.labelsize": self.small,
            "ytick.labelsize": self.small,
            "legend.fontsize": self.small,
            "legend.frameon": False,
            "pdf.fonttype": 42,
            "ps.fonttype": 42,
            "svg.hashsalt": "landscape",
            "savefig.dpi": 300,
            "lines.linewidth": 1.1,
            "lines.markersize": 0.45 * self.text,
            "axes.linewidth": 0.6,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "axes.grid": True,
            "grid.linewidth": 0.3,
            "grid.alpha": 0.6,
            "hatch.linewidth": 0.4,
        }


def hide_unused(panels: Any, used: int, across: int) -> None:
    """Take the panels after the first ``used`` away, and give those above a gap their own tick labels."""
    for axes in panels[used:]:
        axes.set_axis_off()
    for axes in panels[max(0, used - across) : used]:
        axes.tick_params(labelbottom=True)


@lru_cache(maxsize=1)
def _families() -> list[str]:
    """The first serif letters that there are, then those that have every sign.

    Their own names, not ``serif``: a figure that is handed out is drawn under its owner's settings.
    """
    from matplotlib.font_manager import fontManager

    there = {font.name for font in fontManager.ttflist}
    return [next(name for name in _SERIF if name in there), "DejaVu Sans"]
