"""Two methods compared pair by pair: exact sign flips, Holm's correction, effect sizes with intervals.

Pairs of one setting (a domain held out, a batch size) are not independent if a method's effect varies over settings,
nor are those of one seed if settings share seeds. Sign flips of single pairs then find "effects" in 16 to 33 % of
studies where there is none. So whole settings are flipped, and whole seeds, and what is said is what both allow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...numerics.intervals import mean_and_stderr, mean_interval

FEWEST = 6  # 2^(1-5) = 0.0625: sign flips of five differences can never reach 0.05
FEWEST_MEANS = 3  # of means of settings or seeds, whose Student's t is taken where flips cannot reach 0.05
_EXACT = 20  # all sign patterns of so many pairs are tried
_CHUNK = 2**16


@dataclass(frozen=True)
class Effect:
    """The mean difference of pairs.

    Attributes:
        n: Number of independent differences: of pairs, or of the settings or seeds that they stand for.
        by: What is taken for independent: ``pair``, ``setting`` or ``seed``.
        mean: Mean difference.
        low: Lower end of Student's 95 % interval of the mean; None for one pair.
        high: Upper end.
        std: Standard deviation of the differences (ddof 1); None for one pair.
        size: Cohen's d of pairs, mean / std; None where there is no spread.
        size_low: Lower end of its 95 % interval, by the noncentral t distribution.
        size_high: Upper end.
        p: Two-sided p-value of `sign_flip_p`; of Student's t for fewer than six means of settings or seeds.
    """

    n: int
    by: str
    mean: float
    low: float | None
    high: float | None
    std: float | None
    size: float | None
    size_low: float | None
    size_high: float | None
    p: float


def sign_flip_p(differences: object) -> float:
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


def effect(differences: object, by: str = "pair") -> Effect:
    """Everything about the mean of independent differences."""
    differences = np.asarray(differences, dtype=float)
    n = len(differences)
    mean, stderr = mean_and_stderr(differences)
    low, high = mean_interval(mean, stderr, n)
    std = float(differences.std(ddof=1)) if n > 1 else None
    size = mean / std if std else None
    size_low, size_high = size_interval(size, n) if size is not None else (None, None)
    few = by != "pair" and n < FEWEST  # means are nearer to normal than single differences
    p = _student_p(mean, stderr, n) if few else sign_flip_p(differences)
    return Effect(n, by, mean, low, high, std, size, size_low, size_high, p)


def _student_p(mean: float, stderr: float | None, n: int) -> float:
    from scipy.special import stdtr

    if n < 2 or stderr is None or not stderr:
        return float(n < 2 or mean == 0)
    return 2 * float(stdtr(n - 1, -abs(mean) / stderr))


def crossed_effect(differences: object, settings: Sequence[object], seeds: Sequence[object]) -> Effect:
    """The mean difference of pairs that share settings and seeds, said as carefully as either makes necessary.

    Settings may differ in what a method does, so that another choice of settings would have shown another mean; so
    may seeds. One mean per setting is flipped and makes an interval, and one per seed: each is valid if its own kind
    varies. The larger p counts, and the interval holds both, so that what is said is valid whichever of them varies.
    Missing pairs leave a setting fewer of them; it counts as one all the same.

    Args:
        differences: One per pair.
        settings: Setting of each pair: everything but method and seed.
        seeds: Seed of each pair.
    """
    differences = np.asarray(differences, dtype=float)
    found = [
        effect(means, by)
        for by, names in (("setting", settings), ("seed", seeds))
        if 1 < len(means := _means(differences, names)) < len(differences)
    ]
    if not found:
        return effect(differences)
    careful = max(found, key=lambda e: (e.p, _width(e)))
    low = min((e.low for e in found if e.low is not None), default=None)
    high = max((e.high for e in found if e.high is not None), default=None)
    return replace(careful, low=low, high=high)


def independent(settings: Sequence[object], seeds: Sequence[object]) -> tuple[int, str]:
    """How many independent differences `crossed_effect` will have at least, and of what."""
    pairs = len(settings)
    counts = {"setting": len(set(settings)), "seed": len(set(seeds))}
    shared = {by: n for by, n in counts.items() if 1 < n < pairs}
    by = min(shared, key=lambda k: shared[k], default="pair")
    return (shared[by], by) if shared else (pairs, "pair")


def enough(n: int, by: str) -> bool:
    """Whether so many independent differences can ever show anything."""
    return n >= (FEWEST if by == "pair" else FEWEST_MEANS)


def _means(differences: Any, names: Sequence[Any]) -> list[float]:
    members: dict[Any, list[float]] = {}
    for name, value in zip(names, differences, strict=True):
        members.setdefault(name, []).append(float(value))
    return [float(np.mean(values)) for values in members.values()]


def _width(found: Effect) -> float:
    return math.inf if found.low is None or found.high is None else found.high - found.low


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
