"""The shape of a 2-D surface in numbers: its minima, how deep each basin is, and where basins meet.

Sublevel-set persistence: as a threshold rises through the heights, every local minimum starts a basin, and where
two basins meet the shallower one ends (the elder rule). The persistence of a basin is the height between its
minimum and that meeting. One union-find over the cells sorted by height gives all pairs and the merge tree.

Where only some cells were evaluated (an adaptive grid), the others do not exist here: neighbours are then the cells
that a Delaunay triangulation of the evaluated ones connects, which for a full grid are the eight around a cell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..base.arrays import Flags, Floats

ROUGHNESS = "sum of the persistences of all basins but the deepest, of log10 loss, 8 neighbours per cell"
_AROUND = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]

Cell = tuple[int, int]


@dataclass(frozen=True)
class Basin:
    """One basin of the surface.

    Attributes:
        birth: Height of its minimum.
        death: Height at which it meets a deeper basin; infinite for the deepest of a connected region.
        minimum: (row, column) of its minimum.
        saddle: (row, column) where it ends; None for one that does not.
        into: Minimum of the basin that it ends in; None likewise.
    """

    birth: float
    death: float
    minimum: Cell
    saddle: Cell | None
    into: Cell | None

    @property
    def persistence(self) -> float:
        """Height between minimum and end."""
        return self.death - self.birth


def basins(height: object, evaluated: Any = None) -> list[Basin]:
    """All basins of ``height`` ``(rows, columns)``, the longest-lived first.

    Cells that are NaN or infinite belong to no basin. Neighbours of equal height are one plateau, not two minima.

    Args:
        height: ``(rows, columns)``.
        evaluated: Which cells were evaluated and not interpolated, ``(rows, columns)``; None: all of them.
    """
    height = np.asarray(height, dtype=float)
    columns = height.shape[1]
    around = _eight if evaluated is None or np.all(evaluated) else _triangulated(evaluated)
    if evaluated is not None:
        height = np.where(evaluated, height, np.nan)
    parent: dict[Cell, Cell] = {}
    arrival: dict[Cell, int] = {}
    found: list[Basin] = []

    def root(cell: Cell) -> Cell:
        while parent[cell] != cell:
            parent[cell] = parent[parent[cell]]
            cell = parent[cell]
        return cell

    for order, flat in enumerate(np.argsort(height, axis=None, kind="stable")):
        cell = divmod(int(flat), columns)
        level = float(height[cell])
        if not np.isfinite(level):
            continue
        parent[cell], arrival[cell] = cell, order
        near = around(cell)
        # A root is the minimum of its basin, and the first to arrive is the deepest.
        eldest, *younger = sorted({cell, *(root(n) for n in near if n in parent)}, key=arrival.__getitem__)
        for other in younger:
            parent[other] = eldest
            if height[other] < level:  # a cell that joins a basin on arrival was never a minimum
                found.append(Basin(float(height[other]), level, other, cell, eldest))
    left = {root(c) for c in parent}
    found += [Basin(float(height[c]), float("inf"), c, None, None) for c in left]
    return sorted(found, key=lambda b: (-b.persistence, b.birth, b.minimum))


def describe(loss: Floats, evaluated: Any = None) -> dict[str, Any]:
    """Number of local minima and the roughness of a loss surface ``(rows, columns)``; arguments as in `basins`."""
    finite = np.where(np.isfinite(loss), loss, np.nan)
    definition = ROUGHNESS
    if evaluated is not None:
        finite = np.where(evaluated, finite, np.nan)
        definition = definition.replace("8 neighbours per cell", "evaluated cells alone, Delaunay neighbours")
    if not np.isfinite(finite).any():
        return {"minima": 0, "roughness": None, "definition": definition}
    logarithmic = bool((finite[np.isfinite(finite)] > 0).all())
    every = basins(np.log10(finite) if logarithmic else finite, evaluated)
    finite_ones = [b.persistence for b in every if np.isfinite(b.persistence)]
    return {
        "minima": len(every),
        "roughness": float(sum(finite_ones)),
        "definition": definition if logarithmic else definition.replace("log10 loss", "the loss"),
    }


def _eight(cell: Cell) -> list[Cell]:
    return [(cell[0] + i, cell[1] + j) for i, j in _AROUND]


def _triangulated(evaluated: Flags) -> Callable[[Cell], list[Cell]]:
    """From an evaluated cell to its neighbours in the Delaunay triangulation of all evaluated cells.

    Four of them on one circle, such as the corners of a square, may be divided by either diagonal: both connect,
    so that no valley is cut in two by the choice.
    """
    from scipy.spatial import Delaunay

    points = np.argwhere(evaluated)
    triangles = Delaunay(points.astype(float))
    pairs = {(min(a, b), max(a, b)) for t in triangles.simplices.tolist() for a in t for b in t if a != b}
    for triangle, others in zip(triangles.simplices, triangles.neighbors, strict=True):
        for own, other in zip(triangle, others, strict=True):
            if other < 0:
                continue
            (far,) = set(triangles.simplices[other].tolist()) - set(triangle.tolist())
            if _on_one_circle(points[triangle], points[far]):
                pairs.add((min(int(own), far), max(int(own), far)))
    near: dict[Cell, list[Cell]] = {}
    cells = [(int(r), int(c)) for r, c in points]
    for a, b in pairs:
        near.setdefault(cells[a], []).append(cells[b])
        near.setdefault(cells[b], []).append(cells[a])
    return lambda cell: near.get(cell, [])


def _on_one_circle(triangle: object, fourth: Any) -> bool:
    """Whether four integer points lie on one circle, in exact arithmetic."""
    (a, b), (c, d), (e, f) = ((int(x), int(y)) for x, y in triangle - fourth)
    p, q, r = a * a + b * b, c * c + d * d, e * e + f * f
    return a * (d * r - q * f) - b * (c * r - q * e) + p * (c * f - d * e) == 0
