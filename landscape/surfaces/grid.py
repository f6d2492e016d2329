"""Axis values: exactly symmetric around a centre, or around what must be seen."""

from __future__ import annotations

from typing import Any

import numpy as np


def axis_values(points: int, reach: float) -> Any:
    """``points`` values from -reach to reach, exactly symmetric, and exactly 0 in the middle of an odd count.

    ``numpy.linspace`` promises neither: its middle is off by rounding for some counts.
    """
    steps = 2 * np.arange(points) - (points - 1)
    return reach * steps / (points - 1)


def covering_values(points: int, places: Any, margin: float = 0.2) -> Any:
    """``points`` equidistant values that cover ``places`` with ``margin`` of their extent on both sides."""
    low, high = float(np.min(places)), float(np.max(places))
    extent = (high - low) or 1.0
    return np.linspace(low - margin * extent, high + margin * extent, points)
