"""Grids over a plane: axis values, exactly symmetric or around what must be seen, and the passes at their points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...specs import SurfaceSpec
from ..directions.direction import Direction
from . import adaptive
from .assemble import PlanePasses
from .evaluator import Evaluator, Move
from .row_cache import RowCache


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


def grid_passes(
    walker: Evaluator, spec: SurfaceSpec, x: Any, y: Any, axes: Sequence[Direction], rows: RowCache
) -> PlanePasses:
    """Passes at all points of a grid, or at those that an adaptive one chooses.

    Args:
        walker: Evaluates.
        spec: Says whether the grid is adaptive; x and y are then the lattice, twice as fine.
        x: Steps along the first axis, ``(w,)``.
        y: Steps along the second one, ``(h,)``.
        axes: The two directions.
        rows: Keeps finished rows.
    """
    dims, axis = ("y", "x"), {"x": x, "y": y}

    def place(row: int, column: int) -> list[Move]:
        return [(float(y[row]), axes[1]), (float(x[column]), axes[0])]

    if not spec.adaptive_grid:
        names = [f"y{j:04d}" for j in range(len(y))]
        made = rows.compute("surface", names, lambda j: walker.over([place(j, i) for i in range(len(x))]))
        return PlanePasses(dims, axis, np.stack(made))

    def evaluate(round_name: str, places: Any) -> Any:
        parts = max(-(-len(places) // spec.points), min(rows.world, len(places)))
        chunks = np.array_split(places, parts)

        def chunk(i: int) -> Any:
            return walker.over([place(r, c) for r, c in chunks[i]])

        names = [f"{round_name}-{i:04d}of{parts}" for i in range(parts)]
        return np.concatenate(rows.compute(f"surface, {round_name}", names, chunk))

    places, numbers = adaptive.refine(spec.points, evaluate)
    evaluated = np.zeros((len(y), len(x)), dtype=bool)
    evaluated[places[:, 0], places[:, 1]] = True
    sums = np.empty((*evaluated.shape, *numbers.shape[1:]))
    sums[:, :, 2:] = numbers[0, 2:]  # weights and counts are the same everywhere
    for column in range(numbers.shape[-1]):
        for quantity in (0, 1):
            known = numbers[:, quantity, column]
            same = bool((known == known[0]).all())
            sums[:, :, quantity, column] = known[0] if same else adaptive.fill(places, known, len(x))
    return PlanePasses(dims, axis, sums, evaluated)
