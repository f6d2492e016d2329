"""Standard errors and 95 % intervals of means and shares."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_Z = 1.959963984540054  # the normal distribution's 97.5 % point


def mean_and_stderr(values: Sequence[float] | object, weights: object = None) -> tuple[float, float | None]:
    """Mean of ``values`` (weighted by ``weights``, which sum to 1) and its standard error (ddof 1; None for one).

    What weighs nothing is no value: the error is over those that do.
    """
    values = np.asarray(values, dtype=float)
    count = len(values)
    weights = np.full(count, 1 / count) if weights is None else np.asarray(weights, dtype=float)
    count = int(np.count_nonzero(weights))
    mean = float(values @ weights)
    if count < 2:
        return mean, None
    return mean, float(np.sqrt(count / (count - 1) * (weights**2 @ (values - mean) ** 2)))


def mean_interval(mean: float, stderr: float | None, n: int) -> tuple[float | None, float | None]:
    """Student's 95 % interval of a mean of ``n`` values; None without a standard error."""
    if stderr is None:
        return None, None
    from scipy.special import stdtrit

    half = float(stdtrit(n - 1, 0.975)) * stderr
    return mean - half, mean + half


def share_interval(share: float | None, n: float) -> tuple[float | None, float | None]:
    """Wilson's 95 % interval of a share of ``n`` trials, inside [0, 1]; None where there is no share."""
    if share is None:
        return None, None
    middle = share + _Z**2 / (2 * n)
    half = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    whole = 1 + _Z**2 / n
    return max(0.0, (middle - half) / whole), min(1.0, (middle + half) / whole)
