"""Whether a measure, or a gap, says the same of a model when it is taken again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEAST = 0.5  # below this, repetitions of one model differ as much as models do: no ranking


def icc(values: Sequence[Sequence[float]] | np.ndarray) -> float | None:
    """Share of the variance that is between models: ICC(1) = (MSB - MSW) / (MSB + (k-1) MSW) (Shrout & Fleiss 1979).

    Args:
        values: The repetitions of each model. Where they are not equally many, k is their mean less their spread,
            (N - sum n_i^2 / N) / (models - 1), as in an analysis of variance with one way of unequal groups.

    Returns:
        At most 1; None for fewer than two models, where none is repeated, or where nothing varies.
    """
    groups = [np.asarray(v, dtype=float) for v in values]
    total, n = sum(map(len, groups)), len(groups)
    if n < 2 or total == n or min(map(len, groups)) < 1 or not all(np.isfinite(g).all() for g in groups):
        return None
    whole = np.concatenate(groups).mean()
    k = (total - sum(len(g) ** 2 for g in groups) / total) / (n - 1)
    between = sum(len(g) * float((g.mean() - whole) ** 2) for g in groups) / (n - 1)
    within = sum(float(((g - g.mean()) ** 2).sum()) for g in groups) / (total - n)
    scale = between + (k - 1) * within
    return float((between - within) / scale) if scale > 0 else None
