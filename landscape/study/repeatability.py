"""Whether a measure says the same of a model when it is taken again."""

from __future__ import annotations

from typing import Any

import numpy as np

LEAST = 0.5  # below this, repetitions of one model differ as much as models do: no ranking


def icc(values: Any) -> float | None:
    """Share of the variance that is between models: ICC(1) = (MSB - MSW) / (MSB + (k-1) MSW) (Shrout & Fleiss 1979).

    Args:
        values: Shape ``(models, repetitions)``.

    Returns:
        At most 1; None for fewer than two models or repetitions, or where nothing varies.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 2 or min(values.shape) < 2 or not np.isfinite(values).all():
        return None
    n, k = values.shape
    means = values.mean(1)
    between = k * float(((means - means.mean()) ** 2).sum()) / (n - 1)
    within = float(((values - means[:, None]) ** 2).sum()) / (n * (k - 1))
    scale = between + (k - 1) * within
    return (between - within) / scale if scale > 0 else None
