"""Sizes and fonts of a venue, applied to one figure without touching global settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...base.errors import UsageError
from ...base.names import unknown_name
from ...base.process_state import one_at_a_time
from .text import safe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GOLDEN = 1.618


@dataclass(frozen=True)
class Venue:
    """Where a figure will be printed.

    Attributes:
        widths: Inches of one and of two columns; equal where the page has one column.
        text: Points of titles and axis labels.
        small: Points of ticks and legends.
        serif: Times-like letters, else sans serif.
    """

    widths: tuple[float, float]
    text: float
    small: float
    serif: bool = True


VENUES = {
    "neurips": Venue((5.5, 5.5), 9, 7),
    "iclr": Venue((5.5, 5.5), 9, 7),
    "icml": Venue((3.25, 6.75), 8, 6),
    "cvpr": Venue((3.25, 6.875), 8, 6),
    "tmlr": Venue((6.5, 6.5), 10, 8),
    "slides": Venue((6.0, 12.0), 14, 12, serif=False),
}
# STIX ships with matplotlib and is cut like Times, so a figure looks alike on machines without Times.
_SERIF = ["Times New Roman", "Times", "TeX Gyre Termes", "Nimbus Roman", "STIXGeneral", "DejaVu Serif"]


@dataclass(frozen=True)
class Style:
    """The look of one figure.

    Attributes:
        venue: A name in `VENUES`.
        columns: 1 or 2 columns of its page.
    """

    venue: str = "neurips"
    columns: int = 1

    def __post_init__(self) -> None:
        if self.venue not in VENUES:
            raise unknown_name("venue", self.venue, VENUES, "--venue")
        if self.columns not in (1, 2):
            raise UsageError(f"a figure is 1 or 2 columns wide, not {self.columns}", "--columns", "choose 1 or 2")

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
        """An empty figure as wide as its columns; of the golden section, unless ``height`` is given."""
        from matplotlib.figure import Figure

        return Figure(figsize=(self.width, height or self.width / GOLDEN), layout="constrained")

    def across(self, wanted: int, ems: float) -> int:
        """How many of ``wanted`` panels at least ``ems`` wide stand side by side; rows are filled evenly."""
        most = max(1, min(wanted, int(self.width / (ems * self.em))))
        rows = -(-wanted // most)
        return -(-wanted // rows)

    def letters(self, inches: float, points: float | None = None) -> int:
        """How many letters of ``points`` (default: titles) fit into ``inches``."""
        return max(6, int(inches * 72 / (0.52 * (points or self.text))))

    def legend(self, figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
        """Put one legend above all panels, in as many columns as its longest entry allows."""
        longest = max(len(label) for label in labels) * 0.47 * self.small + 4 * self.small
        most = max(1, min(len(labels), int(self.width * 72 / longest)))
        columns = -(-len(labels) // -(-len(labels) // most))
        figure.legend(handles, labels, loc="outside upper center", ncols=columns)

    def legend_beside(
        self, part: Any, handles: Sequence[Any], labels: Sequence[str], title: str, *, most: int
    ) -> None:
        """Put a legend right of all panels of a part of a figure, at most ``most`` entries high."""
        options = {"loc": "outside right center", "title": title, "title_fontsize": self.small}
        part.legend(handles, labels, ncols=-(-len(labels) // most), **options)

    def names_below(self, axes: Any, names: Sequence[str]) -> None:
        """Write the names of users under the x axis at 0, 1, ...; slanted where they are longer than their place."""
        room = self.letters((self.width - 0.7) / len(names), self.small)
        texts = [safe(n, max(room, 10)) for n in names]
        crowded = max(map(len, texts)) > room
        axes.set_xticks(range(len(names)), texts, rotation=35 if crowded else 0, ha="right" if crowded else "center")

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
            "font.family": ["serif", "DejaVu Sans"] if serif else ["DejaVu Sans"],
            "font.serif": _SERIF,
            "mathtext.fontset": "stix" if serif else "dejavusans",
            "font.size": self.text,
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
