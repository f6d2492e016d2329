"""How many products a run will take, from how its residual has fallen so far."""

from __future__ import annotations

import math

_HISTORY = 12  # the last residuals that a forecast is made of
_LEAST = 4  # with fewer nothing is said


class Forecast:
    """Follows the largest residual of the wanted pairs, which falls about as a power of the number of products.

    A line through the logarithms of the last residuals says where the target will be met. Early on residuals stand
    still, and a residual that does not fall has no forecast: then none is given rather than a wrong one.
    """

    def __init__(self) -> None:
        self._seen: list[tuple[int, float]] = []

    def total(self, products: int, residual: float, target: float, most: int) -> int | None:
        """Products in the end, more than there are yet and at most ``most``; None where it is not known.

        Args:
            products: Made so far.
            residual: The largest one now.
            target: What it has to fall to.
            most: The budget.
        """
        if residual > 0:
            self._seen = [*self._seen, (products, math.log(residual))][-_HISTORY:]
        if len(self._seen) < _LEAST or target <= 0 or residual <= 0:
            return None
        places, logs = [p for p, _ in self._seen], [v for _, v in self._seen]
        middle, level = sum(places) / len(places), sum(logs) / len(logs)
        spread = sum((p - middle) ** 2 for p in places)
        slope = sum((p - middle) * (v - level) for p, v in self._seen) / spread if spread else 0.0
        if slope >= 0 or products >= most:
            return None
        left = (math.log(target) - logs[-1]) / slope
        return min(most, products + max(1, math.ceil(left)))
