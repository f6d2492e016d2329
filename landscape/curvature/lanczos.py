"""Extreme eigenpairs of a symmetric operator by Lanczos with full reorthogonalisation.

Three things make the answers trustworthy, each against a failure that was measured in other tools:

- every new vector is orthogonalised twice against the whole basis, so that no eigenvalue is returned twice
  (ghosts have small residuals; only lost orthogonality shows them);
- a pair counts as converged only when its residual ‖Hv − λv‖, computed with a product of its own, is below
  the tolerance (the estimate from the recursion is fiction below the accuracy of the products);
- a fresh start orthogonal to what was found looks for missed copies: from one start vector a Krylov space
  holds a multiple eigenvalue only once.

Dot products and the basis are float64 whatever the products are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..progress import report

Operator = Callable[[Tensor], Tensor]

_BREAKDOWN = 1e-13
_COMPLETENESS_STEPS = 10


@dataclass(frozen=True)
class EigenPairs:
    """Eigenpairs of one end of the spectrum.

    Attributes:
        values: ``(k,)`` float64; descending at the top, ascending at the bottom.
        vectors: ``(k, n)`` float64, unit length, largest-magnitude entry positive.
        residuals: ``(k,)``, ‖Hv − λv‖ / |λ_max| from explicit products.
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
        alpha, beta: The recursion's coefficients from the first start, for spectral densities.
    """

    top: EigenPairs
    bottom: EigenPairs
    krylov_products: int
    check_products: int
    orthogonality: float
    missed: int
    alpha: Tensor
    beta: Tensor


class _Krylov:
    """A Krylov space that grows one product at a time, kept orthogonal to ``deflated`` ``(d, n)``."""

    def __init__(self, operator: Operator, start: Tensor, deflated: Tensor, draw: Callable[[], Tensor]) -> None:
        self.operator, self.deflated, self.draw = operator, deflated, draw
        self.n = start.numel()
        self.basis = torch.empty((8, self.n), dtype=torch.float64, device=start.device)
        self.alpha: list[float] = []
        self.beta: list[float] = []
        self.products = 0
        self.basis[0] = self._orthogonal(start, 0)

    @property
    def room(self) -> int:
        return self.n - len(self.deflated)

    def _project_out(self, vector: Tensor, size: int) -> Tensor:
        for _ in range(2):  # once is not enough after cancellation
            vector = vector - self.basis[:size].T @ (self.basis[:size] @ vector)
            if len(self.deflated):
                vector = vector - self.deflated.T @ (self.deflated @ vector)
        return vector

    def _orthogonal(self, vector: Tensor, size: int) -> Tensor:
        """A unit vector along what ``vector`` holds beyond the space; drawn anew if that is rounding noise."""
        while True:
            rest = self._project_out(vector, size)
            norm = torch.linalg.vector_norm(rest)
            if norm > 1e-8 * torch.linalg.vector_norm(vector):
                rest = self._project_out(rest / norm, size)
                unit: Tensor = rest / torch.linalg.vector_norm(rest)
                return unit
            vector = self.draw()

    def grow(self) -> None:
        """One product, one more basis vector."""
        m = len(self.alpha)
        q = self.basis[m]
        w = self.operator(q).double()
        self.products += 1
        self.alpha.append(float(w @ q))
        w = self._project_out(w, m + 1)
        beta = float(torch.linalg.vector_norm(w))
        if m + 1 == len(self.basis):
            larger = torch.empty((2 * len(self.basis), self.n), dtype=torch.float64, device=w.device)
            larger[: m + 1] = self.basis
            self.basis = larger
        if m + 1 >= self.room:  # the space is all there is
            beta = 0.0
        elif beta <= _BREAKDOWN * max(map(abs, [*self.alpha, *self.beta])):  # an invariant subspace: go on elsewhere
            beta = 0.0
            self.basis[m + 1] = self._orthogonal(self.draw(), m + 1)
        else:
            self.basis[m + 1] = w / beta
        self.beta.append(beta)

    def ritz(self) -> tuple[Tensor, Tensor, Tensor]:
        """Ritz values ascending ``(m,)``, their coefficients ``(m, m)``, and residual estimates ``(m,)``."""
        off = torch.tensor(self.beta[:-1], dtype=torch.float64)
        t = torch.diag(torch.tensor(self.alpha, dtype=torch.float64)) + torch.diag(off, 1) + torch.diag(off, -1)
        theta, u = torch.linalg.eigh(t)
        return theta, u, (self.beta[-1] * u[-1]).abs()

    @property
    def full(self) -> bool:
        return len(self.alpha) >= self.room


def lanczos(
    operator: Operator,
    n: int,
    *,
    top: int,
    bottom: int = 0,
    tol: float = 1e-3,
    seed: int = 0,
    max_products: int = 1000,
    device: torch.device | str = "cpu",
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
        device: Where the vectors live.

    Returns:
        The spectrum; ``converged`` flags say which pairs to trust.
    """
    generator = torch.Generator().manual_seed(seed)

    def fresh() -> Tensor:
        return torch.randn(n, generator=generator, dtype=torch.float64).to(device)

    # The first start is a Rademacher vector, so that its coefficients are also a trace probe. Later ones must
    # not be: signs are exactly orthogonal to simple eigenvectors such as (1, -1)/sqrt(2) half of the time.
    signs = torch.randint(0, 2, (n,), generator=generator, dtype=torch.float64) * 2 - 1
    none = torch.empty((0, n), dtype=torch.float64, device=device)
    space = _Krylov(operator, signs.to(device), none, fresh)
    demand, checks = tol, 0
    while True:
        wanted = _grow_until(space, top, bottom, demand, max_products)
        theta, u, _ = space.ritz()
        vectors = (u[:, wanted].T.to(space.basis.device) @ space.basis[: len(theta)]).contiguous()
        values, residuals = _explicit(operator, vectors)
        checks += len(wanted)
        scale = max(float(theta.abs().max()), float(values.abs().max()))
        good = residuals <= tol * scale if scale > 0 else torch.ones_like(residuals, dtype=torch.bool)
        if bool(good.all()) or space.full or space.products >= max_products or demand < 1e-3 * tol:
            break
        demand /= 10  # the estimates were too kind: ask more of them before the next explicit check
    found = _Found(values, vectors, residuals)
    upper, lower = found.take(range(len(wanted) - top, len(wanted))), found.take(range(bottom))
    extra = missed = 0
    if not space.full:
        upper, lower, extra, missed = _complete(
            operator, upper, lower, tol * scale, fresh, max_products - space.products
        )
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
        torch.tensor(space.alpha, dtype=torch.float64),
        torch.tensor(space.beta[:-1], dtype=torch.float64),
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


def _grow_until(space: _Krylov, top: int, bottom: int, demand: float, max_products: int) -> list[int]:
    """Grow until the estimates of all wanted pairs are below ``demand``; return their places, ascending."""
    while True:
        least = min(top + bottom, space.room)  # fewer would give both ends the same vectors
        if (space.products < max_products or len(space.alpha) < least) and not space.full:
            space.grow()
        m = len(space.alpha)
        wanted = [*range(min(bottom, m)), *range(max(0, m - top), m)]  # the ends may overlap in a tiny space
        if m < least:
            continue
        theta, _, estimates = space.ritz()
        scale = float(theta.abs().max())
        report("eigenvalues", m, None, f"residual {float(estimates[wanted].max()) / (scale or 1):.1e}")
        if space.full or space.products >= max_products or bool((estimates[wanted] <= demand * scale).all()):
            return wanted


def _explicit(operator: Operator, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Rayleigh quotients and residual norms from one product per vector, on the CPU."""
    values, residuals = [], []
    for v in vectors:
        product = operator(v).double()
        value = product @ v
        values.append(value)
        residuals.append(torch.linalg.vector_norm(product - value * v))
    return torch.stack(values).cpu(), torch.stack(residuals).cpu()


def _complete(
    operator: Operator, upper: _Found, lower: _Found, margin: float, draw: Callable[[], Tensor], budget: int
) -> tuple[_Found, _Found, int, int]:
    """Look for copies that one start vector cannot see, and add them until none is left.

    A short Krylov run from a fresh start, orthogonal to everything found, meets a missed eigenvalue quickly
    when there is one: its Ritz value then lies beyond the innermost wanted one.
    """
    products = missed = 0
    top, bottom = len(upper.values), len(lower.values)
    while True:
        deflated = _orthonormal(torch.cat([upper.vectors, lower.vectors]))
        space = _Krylov(operator, draw(), deflated, draw) if len(deflated) < deflated.shape[1] else None
        if space is None:
            break
        steps = min(_COMPLETENESS_STEPS, space.room)
        while len(space.alpha) < steps:
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
            theta, _, estimates = space.ritz()
            if float(estimates[side]) <= 0.5 * margin:
                break
            space.grow()
        theta, u, _ = space.ritz()
        vector = u[:, side].to(deflated.device) @ space.basis[: len(theta)]
        vector = vector / torch.linalg.vector_norm(vector)
        value, residual = _explicit(operator, vector[None])
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
