"""How far to look: the range at which the loss has risen to chance, by doubling and bisection."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_CAP = 2e5
_PRECISION = 1.05


@dataclass(frozen=True)
class Reach:
    """How far one axis goes.

    Attributes:
        value: The larger of the two sides.
        minus, plus: Distance at which the loss crosses the threshold on either side.
        threshold: The loss that counts as lost.
        capped: Whether a side never crossed it.
        probes: Every evaluated point: signed distance and loss. They are points of the surface.
    """

    value: float
    minus: float
    plus: float
    threshold: float
    capped: bool
    probes: list[tuple[float, float]] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "value": self.value,
            "minus": self.minus,
            "plus": self.plus,
            "threshold": self.threshold,
            "capped": self.capped,
            "probes": [list(p) for p in self.probes],
        }


def chance_loss(centre: float, classes: int | None) -> float:
    """The loss above the centre that counts as lost: ln C of guessing C classes, else twice the loss there."""
    return centre + math.log(classes) if classes and classes > 1 else 2 * abs(centre) + (0 if centre else 1.0)


def find_reach(loss: Callable[[float], float], threshold: float, start: float) -> Reach:
    """Double the distance on both sides until ``loss`` is at least ``threshold``, then bisect to 5 %.

    A loss that is not finite counts as crossed. A side that does not cross within 200,000 times ``start`` ends
    there, and the result says so.
    """
    probes: list[tuple[float, float]] = []

    def crossed(at: float) -> bool:
        value = loss(at)
        probes.append((at, value))
        return not np.isfinite(value) or value >= threshold

    sides, capped = [], False
    for sign in (-1, 1):
        inside, outside = 0.0, start
        while not crossed(sign * outside) and outside < _CAP * start:
            inside, outside = outside, 2 * outside
        if outside >= _CAP * start:
            capped = True
        else:
            while outside > _PRECISION * inside and outside > 1e-9 * start:
                middle = (inside + outside) / 2
                inside, outside = (inside, middle) if crossed(sign * middle) else (middle, outside)
        sides.append(outside)
    return Reach(max(sides), sides[0], sides[1], threshold, capped, probes)
