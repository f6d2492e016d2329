"""Extreme eigenpairs of a symmetric operator by Lanczos with full reorthogonalisation.

Three things make the answers trustworthy, each against a failure that was measured in other tools:

- every new vector is orthogonalised twice against the whole basis, so that no eigenvalue is returned twice
  (ghosts have small residuals; only lost orthogonality shows them);
- a pair counts as converged only when its residual ‖Hv − λv‖, computed from products and not from the recursion,
  is below the tolerance (the recursion's estimate is fiction below the accuracy of the products);
- from one start vector a Krylov space holds a multiple eigenvalue only once, with small residuals. Two start
  vectors hold two copies; and where two are seen, a fresh start orthogonal to what was found looks for others.

Dot products and the basis are float64 whatever the products are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...base.progress import Forecast, report
from ...numerics.draws import Draws
from .completeness import complete as completed
from .completeness import kept
from .krylov import Krylov, Matrix, Multiply
from .pairs import EigenPairs, Found
from .subspace import Subspace

_OUTLIER = 10  # tolerances: what lies so far from zero is an eigenvalue of its own, not a part of the bulk


@dataclass(frozen=True)
class KrylovRun:
    """A Lanczos run from a random start, as a quadrature of the spectrum.

    Attributes:
        projected: ``(m, m)``, the projected matrix.
        apart: ``(p,)``, eigenvalues whose vectors the run is orthogonal to.
        start: Place of the start vector in the basis.
    """

    projected: Matrix
    apart: Matrix
    start: int = 0


@dataclass(frozen=True)
class Extreme:
    """An eigenvalue at the lower end that nobody asked for, but that exceeds all that are reported in magnitude.

    Attributes:
        value: The Rayleigh quotient, negative; the smallest eigenvalue is no larger.
        residual: ‖Hv − λv‖ / |λ_max|, from products.
        converged: Residual at most the tolerance.
    """

    value: float
    residual: float
    converged: bool


@dataclass(frozen=True)
class Spectrum:
    """What a run found.

    Attributes:
        top: The algebraically largest pairs.
        bottom: The algebraically smallest pairs.
        krylov_products: Products spent on building Krylov spaces.
        check_products: Products spent on residuals and on the completeness check.
        orthogonality: Largest entry of |VVᵀ − I| over the returned vectors.
        missed: Copies that the completeness check added.
        restarts: How often the space was cut down to fit.
        runs: The run before any restart, once for each of its random start vectors.
        settled: The wanted pairs, and converged ones beside them that lie clearly outside the bulk.
        known: The Krylov space, if its products were kept, else the span of the wanted pairs.
        scale: |λ_max|, the largest magnitude of an eigenvalue, which residuals are relative to.
        extreme: The eigenvalue of that magnitude where it is negative and not among ``bottom``.
    """

    top: EigenPairs
    bottom: EigenPairs
    krylov_products: int
    check_products: int
    orthogonality: float
    missed: int
    restarts: int
    runs: list[KrylovRun]
    settled: Found
    known: Subspace
    scale: float
    extreme: Extreme | None


def lanczos(
    operator: Multiply,
    n: int,
    *,
    top: int,
    bottom: int = 0,
    tol: float = 1e-3,
    seed: int = 0,
    max_products: int = 1000,
    device: torch.device | str = "cpu",
    block: int = 2,
    basis_limit: int | None = None,
    keep_images: bool = True,
    complete: bool = True,
    start: Tensor | None = None,
    least_steps: int = 0,
    draws: Draws | None = None,
    watch: Callable[[Krylov], None] | None = None,
) -> Spectrum:
    """Find the ``top`` algebraically largest and ``bottom`` smallest eigenpairs.

    Args:
        operator: Maps a float64 vector ``(n,)`` to the product ``(n,)``, in any floating type; symmetric.
        n: Dimension.
        top: Wanted pairs at the upper end, at most ``n``.
        bottom: Wanted pairs at the lower end, at most ``n``.
        tol: Largest residual ‖Hv − λv‖ / |λ_max| of a converged pair.
        seed: Seed of the start vectors, drawn on the CPU so that devices agree.
        max_products: Budget for Krylov spaces; pairs that miss the tolerance then are marked, not hidden.
        device: Where the basis lives.
        block: Start vectors: as many copies of an eigenvalue are found at once.
        basis_limit: Most basis vectors at a time (default: no limit); beyond it the space is restarted.
        keep_images: Keep the products with the basis, so that true residuals cost no further product.
        complete: Look for missed copies.
        start: The first start vector ``(n,)`` instead of a random one, for example of a nearby problem.
        least_steps: For a density: grow until there are as many nodes for each start vector, the eigenvalues that
            are known by then included.
        draws: Of random vectors; None: of plain ones on ``device``.
        watch: Called with the space after every block of products.

    Returns:
        The spectrum; ``converged`` flags say which pairs to trust.
    """
    generator = torch.Generator().manual_seed(seed)
    random = (draws or Draws(n)).on(device)

    def fresh() -> Tensor:
        return random.normal(generator)

    # Not signs: they are exactly orthogonal to simple eigenvectors such as (1, -1)/sqrt(2) half of the time.
    rows = torch.stack([fresh() for _ in range(min(block, n))])
    if start is not None:
        rows[0] = start
    limit = None if basis_limit is None else max(basis_limit, top + bottom + 3 * block + 4)
    space = Krylov(operator, rows, fresh, limit=limit, images=keep_images, drawn=int(start is not None))
    # A residual says that an eigenvalue is near, the completeness check that none lies farther out: each gets half
    # of the tolerance, so that a value is no farther than the whole from the one it stands for.
    aim = tol / 2
    demand, checks = aim, 0
    while True:
        wanted = _grow_until(space, top, bottom, demand, max_products, least_steps, tol, watch)
        theta, u, estimates = space.ritz()
        scale, whole = float(np.abs(theta).max()), space.full
        unasked = [0] if bottom == 0 and -theta[0] > np.abs(theta[1:]).max(initial=0.0) and 0 not in wanted else []
        chosen = sorted({*wanted, *(_settled(theta, estimates, tol, least_steps) if keep_images else ())})
        if keep_images:
            found = Found.of(space.combine(u[:, chosen]), space.combine(u[:, chosen], images=True))
            lowest = Found.of(space.combine(u[:, unasked]), space.combine(u[:, unasked], images=True))
        else:
            turned = space.turned([*unasked, *chosen])  # one space: each vector costs a product
            lowest = Found.multiplied(operator, turned[: len(unasked)])
            found = Found.multiplied(operator, turned[len(unasked) :])
            checks += len(unasked) + len(chosen)
        ends = found.take([chosen.index(i) for i in wanted])
        scale = max(scale, float(ends.values.abs().max()))
        good = bool((ends.residuals <= aim * scale).all()) or scale == 0
        if good or whole or space.products >= max_products or demand < 1e-3 * aim:
            break
        demand /= 10  # the estimates were too kind: ask more of them before the next look
    upper, lower = ends.take(range(len(wanted) - top, len(wanted))), ends.take(range(bottom))
    drawn = range(0 if start is None else 1, len(rows))
    runs = [KrylovRun(space.recursion(), np.zeros(0), i) for i in drawn]
    extra = missed = 0
    if complete and not whole:
        more = completed(
            operator,
            upper,
            lower,
            found,
            block=len(rows),
            margin=aim * scale,
            scale=scale,
            draw=fresh,
            budget=max_products - space.products,
            limit=limit,
        )
        upper, lower, extra, missed = more.upper, more.lower, more.products, more.missed
    scale = max([scale, *(float(f.values.abs().max()) for f in (upper, lower) if len(f.values))])
    both = torch.cat([upper.vectors, lower.vectors]) if 0 < bottom <= n - top else upper.vectors
    gram = both @ both.T - torch.eye(len(both), dtype=torch.float64, device=both.device)
    orthogonality = float(gram.abs().max()) if len(both) else 0.0
    return Spectrum(
        upper.pairs(scale, tol, descending=True),
        lower.pairs(scale, tol, descending=False),
        space.products,
        checks + extra,
        orthogonality,
        missed,
        space.restarts,
        runs,
        found,
        space.known() if keep_images else found.subspace(),
        scale,
        _extreme(lowest, scale, tol),
    )


def _extreme(lowest: Found, scale: float, tol: float) -> Extreme | None:
    if not len(lowest.values) or float(lowest.values[0]) >= 0:
        return None
    residual = float(lowest.residuals[0]) / scale
    return Extreme(float(lowest.values[0]), residual, residual <= tol)


def _settled(theta: Matrix, estimates: Matrix, tol: float, steps: int) -> list[int]:
    """Places of converged Ritz pairs outside the bulk, the largest in magnitude, at most half as many as steps."""
    tolerance = tol * float(np.abs(theta).max())
    order = np.argsort(-np.abs(theta))
    sure = [int(i) for i in order if estimates[i] <= tolerance and abs(theta[i]) >= _OUTLIER * tolerance]
    return sure[: steps // 2]


def _grow_until(
    space: Krylov,
    top: int,
    bottom: int,
    demand: float,
    max_products: int,
    least_steps: int,
    tol: float,
    watch: Callable[[Krylov], None] | None,
) -> list[int]:
    """Grow until the estimates of all wanted pairs are below ``demand``; return their places, ascending."""
    b, forecast = space.block, Forecast()
    while True:
        least = min(top + bottom, space.room)  # fewer would give both ends the same vectors
        spent = space.products + space.pending > max_products
        if (not spent or space.size < least) and not space.full:
            if space.must_restart:
                space.restart(kept(space, top, bottom))
            space.grow()
            if watch is not None:
                watch(space)
        m = space.size
        wanted = [*range(min(bottom, m)), *range(max(0, m - top), m)]  # the ends may overlap in a tiny space
        done = spent or space.full
        if m < least:
            continue
        theta, _, estimates = space.ritz()
        scale = float(np.abs(theta).max())
        worst, due = float(estimates[wanted].max()) / (scale or 1), 0
        if least_steps and space.restarts == 0 and not done:
            known = len(_settled(theta, estimates, tol, least_steps))  # holds for all start vectors at once
            due = b * least_steps - (b - 1) * known
        total = forecast.total(space.products, worst, demand, max_products)
        if due > m or total is not None:
            total = max(total or 0, space.products - m + due, space.products + 1)
        report("eigenvalues", space.products, total, f"residual {worst:.1e} of {demand:.1e}")
        if m < due:
            continue
        if done or bool((estimates[wanted] <= demand * scale).all()):
            return wanted
