"""Round losses for contours and colour bars, where heights are logarithms of the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..draw.ticks import number_text

if TYPE_CHECKING:
    from matplotlib.axis import Axis

_SETS: tuple[tuple[float, ...], ...] = (
    (1, 1.2, 1.5, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9),
    (1, 1.5, 2, 3, 4, 5, 6, 8),
    (1, 1.5, 2, 3, 5, 7),
    (1, 2, 3, 5),
    (1, 2, 5),
    (1, 3),
    (1,),
)


def loss_levels(low: float, high: float, wanted: int = 11) -> Any:
    """Heights (logarithms to base 10) between two heights at which the loss is a round number.

    About ``wanted`` of them, none on the ends. Where the loss hardly changes they are evenly spaced losses.
    """
    from matplotlib.ticker import MaxNLocator

    edge = 1e-6 * (high - low)
    if high - low < 0.6 and abs(low) < 300:
        losses = np.asarray(MaxNLocator(wanted).tick_values(10**low, 10**high))
        found = np.log10(losses[losses > 0])
    else:
        choices = [_at(mantissas, low, high) for mantissas in _SETS]
        steps = [c for c in range(2, 1000) if (high - low) / c >= 1][: int(high - low)]
        choices += [np.arange(np.ceil(low / s) * s, high, s) for s in steps]
        found = min(choices, key=lambda c: abs(len(c) - wanted))
    return found[(found > low + edge) & (found < high - edge)]


def _at(mantissas: tuple[float, ...], low: float, high: float) -> Any:
    powers = np.arange(np.floor(low) - 1, np.ceil(high) + 1)
    if len(powers) * len(mantissas) > 400:
        return np.arange(400.0)
    every = (powers[:, None] + np.log10(mantissas)).ravel()
    return every[(every > low) & (every < high)]


def level_text(height: float) -> str:
    """The loss at a height, as figures show it."""
    return number_text(10.0**height, 3) if abs(height) < 300 else f"1e{number_text(round(height))}"


def loss_ticks(axis: Axis) -> None:
    """Label a vertical axis of heights with losses: round ones with room between them."""
    from matplotlib.ticker import FuncFormatter, Locator

    class Losses(Locator):
        def __call__(self) -> Any:
            axis: Any = self.axis
            return self.tick_values(*sorted(axis.get_view_interval()))

        def tick_values(self, vmin: float, vmax: float) -> Any:
            low, high = sorted((float(vmin), float(vmax)))
            axis: Any = self.axis
            inches = axis.axes.bbox.height / axis.figure.dpi
            room = int(inches / 0.28)
            return loss_levels(low, high, int(np.clip(room, 2, 8)))

    axis.set_major_locator(Losses())
    axis.set_major_formatter(FuncFormatter(lambda height, _: level_text(height)))
