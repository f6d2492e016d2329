"""Numbers on axes: plain ones with real minus signs, at places that leave room between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from .text import letters, text_inches

MINUS = "−"
_GAP = 0.06  # inches between the labels of two ticks
_MOST = 12


def number_text(value: float, digits: int = 4) -> str:
    """A number as figures show it: no exponents set small, no hyphens (``0.05``, ``−2``, ``1e−7``)."""
    text = f"{float(value) + 0.0:.{digits}g}"
    head, e, power = text.partition("e")
    if e:
        text = f"{head}e{int(power)}"
    return text.replace("-", MINUS)


def numbers_text(values: Sequence[float]) -> list[str]:
    """Evenly spaced numbers with equally many decimals; very large and very small ones as powers of ten."""
    step = float(np.diff(np.sort(values)).min()) if len(values) > 1 else 0.0
    sizes = np.abs([v for v in values if abs(v) > 1e-9 * step])
    largest = float(sizes.max()) if len(sizes) else 0.0
    if step <= 0 or largest >= 1e5 or largest < 1e-3:
        digits = 4 if step <= 0 else int(np.clip(np.ceil(np.log10(max(largest / step, 1))) + 1, 1, 12))
        return [number_text(0.0 if abs(v) < 1e-9 * step else v, digits) for v in values]
    decimals = max(0, int(np.ceil(-np.log10(step) - 1e-9)))
    while decimals < 8 and any(abs(round(v, decimals) - v) > 1e-3 * step for v in values):
        decimals += 1
    texts = [f"{v:.{decimals}f}" for v in values]
    return [t.lstrip("-") if not float(t) else t.replace("-", MINUS) for t in texts]


def logarithmic(axis: Any, *, base: float = 10.0) -> None:
    """Ticks for an axis whose scale is a logarithm: as many decades, halves and fifths as there is room for."""
    _spaced(axis, lambda low, high: _decades(low, high) if base == 10 else _powers(base, low, high))


def symmetric(axis: Any, threshold: float) -> None:
    """Ticks for an axis that is logarithmic in both directions and linear within ``threshold``."""

    def places(low: float, high: float) -> Iterator[float]:
        yield 0.0
        for sign, end in ((1, high), (-1, -low)):
            if end > threshold:
                yield from (sign * v for v in _decades(threshold, end))

    _spaced(axis, places)


def at(axis: Any, values: Iterable[float]) -> None:
    """Ticks at these values, as many of them as there is room for; the first and the last before the others."""
    every = sorted(set(values))
    order = [*every[:1], *every[-1:], *every[1:-1]]
    _spaced(axis, lambda low, high: (v for v in order if low * (1 - 1e-9) - 1e-12 <= v <= high * (1 + 1e-9) + 1e-12))


def plain(axis: Any) -> None:
    """Labels of an axis with matplotlib's own places: the same numbers without an offset above the axis."""
    from matplotlib.ticker import Formatter

    class Plain(Formatter):
        def __init__(self) -> None:
            self._texts: dict[float, str] = {}

        def set_locs(self, locs: Any) -> None:
            places = [float(v) for v in locs]
            self._texts = dict(zip(places, numbers_text(places), strict=True))

        def __call__(self, value: float, pos: int | None = None) -> str:
            return self._texts.get(float(value)) or number_text(value)

    axis.set_major_formatter(Plain())


def _spaced(axis: Any, places: Callable[[float, float], Iterable[float]]) -> None:
    """Put ticks at the first of ``places`` and at those after it whose labels have room."""
    from matplotlib.ticker import FuncFormatter, Locator, NullFormatter

    family = letters()

    class Spaced(Locator):
        def __call__(self) -> Any:
            axis: Any = self.axis
            return self.tick_values(*sorted(axis.get_view_interval()))

        def tick_values(self, vmin: float, vmax: float) -> Any:
            low, high = sorted((float(vmin), float(vmax)))
            kept: list[tuple[float, float, float]] = []
            for value in places(low, high):
                here, half = _place(self.axis, value), 0.5 * _length(self.axis, value, family)
                if all(abs(here - there) >= half + other + _GAP for _, there, other in kept):
                    kept.append((value, here, half))
                if len(kept) > _MOST:
                    break
            return np.array(sorted(value for value, _, _ in kept))

    axis.set_major_locator(Spaced())
    axis.set_major_formatter(FuncFormatter(lambda value, _: number_text(value)))
    axis.set_minor_formatter(NullFormatter())


def _place(axis: Any, value: float) -> float:
    """Where a value lies, in inches from an edge of the figure."""
    horizontal: bool = axis.axis_name == "x"
    point = (value, axis.axes.get_ylim()[0]) if horizontal else (axis.axes.get_xlim()[0], value)
    return float(axis.axes.transData.transform(point)[0 if horizontal else 1] / axis.figure.dpi)


def _length(axis: Any, value: float, family: tuple[str, ...]) -> float:
    """How many inches of its axis the label of a tick takes."""
    points = float(axis.get_tick_params().get("labelsize", 7))
    return text_inches(number_text(value), points, family) if str(axis.axis_name) == "x" else points / 72


def _decades(low: float, high: float) -> Iterator[float]:
    """Values of a range by how round they are: decades, every second one first, then fives and twos."""
    if not (0 < low <= high and np.isfinite(high)):
        return
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    steps = [s for s in (8, 4, 3, 2, 1) if (last - first) >= 2 * s] or [1]
    inside = low * (1 - 1e-9), high * (1 + 1e-9)
    given = set[float]()
    for step in steps:
        for power in range(first, last + 1):
            value = 10.0**power
            if not power % step and inside[0] <= value <= inside[1] and value not in given:
                given.add(value)
                yield value
        if len(given) >= 4:
            return
    for mantissas in ((3,), (2, 5), (1.5, 4, 7), (1.2, 2.5, 6, 8), (1.1, 1.3, 1.4, 1.7, 9)):
        for power in range(first - 1, last + 1):
            for m in mantissas:
                value = float(f"{m}e{power}")
                if inside[0] <= value <= inside[1] and value not in given:
                    given.add(value)
                    yield value
        if len(given) >= 3:
            return
    if len(given) < 2:
        from matplotlib.ticker import MaxNLocator

        yield from (float(v) for v in MaxNLocator(3).tick_values(low, high) if inside[0] <= v <= inside[1])


def _powers(base: float, low: float, high: float) -> Iterator[float]:
    first, last = int(np.ceil(np.log(low) / np.log(base))), int(np.floor(np.log(high) / np.log(base)))
    yield from (base**p for p in range(first, last + 1))
