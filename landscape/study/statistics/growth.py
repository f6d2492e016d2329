"""Whether a difference between methods grows along an axis: differences of differences."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...specs.study import StudyReportSpec
from ..table import Table
from .paired import Effect, crossed_effect, enough, independent
from .pairing import axes_of, baseline_of, couples_of, groups_of, values_of


def growth(
    table: Table, spec: StudyReportSpec, method: str, quantity: str, axis: str
) -> tuple[Effect | None, float | None] | None:
    """How the difference between a method and the baseline changes along an axis: a difference of differences.

    Its values are taken in order (of size, if they are numbers) and at equal distances; of every setting and seed
    that is there at all of them the straight line of least squares says how much the difference changes from the
    first value to the last.

    Args:
        table: The models.
        spec: How they are compared; ``axis`` is one of ``within``.
        method: The competitor.
        quantity: What is compared.
        axis: Along which axis.

    Returns:
        The mean change with its interval and p-value (None: too few independent ones), and the baseline's mean; None
        if there is no such comparison.
    """
    if axis not in spec.within:
        return None
    axes = axes_of(table.models, spec)
    groups = groups_of(table.models, axes)
    if len(groups) < 2:
        return None
    apart = (*axes, *spec.within)
    found: dict[Any, dict[tuple[Any, int], float]] = {}
    means = []
    for name, at, couples in couples_of(table.models, spec, axes, baseline_of(groups, spec)):
        others = tuple(v for k, v in at.items() if k != axis)
        for difference, mean, setting, seed in values_of(couples, quantity, apart) if name == method else ():
            found.setdefault(at[axis], {})[(setting, others), seed] = difference
            means.append(mean)
    levels = sorted(found) if all(isinstance(v, (int, float)) for v in found) else list(found)
    if len(levels) < 2:
        return None
    everywhere = [k for k in found[levels[0]] if all(k in found[level] for level in levels)]
    place = np.arange(len(levels)) - (len(levels) - 1) / 2
    line = place * (len(levels) - 1) / (place @ place)
    changes = [float(line @ [found[level][k] for level in levels]) for k in everywhere]
    settings, seeds = [s for s, _ in everywhere], [r for _, r in everywhere]
    whole = crossed_effect(changes, settings, seeds) if enough(*independent(settings, seeds)) else None
    return whole, float(np.mean(means))
