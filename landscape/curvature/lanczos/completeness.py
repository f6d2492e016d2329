"""Copies of eigenvalues that one start vector cannot see.

From one start vector a Krylov space holds a multiple eigenvalue only once, and neither residuals nor orthogonality
show that. A run from a fresh start, orthogonal to everything found, meets a missed copy quickly when there is one:
its Ritz value then lies beyond the innermost wanted one.

What that promises: of an eigenvalue that stands clear of the rest of the spectrum by a tenth of its range or more, a
second copy is found (a double one over a uniform bulk, in each of twelve seeds). Closer to the bulk ten steps may
not see it (missed in 3 of 12 seeds at 5 %, in 7 at 2 %). A block of two start vectors holds both copies whatever
their distance, for more products where eigenvalues are simple.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .krylov import Krylov, Matrix, Multiply
from .pairs import Found

_STEPS = 10


@dataclass(frozen=True)
class Completed:
    """Both ends with what was missed.

    Attributes:
        upper: The upper end.
        lower: The lower end.
        products: What the search took.
        missed: How many copies it added.
        first: ``(m, m)``, the projected matrix of the first search, which is orthogonal to what was found before.
    """

    upper: Found
    lower: Found
    products: int
    missed: int
    first: Matrix | None


def complete(
    operator: Multiply,
    upper: Found,
    lower: Found,
    beside: Found,
    *,
    margin: float,
    draw: Callable[[], Tensor],
    budget: int,
    limit: int | None,
    least_steps: int = 0,
) -> Completed:
    """Look for missed copies, and add them until none is left.

    Args:
        operator: The operator.
        upper: Pairs found at the upper end, ascending.
        lower: Pairs found at the lower end, ascending.
        beside: All pairs that are known, these included, orthogonal to each other.
        margin: How far beyond the innermost wanted value another one has to lie.
        draw: Gives random vectors ``(n,)``.
        budget: Most products of one search.
        limit: Most basis vectors at a time.
        least_steps: Steps of the first search, for a density; at least ten.
    """
    products = missed = 0
    first: Matrix | None = None
    top, bottom = len(upper.values), len(lower.values)
    deflated = beside.vectors
    while len(deflated) < deflated.shape[1]:
        asked = max(_STEPS, least_steps) if first is None else _STEPS
        cap = None if limit is None else max(limit, asked + 2)
        space = Krylov(operator, draw()[None], draw, deflated=deflated, limit=cap)
        steps = min(asked, space.room)
        while space.size < steps:
            space.grow()
        first = space.recursion() if first is None else first
        theta, _, _ = space.ritz()
        above = top > 0 and float(theta[-1]) > float(upper.values[0]) + margin
        below = bottom > 0 and float(theta[0]) < float(lower.values[-1]) - margin
        if not (above or below):
            products += space.products
            break
        missed += 1
        side = -1 if above else 0
        while not space.full and space.products < max(budget, steps):
            _, _, estimates = space.ritz()
            if float(estimates[side]) <= 0.5 * margin:
                break
            if space.must_restart:
                space.restart(kept(space, 1, 0) if above else kept(space, 0, 1))
            space.grow()
        _, u, _ = space.ritz()
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
    return Completed(upper, lower, products, missed, first)


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
