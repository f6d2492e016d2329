"""How often a measure orders two settings wrongly, and where worst (Dziugaite et al. 2020, arXiv 2010.11924).

An environment is a pair of configurations that differ in one hyper-parameter. Its loss is the mean over pairs of
seeds of the sign error, weighted by how surely the difference of the two gaps is more than noise of the test set
(Hoeffding). Environments with too few effective pairs are left out; a mean over environments hides the worst.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from ..factors import Factors, nested, varying

EFFECTIVE_PAIRS = 12.0  # Kish's effective number of pairs that an environment needs


@dataclass(frozen=True)
class Environment:
    """Two configurations that differ in one hyper-parameter.

    Attributes:
        factor: The hyper-parameter.
        values: Its two values.
        rest: The values of all others.
        loss: Weighted mean sign error in [0, 1]; 0.5 is chance.
        effective_pairs: Kish's effective number of pairs of seeds.
    """

    factor: str
    values: tuple[Any, Any]
    rest: Mapping[str, Any]
    loss: float
    effective_pairs: float


def hoeffding_weight(difference: object, n: int) -> Any:
    """max(0, 1 - 2 exp(-2 n (d/2)^2))^2: how surely two gaps that differ by ``d`` on ``n`` examples differ truly."""
    return np.maximum(0.0, 1 - 2 * np.exp(-2 * n * (np.asarray(difference, dtype=float) / 2) ** 2)) ** 2


def detectable_gap(n: int) -> float:
    """The difference of two error gaps on ``n`` test examples that has weight above one half."""
    return math.sqrt(-2 * math.log((1 - math.sqrt(0.5)) / 2) / n)


def environments(measure: object, gap: object, factors: Factors, n: int) -> tuple[list[Environment], int]:
    """The loss of every environment with enough pairs, and how many environments there are.

    Args:
        measure: A value per model.
        gap: A gap of error rates per model, in [-1, 1] (Hoeffding's inequality needs bounded losses).
        factors: Hyper-parameters, without the seed; models with equal values are seeds of one configuration.
        n: Number of test examples.
    """
    measure, gap = np.asarray(measure, dtype=float), np.asarray(gap, dtype=float)
    factors = varying(factors)
    inner, names = nested(factors), list(factors)
    members: dict[tuple[Any, ...], list[int]] = {}
    for place in range(len(gap)):
        members.setdefault(tuple(factors[k][place] for k in names), []).append(place)
    kept, there = [], 0
    for a, b in combinations(members, 2):
        factor = _only_difference(names, a, b, inner)
        if factor is None:
            continue
        there += 1
        one, other = np.array(members[a]), np.array(members[b])
        loss, effective = _loss(measure, gap, one, other, n)
        if loss is None or effective < EFFECTIVE_PAIRS:
            continue
        where = names.index(factor)
        rest = {k: v for k, v, w in zip(names, a, b, strict=True) if v == w}
        kept.append(Environment(factor, (a[where], b[where]), rest, loss, effective))
    return kept, there


def _only_difference(
    names: Sequence[str], a: tuple[object, ...], b: tuple[object, ...], inner: Mapping[str, set[str]]
) -> str | None:
    different = [k for k, v, w in zip(names, a, b, strict=True) if v != w]
    for name in different:
        if set(different) - {name} <= inner[name]:
            return name
    return None


def _loss(measure: Any, gap: Any, one: object, other: object, n: int) -> tuple[float | None, float]:
    differences = gap[one][:, None] - gap[other][None, :]
    weights = np.maximum(hoeffding_weight(np.abs(differences), n) - 0.5, 0)
    total = float(weights.sum())
    if total <= 0:
        return None, 0.0
    errors = (1 - np.sign(measure[one][:, None] - measure[other][None, :]) * np.sign(differences)) / 2
    return float((weights * errors).sum() / total), total**2 / float((weights**2).sum())


def summary(kept: Sequence[Environment]) -> dict[str, Any]:
    """The worst environment, the 90th percentile and, last, the mean."""
    if not kept:
        return {"max": None, "percentile_90": None, "mean": None, "worst": None}
    losses = [e.loss for e in kept]
    worst = max(kept, key=lambda e: e.loss)
    return {
        "max": max(losses),
        "percentile_90": float(np.percentile(losses, 90)),
        "mean": float(np.mean(losses)),
        "worst": {"factor": worst.factor, "values": list(worst.values), "rest": dict(worst.rest)},
    }
