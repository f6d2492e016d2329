"""Adaptive grids: evaluate where the loss bends, interpolate the rest, on a lattice twice as fine.

For a regular grid of n x n points the lattice has 2n-1 points per axis. A quarter of the regular grid's points is
evaluated everywhere, and the centre; then twelve rounds add points where two interpolants of log10 loss disagree
most (a cubic radial basis function, and Clough and Tocher's piecewise cubic), until 40 % of n x n points are spent.
The same radial basis function fills the rest. Loss surfaces are smooth but for a cusp of the logarithm at the
minimum and ridges, so this is as accurate as the regular grid at less than half of its cost
(`gallery/benchmarks/surface.md`).

What is interpolated is for the eye: it never leaves the range of the evaluated points around it, so that no picture
shows a valley that no forward pass saw, and numbers (minima, roughness, notes) come from evaluated points alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

SHARE = 0.4
_ROUNDS = 12
_AROUND = 8  # nearest evaluated points that an interpolated one lies between
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
    places = every[(every % 4 == 0).all(1) | (every == points - 1).all(1)]  # the centre is where the network is
    numbers = evaluate("coarse and centre", places)
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
    """Total loss of each point on the scale of `_scale`; NaN where it is not finite."""
    loss = numbers.reshape(len(numbers), numbers.shape[1], -1)[:, 0].sum(-1)
    finite = np.isfinite(loss)
    loss = np.where(finite, loss, np.nan)
    if not finite.any():
        return loss
    low, unit = _scale(loss[finite])
    return np.log10((loss - low) / unit)


def fill(places: Any, values: Any, size: int) -> Any:
    """Interpolate one number per place to the whole lattice, ``(size, size)``.

    It is done on the scale of `_scale`, and stays between the lowest and the highest of the nearest evaluated
    points. What was evaluated stays as it is; a place whose nearest evaluated neighbour is not finite is NaN.
    """
    from scipy.spatial import cKDTree

    every = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"), -1).reshape(-1, 2)
    finite = np.isfinite(values)
    lattice: Any = np.full(size * size, np.nan)
    if finite.sum() >= 4:
        known, kept = places[finite], values[finite]
        low, unit = _scale(kept)
        around = kept[cKDTree(known).query(every, k=min(_AROUND, len(known)))[1]]
        with np.errstate(over="ignore"):  # what overflows is far above the points around it
            found = low + unit * 10 ** _smooth(known, np.log10((kept - low) / unit), every)
        lattice = np.clip(found, around.min(1), around.max(1))
        if not finite.all():
            lattice[~finite[cKDTree(places).query(every)[1]]] = np.nan
    lattice = lattice.reshape(size, size)
    lattice[places[:, 0], places[:, 1]] = values
    return lattice


def _scale(values: Any) -> tuple[float, float]:
    """Origin and unit of the logarithmic scale on which finite ``values`` are interpolated.

    Positive numbers have their own logarithm. Where some are zero or negative, the logarithm is of the height above
    the lowest one, which is taken to lie one unit, the median of those heights, above the origin: linear in the
    valley, logarithmic on the hills, and whatever comes back from it is a number above the origin.
    """
    lowest = float(values.min())
    if lowest > 0:
        return 0.0, 1.0
    unit = float(np.median(values) - lowest) or float(np.ptp(values)) or 1.0
    return lowest - unit, unit


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
