"""The shape of a 2-D surface in numbers: its minima, how deep each basin is, and where basins meet.

Sublevel-set persistence: as a threshold rises through the heights, every local minimum starts a basin, and where
two basins meet the shallower one ends (the elder rule). The persistence of a basin is the height between its
minimum and that meeting. One union-find over the cells sorted by height gives all pairs and the merge tree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

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


def basins(height: Any) -> list[Basin]:
    """All basins of ``height`` ``(rows, columns)``, the longest-lived first.

    Cells that are NaN or infinite belong to no basin. Neighbours of equal height are one plateau, not two minima.
    """
    height = np.asarray(height, dtype=float)
    columns = height.shape[1]
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
        near = [(cell[0] + i, cell[1] + j) for i, j in _AROUND]
        # A root is the minimum of its basin, and the first to arrive is the deepest.
        eldest, *younger = sorted({cell, *(root(n) for n in near if n in parent)}, key=arrival.__getitem__)
        for other in younger:
            parent[other] = eldest
            if height[other] < level:  # a cell that joins a basin on arrival was never a minimum
                found.append(Basin(float(height[other]), level, other, cell, eldest))
    left = {root(c) for c in parent}
    found += [Basin(float(height[c]), float("inf"), c, None, None) for c in left]
    return sorted(found, key=lambda b: (-b.persistence, b.birth, b.minimum))


def describe(loss: Any) -> dict[str, Any]:
    """Number of local minima, the deepest one, and the roughness of a loss surface ``(rows, columns)``."""
    finite = np.where(np.isfinite(loss), loss, np.nan)
    if not np.isfinite(finite).any():
        return {"minima": 0, "roughness": None, "definition": ROUGHNESS}
    logarithmic = bool((finite[np.isfinite(finite)] > 0).all())
    every = basins(np.log10(finite) if logarithmic else finite)
    finite_ones = [b.persistence for b in every if np.isfinite(b.persistence)]
    return {
        "minima": len(every),
        "roughness": float(sum(finite_ones)),
        "definition": ROUGHNESS if logarithmic else ROUGHNESS.replace("log10 loss", "the loss"),
    }
