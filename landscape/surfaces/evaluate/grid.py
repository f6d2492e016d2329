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
from .stacked import Choice, choose

_PARTS = 6  # stacked passes that a plane has at least


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


def settle(walker: Evaluator, rows: RowCache, places: Sequence[Sequence[Move]], in_row: int, in_all: int) -> None:
    """Choose how many points are evaluated in one pass, once for all rows: see `landscape.surfaces.evaluate.stacked`.

    Args:
        walker: Evaluates.
        rows: Remembers the choice; rows that are there already without one were made point by point.
        places: The points of the first rows, as many as are taken in one go at most.
        in_row: How many points a row has.
        in_all: How many points there are.
    """

    def made() -> list[Any]:
        return [1, "so were the stored rows"] if len(rows) else list(choose(walker, places, in_row, in_all))

    walker.choice = Choice(*rows.remembered("passes", made))


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

    def block(few: Sequence[int]) -> Any:
        found = walker.over([place(j, i) for j in few for i in range(len(x))])
        return found.reshape(len(few), len(x), *found.shape[1:])

    if not spec.adaptive_grid:
        some = [place(j, i) for j in range(max(1, len(y) // _PARTS)) for i in range(len(x))]
        settle(walker, rows, some, len(x), len(x) * len(y))
        names = [f"y{j:04d}" for j in range(len(y))]
        at_once = max(1, walker.choice.at_once // len(x))
        return PlanePasses(dims, axis, np.stack(rows.compute("surface", names, block, at_once)))
    settle(
        walker, rows, [place(0, 2 * i) for i in range(spec.points)], spec.points, int(spec.points**2 * adaptive.SHARE)
    )

    def evaluate(round_name: str, places: Any) -> Any:
        parts = max(-(-len(places) // spec.points), min(rows.world, len(places)))
        chunks = np.array_split(places, parts)

        def chunk(few: Sequence[int]) -> Any:
            return [walker.over([place(r, c) for r, c in chunks[i]]) for i in few]

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
