"""Copies of eigenvalues that the start vectors cannot see.

From b start vectors a Krylov space holds at most b copies of an eigenvalue, and neither residuals nor orthogonality
show whether there are more. Where it holds b, which is seen, a further run from a fresh start, orthogonal to
everything found, looks for others until its outermost Ritz value is as sure as the eigenvalues that were asked for;
if that lies beyond the innermost wanted one, it was missed, is added, and the search goes on.

What that promises: with two start vectors or more nothing is assumed about how far the copies lie from the rest of
the spectrum, as they converge like any other eigenvalue. With one start vector every eigenvalue may have a further
copy, and there is always a search.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...base.progress import Forecast, report
from .krylov import Krylov, Multiply
from .pairs import Found

_LEAST_STEPS = 10
_ROUNDING = 1e-5  # of the largest eigenvalue: how far apart rounded products may put two copies


@dataclass(frozen=True)
class Completed:
    """Both ends with what was missed.

    Attributes:
        upper: The upper end.
        lower: The lower end.
        products: What the search took.
        missed: How many copies it added.
    """

    upper: Found
    lower: Found
    products: int
    missed: int


def complete(
    operator: Multiply,
    upper: Found,
    lower: Found,
    beside: Found,
    *,
    block: int,
    margin: float,
    scale: float,
    draw: Callable[[], Tensor],
    budget: int,
    limit: int | None,
) -> Completed:
    """Look for missed copies, and add them until none is left.

    Args:
        operator: The operator.
        upper: Pairs found at the upper end, ascending.
        lower: Pairs found at the lower end, ascending.
        beside: All pairs that are known, these included, orthogonal to each other.
        block: Start vectors that they were found from.
        margin: How far beyond the innermost wanted value another one has to lie.
        scale: The largest magnitude of an eigenvalue.
        draw: Gives random vectors ``(n,)``.
        budget: Most products of one search.
        limit: Most basis vectors at a time.
    """
    products = missed = 0
    top, bottom = len(upper.values), len(lower.values)
    deflated = beside.vectors
    cap = None if limit is None else max(limit, _LEAST_STEPS + 2)
    while len(deflated) < deflated.shape[1] and (
        may_be_more(upper, block, margin, scale, inner=0) or may_be_more(lower, block, margin, scale, inner=-1)
    ):
        space = Krylov(operator, draw()[None], draw, deflated=deflated, limit=cap)
        _search(space, top, bottom, margin, budget)
        theta, u, _ = space.ritz()
        above = top > 0 and float(theta[-1]) > float(upper.values[0]) + margin
        below = bottom > 0 and float(theta[0]) < float(lower.values[-1]) - margin
        if not (above or below):
            products += space.products
            break
        missed += 1
        side = -1 if above else 0
        vector = space.combine(u[:, [side]])
        more = Found.multiplied(operator, vector / torch.linalg.vector_norm(vector))
        value = float(more.values)
        products += space.products + 1
        # In a small space one vector may belong to both ends.
        if top and value > float(upper.values[0]) + (0.0 if above else margin):
            upper = upper.with_pair(more, top, largest=True)
        if bottom and value < float(lower.values[-1]) - (margin if above else 0.0):
            lower = lower.with_pair(more, bottom, largest=False)
        deflated = orthonormal(torch.cat([deflated, more.vectors]))
    return Completed(upper, lower, products, missed)


def may_be_more(found: Found, block: int, margin: float, scale: float, *, inner: int) -> bool:
    """Whether an eigenvalue of which ``block`` copies were found would change the wanted ones by a further copy.

    Two Ritz values belong to one eigenvalue only if they differ by no more than their residuals: within its residual
    of each there is an eigenvalue.

    Args:
        found: Pairs of one end, ascending.
        block: Start vectors.
        margin: How far from the innermost a value has to lie for a further copy of it to matter.
        scale: The largest magnitude of an eigenvalue.
        inner: Place of the innermost one.
    """
    if not len(found.values):
        return False
    if block == 1:
        return True
    values, residuals = found.values.numpy(), found.residuals.numpy() + _ROUNDING / 2 * scale
    outer = np.abs(values - values[inner]) > margin
    values, residuals = values[outer], residuals[outer]
    first, last = slice(None, len(values) - block + 1), slice(block - 1, None)
    return bool((values[last] - values[first] <= residuals[last] + residuals[first]).any())


def _search(space: Krylov, top: int, bottom: int, margin: float, budget: int) -> None:
    """Grow until the outermost Ritz values are within ``margin`` of an eigenvalue, but at least ten steps."""
    forecast = Forecast()
    sides = [*([-1] if top else []), *([0] if bottom else [])]
    while not space.full and space.products < max(budget, _LEAST_STEPS):
        if space.must_restart:
            space.restart(kept(space, min(top, 1), min(bottom, 1)))
        space.grow()
        worst = float(space.ritz()[2][sides].max())
        total = forecast.total(space.products, worst, margin, max(budget, _LEAST_STEPS))
        report("missed copies", space.products, total and max(total, _LEAST_STEPS))
        if space.products >= _LEAST_STEPS and worst <= margin:
            break
    report("missed copies", space.products, space.products)


def kept(space: Krylov, top: int, bottom: int) -> Sequence[int]:
    """Places of the Ritz vectors that survive a restart: the wanted ones, and as many beside them as fit in half."""
    m = space.size
    extra = max(0, (space.limit - top - bottom - space.pending) // 2)
    above = top + (extra * top) // (top + bottom)
    below = bottom + (extra * bottom) // (top + bottom) if bottom else 0
    most = max(top + bottom, space.limit - 2 * space.block)
    while above + below > min(m, most):
        above, below = (above - 1, below) if above - top >= below - bottom else (above, below - 1)
    return [*range(below), *range(m - above, m)]


def orthonormal(vectors: Tensor) -> Tensor:
    """Orthonormal rows spanning ``vectors``, of which some may be the same."""
    q, r = torch.linalg.qr(vectors.T)
    rows: Tensor = q[:, r.diagonal().abs() > 1e-8].T.contiguous()
    return rows
