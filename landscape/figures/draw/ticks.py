"""Numbers on axes: plain ones with real minus signs, at places that leave room between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from .text import letters, text_inches

MINUS = "−"
_GAP = 0.06  # inches between the labels of two ticks
_MOST = 9


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


def logarithmic(axis: object) -> None:
    """Ticks for an axis whose scale is a logarithm: decades in even steps, and fives and twos where there is room."""
    _spaced(axis, _decades)


def symmetric(axis: object, threshold: float) -> None:
    """Ticks for an axis that is logarithmic in both directions and linear within ``threshold``."""

    def sets(low: float, high: float) -> Iterator[list[float]]:
        largest = max(high, -low)
        for step in range(1, 40):
            far = [v for v in _powers(step, threshold, largest) if v > 1.5 * threshold]
            yield [v for v in [*(-v for v in far), 0.0, *far] if low <= v <= high]

    _spaced(axis, sets)


def at(axis: object, values: Iterable[float]) -> None:
    """Ticks at these values, as many of them as there is room for; the first and the last before the others."""
    every = sorted(set(values))
    order = [*every[:1], *every[-1:], *every[1:-1]]
    _spaced(axis, lambda low, high: iter([[v for v in order if _inside(v, low, high)]]))


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


def _spaced(axis: Any, sets: Callable[[float, float], Iterator[list[float]]]) -> None:
    """Put ticks at the finest of ``sets`` that has room for all its labels, or at the last that has any."""
    from matplotlib.ticker import FuncFormatter, Locator, NullFormatter

    family = letters()

    class Spaced(Locator):
        def __call__(self) -> Any:
            axis: Any = self.axis
            return self.tick_values(*sorted(axis.get_view_interval()))

        def tick_values(self, vmin: float, vmax: float) -> Any:
            low, high = sorted((float(vmin), float(vmax)))
            fewest: list[float] = []
            for values in sets(low, high):
                if len(values) < 2:
                    fewest = fewest or values
                    continue
                fewest = self._with_room(values)
                if len(fewest) == len(values) <= _MOST:
                    break
            return np.array(sorted(fewest))

        def _with_room(self, values: Sequence[float]) -> list[float]:
            kept: list[tuple[float, float, float]] = []
            for value in values:
                here, half = _place(self.axis, value), 0.5 * _length(self.axis, value, family)
                if all(abs(here - there) >= half + other + _GAP for _, there, other in kept):
                    kept.append((value, here, half))
            return [value for value, _, _ in kept]

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


def _decades(low: float, high: float) -> Iterator[list[float]]:
    """Sets of round values of a range, the finest first: parts of decades, decades, every second one, ..."""
    if not (0 < low <= high and np.isfinite(high)):
        return
    powers = range(int(np.floor(np.log10(low))) - 1, int(np.ceil(np.log10(high))) + 1)
    if len(powers) <= 4:
        for mantissas in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3)):
            yield [float(f"{m}e{p}") for p in powers for m in mantissas if _inside(float(f"{m}e{p}"), low, high)]
    found = False
    for step in range(1, len(powers) + 1):
        values = _powers(step, low, high)
        found = found or len(values) > 1
        if len(values) > 1:
            yield values
    if not found:
        from matplotlib.ticker import MaxNLocator

        for count in (4, 3, 2, 1):
            yield [float(v) for v in MaxNLocator(count).tick_values(low, high) if _inside(float(v), low, high)]


def _powers(step: int, low: float, high: float) -> list[float]:
    """Powers of ten in a range whose exponents are multiples of ``step``."""
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    return [10.0**p for p in range(first, last + 1) if not p % step and _inside(10.0**p, low, high)]


def _inside(value: float, low: float, high: float) -> bool:
    return low - 1e-9 * abs(low) <= value <= high + 1e-9 * abs(high)
