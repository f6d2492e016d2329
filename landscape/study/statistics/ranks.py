"""Rank correlations over models: Kendall's tau-b, its null band, intervals, and controls for other variables.

Everything is written over signs of pairs, so that a resample is a vector of counts and thousands of them are one
matrix product. A model drawn twice is tied with itself in both variables, as tau-b of the resample has it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...base.arrays import Floats

_SMALL = 1e-12  # below this a denominator is rounding


@dataclass(frozen=True)
class Interval:
    """A 95 % interval.

    Attributes:
        low: Lower end; None where it cannot be had.
        high: Upper end.
        method: ``bca``, or ``percentile`` where BCa has no solution (all resamples on one side).
    """

    low: float | None
    high: float | None
    method: str


def pair_signs(values: object) -> Floats:
    """sgn(v_i − v_j) for all pairs, shape ``(n, n)``."""
    values = np.asarray(values, dtype=float)
    signs: Floats = np.sign(values[:, None] - values[None, :])
    return signs


def kendall(x: Any, y: Any) -> float | None:
    """Kendall's tau-b; None where all of ``x`` or all of ``y`` are tied, or there are fewer than two."""
    found = taus(pair_signs(x), pair_signs(y), np.ones((1, len(x))))[0]
    return float(found) if math.isfinite(found) else None


def taus(x: Floats, y: Floats, weights: Floats) -> Floats:
    """tau-b of every weighting of the models.

    Args:
        x: Signs of the pairs of one variable (`pair_signs`).
        y: Signs of the pairs of the other.
        weights: How often each model counts, shape ``(draws, n)``.

    Returns:
        Shape ``(draws,)``; NaN where one variable is all tied.
    """

    def pairs(matrix: Floats) -> Floats:
        summed: Floats = ((weights @ matrix) * weights).sum(1)
        return summed

    scale = np.sqrt(pairs(np.abs(x)) * pairs(np.abs(y)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scale > _SMALL, pairs(x * y) / scale, np.nan)


def null_band(n: int) -> float | None:
    """|tau| that 95 % of independent rankings of ``n`` models stay below, by the normal approximation."""
    return 1.96 * math.sqrt(2 * (2 * n + 5) / (9 * n * (n - 1))) if n > 1 else None


def interval(observed: float | None, resampled: Floats, left_out: Floats) -> Interval:
    """The bias-corrected and accelerated 95 % interval (Efron 1987), percentile where that has no solution.

    Args:
        observed: The statistic of the sample.
        resampled: Of each resample; NaN where it is not defined.
        left_out: Of the sample without each cluster.
    """
    from scipy.special import ndtr, ndtri

    resampled = resampled[np.isfinite(resampled)]
    left_out = left_out[np.isfinite(left_out)]
    if observed is None or len(resampled) < 100 or len(left_out) < 3:
        return Interval(None, None, "none")
    below = float(((resampled < observed).mean() + (resampled <= observed).mean()) / 2)
    spread = left_out.mean() - left_out
    cubes, squares = float((spread**3).sum()), float((spread**2).sum())
    if not 0 < below < 1 or squares < _SMALL:
        low, high = np.percentile(resampled, [2.5, 97.5])
        return Interval(float(low), float(high), "percentile")
    bias, acceleration = ndtri(below), cubes / (6 * squares**1.5)
    tails = ndtri(np.array([0.025, 0.975])) + bias
    low, high = np.quantile(resampled, ndtr(bias + tails / (1 - acceleration * tails)))
    return Interval(float(low), float(high), "bca")


def partial_kendall(xy: float, xz: float, yz: float) -> float | None:
    """The tau of x and y with z held, from the three pairwise taus (Kendall 1942); None where z determines one."""
    rest = (1 - xz**2) * (1 - yz**2)
    return (xy - xz * yz) / math.sqrt(rest) if rest > _SMALL else None


def partial_rank(x: object, y: object, controls: Sequence[Any], weights: Floats) -> Floats:
    """Correlation of the ranks of ``x`` and ``y`` after linear regression of both on the ranks of the controls.

    Args:
        x: One variable, shape ``(n,)``.
        y: The other.
        controls: What is held; constant ones are left out.
        weights: How often each model counts, shape ``(draws, n)``; ranks are those of the whole sample.

    Returns:
        Shape ``(draws,)``; NaN where the controls determine ``x`` or ``y``.
    """
    from scipy.stats import rankdata

    held = [z for z in controls if len(np.unique(z)) > 1]
    ranks = np.stack([rankdata(v) for v in (x, y, *held)], 1)
    ranks = (ranks - ranks.mean(0)) / ranks.std(0).clip(_SMALL)
    share = weights / weights.sum(1, keepdims=True)
    means = share @ ranks
    moments = np.einsum("bn,ni,nj->bij", share, ranks, ranks) - means[:, :, None] * means[:, None, :]
    own = moments[:, :2, :2]
    if held:
        with_held, of_held = moments[:, :2, 2:], moments[:, 2:, 2:]
        own = own - with_held @ np.linalg.pinv(of_held, rcond=1e-9, hermitian=True) @ with_held.transpose(0, 2, 1)
    left = np.minimum(own[:, 0, 0], own[:, 1, 1])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(left > 1e-9, own[:, 0, 1] / np.sqrt(own[:, 0, 0] * own[:, 1, 1]), np.nan)
