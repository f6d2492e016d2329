"""One colour, dash and marker per domain, the same in figures and in the report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# From dark to light in even steps, so that they differ in grey and to every eye; hues change as well.
_COLOURS = ("#1B0C42", "#621566", "#0B5C78", "#BD3E34", "#3E9C5C", "#E99020", "#A8CE54")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_FIRST = {1: (2,), 2: (0, 3), 3: (0, 3, 5), 4: (0, 2, 4, 5), 5: (0, 1, 2, 4, 5), 6: (0, 1, 2, 3, 4, 5)}


@dataclass(frozen=True)
class DomainLook:
    """How one domain is drawn.

    Attributes:
        colour: Hexadecimal colour.
        marker: Matplotlib's marker.
    """

    colour: str
    marker: str


def domain_looks(names: Iterable[str]) -> dict[str, DomainLook]:
    """A look for each domain, by its place among them; after seven the colours return with other markers."""
    every = list(dict.fromkeys(names))
    places = _FIRST.get(len(every), tuple(range(len(_COLOURS))))
    return {
        name: DomainLook(_COLOURS[places[i % len(places)]], _MARKERS[(i + i // len(places)) % len(_MARKERS)])
        for i, name in enumerate(every)
    }
