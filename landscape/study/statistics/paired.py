"""Two methods compared pair by pair: exact sign flips, Holm's correction, effect sizes with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...numerics.intervals import mean_and_stderr, mean_interval

FEWEST = 6  # 2^(1-5) = 0.0625: five pairs can never reach 0.05
_EXACT = 20  # all sign patterns of so many pairs are tried
_CHUNK = 2**16


@dataclass(frozen=True)
class Effect:
    """The mean difference of pairs.

    Attributes:
        n: Number of pairs.
        mean: Mean difference.
        low: Lower end of Student's 95 % interval of the mean; None for one pair.
        high: Upper end.
        std: Standard deviation of the differences (ddof 1); None for one pair.
        size: Cohen's d of pairs, mean / std; None where there is no spread.
        size_low: Lower end of its 95 % interval, by the noncentral t distribution.
        size_high: Upper end.
        p: Two-sided p-value of `sign_flip_p`.
    """

    n: int
    mean: float
    low: float | None
    high: float | None
    std: float | None
    size: float | None
    size_low: float | None
    size_high: float | None
    p: float


def sign_flip_p(differences: Any) -> float:
    """Two-sided p-value of the mean of paired differences under random signs.

    Exact for up to 20 pairs; for more, 65,536 sign patterns of a fixed generator, counting the observed one.
    It cannot fall below ``2^(1-n)``.
    """
    differences = np.asarray(differences, dtype=float)
    n = len(differences)
    observed = abs(float(differences.sum())) * (1 - 1e-12)
    if n > _EXACT:
        patterns = np.random.default_rng(0).integers(0, 2, (_CHUNK, n))
        patterns[0] = 1
        return float(np.mean(np.abs((2 * patterns - 1) @ differences) >= observed))
    as_large = 0
    for first in range(0, 2**n, _CHUNK):
        patterns = (np.arange(first, min(first + _CHUNK, 2**n))[:, None] >> np.arange(n)) & 1
        as_large += int((np.abs((2 * patterns - 1) @ differences) >= observed).sum())
    return as_large / float(2**n)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of K tests made together, corrected by Holm's step-down method (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def effect(differences: Any) -> Effect:
    """Everything about the mean of paired differences."""
    differences = np.asarray(differences, dtype=float)
    n = len(differences)
    mean, stderr = mean_and_stderr(differences)
    low, high = mean_interval(mean, stderr, n)
    std = float(differences.std(ddof=1)) if n > 1 else None
    size = mean / std if std else None
    size_low, size_high = size_interval(size, n) if size is not None else (None, None)
    return Effect(n, mean, low, high, std, size, size_low, size_high, sign_flip_p(differences))


def size_interval(size: float, n: int) -> tuple[float, float]:
    """95 % interval of a paired d of ``n`` pairs.

    Its ends are the noncentralities, over sqrt(n), under which t = d sqrt(n) stands at 97.5 and at 2.5 %.
    """
    from scipy.optimize import brentq
    from scipy.special import nctdtr

    t, wide = size * math.sqrt(n), 40.0 + 4 * abs(size) * math.sqrt(n)

    def below(centre: float) -> float:
        share = float(nctdtr(n - 1, centre, t))
        return share if math.isfinite(share) else float(centre < t)  # scipy gives NaN far out in the tails

    def end(share: float) -> float:
        return float(brentq(lambda centre: below(centre) - share, t - wide, t + wide)) / math.sqrt(n)

    return end(0.975), end(0.025)
