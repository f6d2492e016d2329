"""Extreme eigenpairs of a symmetric operator by Lanczos with full reorthogonalisation.

Three things make the answers trustworthy, each against a failure that was measured in other tools:

- every new vector is orthogonalised twice against the whole basis, so that no eigenvalue is returned twice
  (ghosts have small residuals; only lost orthogonality shows them);
- a pair counts as converged only when its residual ‖Hv − λv‖, computed from products and not from the recursion,
  is below the tolerance (the recursion's estimate is fiction below the accuracy of the products);
- a fresh start orthogonal to what was found looks for missed copies: from one start vector a Krylov space
  holds a multiple eigenvalue only once. A block of start vectors holds as many copies as it has vectors.

Dot products and the basis are float64 whatever the products are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..progress import report
from .krylov import Krylov, Matrix, Multiply

_COMPLETENESS_STEPS = 10


@dataclass(frozen=True)
class EigenPairs:
    """Eigenpairs of one end of the spectrum.

    Attributes:
        values: ``(k,)`` float64; descending at the top, ascending at the bottom.
        vectors: ``(k, n)`` float64, unit length, largest-magnitude entry positive.
        residuals: ``(k,)``, ‖Hv − λv‖ / |λ_max|, from products.
        converged: ``(k,)`` bool, residual at most the tolerance.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    converged: Tensor


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
        recursion: ``(m, m)``, the projected matrix before any restart; with one start vector, a quadrature of it.
    """

    top: EigenPairs
    bottom: EigenPairs
    krylov_products: int
    check_products: int
    orthogonality: float
    missed: int
    restarts: int
    recursion: Matrix


def rademacher(n: int, seed: int, index: int) -> Tensor:
    """The ``index``-th vector of random signs ``(n,)`` of a seed, float64, on the CPU so that devices agree."""
    bits = np.random.default_rng([seed, index]).integers(0, 2, n, dtype=np.int8)
    return torch.from_numpy(bits).double() * 2 - 1


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
    block: int = 1,
    basis_limit: int | None = None,
    keep_images: bool = True,
    complete: bool = True,
    start: Tensor | None = None,
    start_image: Tensor | None = None,
    least_steps: int = 0,
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
        block: Start vectors; a block finds multiple eigenvalues at once, for more products in all.
        basis_limit: Most basis vectors at a time (default: no limit); beyond it the space is restarted.
        keep_images: Keep the products with the basis, so that true residuals cost no further product.
        complete: Look for missed copies.
        start: Start with this vector ``(n,)`` instead of random signs, for example of a nearby problem.
        start_image: The product with the start vector, if it is known already.
        least_steps: Grow at least so many steps, for a density.

    Returns:
        The spectrum; ``converged`` flags say which pairs to trust.
    """
    generator = torch.Generator().manual_seed(seed)

    def fresh() -> Tensor:
        return torch.randn(n, generator=generator, dtype=torch.float64).to(device)

    # The first start is a Rademacher vector, so that its coefficients are also a trace probe. Later ones must
    # not be: signs are exactly orthogonal to simple eigenvectors such as (1, -1)/sqrt(2) half of the time.
    first = rademacher(n, seed, 0) if start is None else start
    rows = torch.stack([first.to(device, torch.float64), *(fresh() for _ in range(min(block, n) - 1))])
    limit = None if basis_limit is None else max(basis_limit, top + bottom + 3 * block + 4)
    space = Krylov(operator, rows, fresh, limit=limit, images=keep_images, first_image=start_image)
    # A residual says that an eigenvalue is near, the completeness check that none lies farther out: each gets half
    # of the tolerance, so that a value is no farther than the whole from the one it stands for.
    aim = tol / 2
    demand, checks = aim, 0
    while True:
        wanted = _grow_until(space, top, bottom, demand, max_products, least_steps)
        theta, u, _ = space.ritz()
        found = _found(space, u[:, wanted], operator)
        checks += 0 if keep_images else len(wanted)
        scale = max(float(np.abs(theta).max()), float(found.values.abs().max()))
        good = bool((found.residuals <= aim * scale).all()) or scale == 0
        if good or space.full or space.products >= max_products or demand < 1e-3 * aim:
            break
        demand /= 10  # the estimates were too kind: ask more of them before the next look
    upper, lower = found.take(range(len(wanted) - top, len(wanted))), found.take(range(bottom))
    extra = missed = 0
    if complete and not space.full:
        completed = _complete(operator, upper, lower, aim * scale, fresh, max_products - space.products, limit)
        upper, lower, extra, missed = completed
    scale = max([scale, *(float(f.values.abs().max()) for f in (upper, lower) if len(f.values))])
    both = torch.cat([upper.vectors, lower.vectors]) if top + bottom <= n else upper.vectors
    gram = both @ both.T - torch.eye(len(both), dtype=torch.float64, device=both.device)
    return Spectrum(
        upper.pairs(scale, tol, descending=True),
        lower.pairs(scale, tol, descending=False),
        space.products,
        checks + extra,
        float(gram.abs().max()) if len(both) else 0.0,
        missed,
        space.restarts,
        space.recursion(),
    )


@dataclass
class _Found:
    """Pairs with absolute residuals, ascending by value."""

    values: Tensor
    vectors: Tensor
    residuals: Tensor

    def take(self, which: range) -> _Found:
        index = torch.tensor(list(which), dtype=torch.long)
        return _Found(self.values[index], self.vectors[index.to(self.vectors.device)], self.residuals[index])

    def with_pair(self, value: Tensor, vector: Tensor, residual: Tensor, keep: int, *, largest: bool) -> _Found:
        values = torch.cat([self.values, value.reshape(1)])
        order = values.argsort()
        order = order[-keep:] if largest else order[:keep]
        vectors = torch.cat([self.vectors, vector[None]])[order.to(vector.device)]
        return _Found(values[order], vectors, torch.cat([self.residuals, residual.reshape(1)])[order])

    def pairs(self, scale: float, tol: float, *, descending: bool) -> EigenPairs:
        order = self.values.argsort(descending=descending)
        vectors = self.vectors[order.to(self.vectors.device)]
        if len(vectors):
            peak = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
            vectors = vectors * torch.where(peak < 0, -1.0, 1.0)
        relative = self.residuals[order] / scale if scale > 0 else torch.zeros_like(self.residuals)
        return EigenPairs(self.values[order], vectors, relative, relative <= tol)


def _grow_until(
    space: Krylov, top: int, bottom: int, demand: float, max_products: int, least_steps: int
) -> list[int]:
    """Grow until the estimates of all wanted pairs are below ``demand``; return their places, ascending."""
    while True:
        least = min(max(top + bottom, least_steps), space.room)  # fewer would give both ends the same vectors
        spent = space.products + space.pending > max_products
        if (not spent or space.size < min(top + bottom, space.room)) and not space.full:
            if space.must_restart:
                space.restart(_kept(space, top, bottom))
            space.grow()
        m = space.size
        wanted = [*range(min(bottom, m)), *range(max(0, m - top), m)]  # the ends may overlap in a tiny space
        done = spent or space.full
        if m < least and space.restarts == 0 and not done:
            continue
        theta, _, estimates = space.ritz()
        scale = float(np.abs(theta).max())
        report("eigenvalues", space.products, None, f"residual {estimates[wanted].max() / (scale or 1):.1e}")
        if m >= min(top + bottom, space.room) and (done or bool((estimates[wanted] <= demand * scale).all())):
            return wanted


def _kept(space: Krylov, top: int, bottom: int) -> list[int]:
    """Places of the Ritz vectors that survive a restart: the wanted ones, and as many beside them as fit in half."""
    m = space.size
    extra = max(0, (space.limit - top - bottom - space.pending) // 2)
    above = top + (extra * top) // (top + bottom)
    below = bottom + (extra * bottom) // (top + bottom) if bottom else 0
    most = max(top + bottom, space.limit - 2 * space.block)
    while above + below > min(m, most):
        above, below = (above - 1, below) if above - top >= below - bottom else (above, below - 1)
    return [*range(below), *range(m - above, m)]


def _found(space: Krylov, coefficients: Matrix, operator: Multiply) -> _Found:
    """Ritz vectors with Rayleigh quotients and residual norms from products, on the CPU."""
    vectors = space.combine(coefficients)
    if space.images is None:
        return _Found(*_explicit(operator, vectors))
    return _Found(*_from_products(vectors, space.combine(coefficients, images=True)))


def _explicit(operator: Multiply, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same from one further product per vector."""
    images = torch.stack([operator(v).to(v.device, torch.float64) for v in vectors])
    return _from_products(vectors, images)


def _from_products(vectors: Tensor, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    values = (vectors * images).sum(1)
    residuals = torch.linalg.vector_norm(images - values[:, None] * vectors, dim=1)
    return values.cpu(), vectors, residuals.cpu()


def _complete(
    operator: Multiply,
    upper: _Found,
    lower: _Found,
    margin: float,
    draw: Callable[[], Tensor],
    budget: int,
    limit: int | None,
) -> tuple[_Found, _Found, int, int]:
    """Look for copies that one start vector cannot see, and add them until none is left.

    A short Krylov run from a fresh start, orthogonal to everything found, meets a missed eigenvalue quickly
    when there is one: its Ritz value then lies beyond the innermost wanted one.
    """
    products = missed = 0
    top, bottom = len(upper.values), len(lower.values)
    while True:
        deflated = _orthonormal(torch.cat([upper.vectors, lower.vectors]))
        if len(deflated) >= deflated.shape[1]:
            break
        cap = None if limit is None else max(limit, _COMPLETENESS_STEPS + 2)
        space = Krylov(operator, draw()[None], draw, deflated=deflated, limit=cap)
        steps = min(_COMPLETENESS_STEPS, space.room)
        while space.size < steps:
            space.grow()
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
                space.restart(_kept(space, 1, 0) if above else _kept(space, 0, 1))
            space.grow()
        _, u, _ = space.ritz()
        vector = space.combine(u[:, [side]])[0]
        vector = vector / torch.linalg.vector_norm(vector)
        value, _, residual = _explicit(operator, vector[None])
        products += space.products + 1
        # In a small space one vector may belong to both ends.
        if top and float(value) > float(upper.values[0]) + (0.0 if above else margin):
            upper = upper.with_pair(value, vector, residual, top, largest=True)
        if bottom and float(value) < float(lower.values[-1]) - (margin if above else 0.0):
            lower = lower.with_pair(value, vector, residual, bottom, largest=False)
    return upper, lower, products, missed


def _orthonormal(vectors: Tensor) -> Tensor:
    """Orthonormal rows spanning ``vectors`` (the two ends may share vectors when nearly all are wanted)."""
    if not len(vectors):
        return vectors
    q, r = torch.linalg.qr(vectors.T)
    rows: Tensor = q[:, r.diagonal().abs() > 1e-8].T.contiguous()
    return rows
