"""Adaptive grids: evaluate where the loss bends, interpolate the rest, on a lattice twice as fine.

For a regular grid of n x n points the lattice has 2n-1 points per axis. A quarter of the regular grid's points is
evaluated everywhere; then twelve rounds add points where two interpolants of log10 loss disagree most (a cubic
radial basis function, and Clough and Tocher's piecewise cubic), until 40 % of n x n points are spent. The same
radial basis function fills the rest. Loss surfaces are smooth but for a cusp of the logarithm at the minimum and
ridges, so this is as accurate as the regular grid at less than half of its cost (`gallery/benchmarks/surface.md`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

SHARE = 0.4
_ROUNDS = 12
_DENSE = 1500  # up to here one system of equations over all points, beyond it one per neighbourhood

Evaluate = Callable[[str, Any], Any]


def refine(points: int, evaluate: Evaluate) -> tuple[Any, Any]:
    """Choose and evaluate lattice points.

    Args:
        points: n, odd: the regular grid that this replaces has n x n points.
        evaluate: From the name of a round and lattice places ``(k, 2)`` of (row, column) to rows of numbers
            ``(k, ...)``, of which the first is summed over the rest to the height; called once per round.

    Returns:
        The places ``(p, 2)`` in order of evaluation, and their numbers ``(p, ...)``.
    """
    size, budget = 2 * points - 1, int(SHARE * points**2)
    every = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"), -1).reshape(-1, 2)
    places = every[(every % 4 == 0).all(1)]
    numbers = evaluate("coarse", places)
    batch = -(-(budget - len(places)) // _ROUNDS)
    for number in range(_ROUNDS):
        wanted = min(batch, budget - len(places))
        if wanted <= 0:
            break
        score = _disagreement(places, heights(numbers), every, size)
        chosen = _apart(score.reshape(size, size), wanted)
        if not len(chosen):
            break
        numbers = np.concatenate([numbers, evaluate(f"round{number:02d}", chosen)])
        places = np.concatenate([places, chosen])
    return places, numbers


def heights(numbers: Any) -> Any:
    """Logarithm of the total loss of each point; NaN where that is not finite, the loss itself if any is <= 0."""
    loss = numbers.reshape(len(numbers), numbers.shape[1], -1)[:, 0].sum(-1)
    finite = np.isfinite(loss)
    loss = np.where(finite, loss, np.nan)
    return np.log10(loss) if (loss[finite] > 0).all() else loss


def fill(places: Any, values: Any, size: int) -> Any:
    """Interpolate one number per place to the whole lattice, ``(size, size)``.

    Positive numbers are interpolated as logarithms. What was evaluated stays as it is; a place whose nearest
    evaluated neighbour is not finite is NaN.
    """
    every = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"), -1).reshape(-1, 2)
    finite = np.isfinite(values)
    lattice: Any = np.full(size * size, np.nan)
    if finite.sum() >= 4:
        kept = values[finite]
        logarithmic = bool((kept > 0).all())
        found = _smooth(places[finite], np.log10(kept) if logarithmic else kept, every)
        lattice = 10**found if logarithmic else found
        if not finite.all():
            from scipy.spatial import cKDTree

            lattice[~finite[cKDTree(places).query(every)[1]]] = np.nan
    lattice = lattice.reshape(size, size)
    lattice[places[:, 0], places[:, 1]] = values
    return lattice


def _smooth(places: Any, values: Any, wanted: Any) -> Any:
    from scipy.interpolate import RBFInterpolator

    if np.ptp(values) == 0:
        return np.full(len(wanted), values[0])
    neighbours = None if len(places) <= _DENSE else 100
    model = RBFInterpolator(places.astype(float), values, kernel="cubic", degree=1, neighbors=neighbours)
    return model(wanted.astype(float))


def _disagreement(places: Any, values: Any, every: Any, size: int) -> Any:
    """How unsure the height of each lattice point is; 0 where it is known, infinite where NaN meets numbers."""
    from scipy.interpolate import CloughTocher2DInterpolator
    from scipy.spatial import cKDTree

    finite = np.isfinite(values)
    score = np.zeros(len(every))
    if finite.sum() >= 4:
        other = CloughTocher2DInterpolator(places[finite].astype(float), values[finite])(every.astype(float))
        score = np.abs(_smooth(places[finite], values[finite], every) - other)
        score[np.isnan(score)] = 0
    if not finite.all() and finite.any():
        near_lost = cKDTree(places[~finite]).query(every)[0] <= 2
        near_kept = cKDTree(places[finite]).query(every)[0] <= 2
        score[near_lost & near_kept] = np.inf
    known = places[:, 0] * size + places[:, 1]
    score[known] = 0
    return score


def _apart(score: Any, count: int) -> Any:
    """The ``count`` highest scores, no two of them neighbours; infinite ones take at most half of the count."""
    left, infinite = score.copy(), 0
    chosen: list[Any] = []
    while len(chosen) < count:
        i, j = np.unravel_index(int(left.argmax()), left.shape)
        if left[i, j] <= 0:
            break
        if np.isinf(left[i, j]):
            infinite += 1
            if infinite > count // 2:
                left[np.isinf(left)] = 0
                continue
        chosen.append((i, j))
        left[max(0, i - 1) : i + 2, max(0, j - 1) : j + 2] = 0
    return np.array(chosen, dtype=np.int64).reshape(-1, 2)
