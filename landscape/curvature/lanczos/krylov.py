"""A Krylov space of a symmetric operator: grown by blocks, kept orthogonal, restarted when it may not grow further.

All numbers besides the products are float64. The projected matrix QᵀHQ is stored whole, so that a restarted space
(thick restart: Wu and Simon 2000, SIAM J. Matrix Anal. Appl. 22) and a space of blocks (Golub and Underwood 1977)
are the same object as the plain Lanczos recursion, whose tridiagonal matrix it then is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...base.errors import NumericalError
from ...runtime.devices import wide
from ...sharding.vectors import like, own_part
from .subspace import Subspace

Matrix = NDArray[np.float64]
Multiply = Callable[[Tensor], Tensor]
"""Maps a float64 vector ``(n,)`` to its product ``(n,)`` with the operator, in any floating type."""

BREAKDOWN = 1e-13
_COLUMNS = 1 << 16


def read(tensor: Tensor) -> Matrix:
    """Bring numbers to the host: the one place where a step waits for the device."""
    array: Matrix = tensor.cpu().numpy()
    return array


class Krylov:
    """An orthonormal basis ``Q`` ``(size, n)`` of a Krylov space, and ``QᵀHQ``.

    Args:
        multiply: The operator.
        start: First block, rows ``(b, n)``, made orthonormal here; ``b`` is the block size from then on.
        draw: Gives fresh random vectors ``(n,)``, for invariant subspaces.
        deflated: Orthonormal rows ``(d, n)``; the space stays orthogonal to them.
        limit: Most basis vectors at a time, at least three blocks; None: no limit.
        images: Keep ``HQ``, too: true residuals then cost no product.
        first_image: The product with the one start vector as given, if it is known already; it counts all the same.
        drawn: Place of the first start vector that is random; those before it are not.

    Attributes:
        skew: ``(3,)``, largest |pᵀHq − qᵀHp|, which is 0 if H is symmetric: over pairs of start vectors, relative to
            the larger of ‖Hp‖ and ‖Hq‖; over pairs with a random start vector; and over all pairs.
        largest: Largest ‖Hq‖ of a basis vector q so far.
    """

    def __init__(
        self,
        multiply: Multiply,
        start: Tensor,
        draw: Callable[[], Tensor],
        *,
        deflated: Tensor | None = None,
        limit: int | None = None,
        images: bool = False,
        first_image: Tensor | None = None,
        drawn: int = 0,
    ) -> None:
        self.multiply, self.draw = multiply, draw
        self.block, self.n = start.shape
        self.deflated = like(start, 0, dtype=torch.float64) if deflated is None else deflated
        self.room = self.n - len(self.deflated)
        self.limit = self.room if limit is None else min(self.room, max(limit, 3 * self.block))
        self.block, self.drawn = min(self.block, self.room), drawn
        self.size = self.products = self.restarts = 0
        self.pending = self.block
        self.projected: Matrix = np.zeros((0, 0))
        self.coupling: Matrix = np.zeros((self.pending, 0))  # pᵀHq, p pending and q in the space
        self.first: Matrix | None = None
        # A limited basis takes its memory at once: grown by copying, it would for a moment exist twice.
        rows = min(self.limit, 8 if limit is None else 64) + self.block
        self.basis = like(start, rows, dtype=torch.float64)
        self.images = torch.empty_like(self.basis) if images else None
        self.skew, self.largest = np.zeros(3), 0.0
        self._known: Tensor | None = None
        for i in range(self.block):
            self.basis[i] = self._unit(wide(start[i]), i)
        if first_image is not None:
            self._known = wide(first_image) / torch.linalg.vector_norm(wide(start[0]))

    @property
    def full(self) -> bool:
        """Whether the space is all there is."""
        return self.size >= self.room

    @property
    def must_restart(self) -> bool:
        """Whether the next block would exceed the limit."""
        return not self.full and self.size + self.pending > self.limit

    def _project_out(self, rows: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Remove from ``rows`` ``(b, n)`` what lies in the space, twice; also the coefficients ``(size, b)``.

        ``rows`` is overwritten: a step's cost beside its product is reading the basis and making room for vectors.
        """
        coefficients = rows.new_zeros(size, len(rows))
        for _ in range(2):  # once is not enough after cancellation
            inside = self.basis[:size] @ rows.T
            rows.addmm_(inside.T, self.basis[:size], alpha=-1)
            coefficients += inside
            if len(self.deflated):
                rows.addmm_((self.deflated @ rows.T).T, self.deflated, alpha=-1)
        return rows, coefficients

    def _unit(self, vector: Tensor, size: int) -> Tensor:
        """A unit vector along what ``vector`` holds beyond the space; drawn anew if that is rounding noise."""
        while True:
            rest = self._project_out(vector[None].clone(), size)[0][0]
            norm, whole = torch.linalg.vector_norm(rest), torch.linalg.vector_norm(vector)
            if norm > 1e-8 * whole:
                rest = self._project_out(rest[None] / norm, size)[0][0]
                return rest.div_(torch.linalg.vector_norm(rest))
            vector = self.draw()

    def grow(self) -> None:
        """Multiply the pending block and find the next one.

        Raises:
            NumericalError: If a product is not finite.
        """
        m, total = self.size, self.size + self.pending
        rows = self.basis.new_empty(self.pending, self.n)
        for i in range(self.pending):
            rows[i] = self._times(self.basis[m + i])
        if self.images is not None:
            self.images[m:total] = rows
        rest, coefficients = self._project_out(rows, total)
        following, factors = self._factors(rest, total)
        numbers = read(torch.cat([coefficients.reshape(-1), factors.reshape(-1)]))
        if not np.isfinite(numbers).all():
            raise NumericalError(
                "a curvature product is not finite",
                f"product {self.products} of the eigenvalue computation",
                "check the weights and the data, or use `dtype='float64'`",
            )
        column = numbers[: total * self.pending].reshape(total, self.pending)
        coupling = numbers[total * self.pending :].reshape(len(following), self.pending)
        self._look_for_skew(column, coupling)
        projected = np.zeros((total, total))
        projected[:m, :m] = self.projected
        projected[:, m:] = column
        projected[m:, :m] = column[:m].T
        projected[m:, m:] = (column[m:] + column[m:].T) / 2
        self.projected, self.size = projected, total
        self.pending = min(len(following), self.block, self.room - total)
        self._reserve(total + self.pending)
        self.coupling = np.zeros((self.pending, total))
        self.coupling[:, m:] = coupling[: self.pending]
        self.basis[total : total + self.pending] = following[: self.pending]
        scale = max(np.abs(projected).max(), np.abs(coupling).max(initial=0))
        for j in range(self.pending):
            if np.abs(self.coupling[j]).max() <= BREAKDOWN * scale:  # an invariant subspace: go on elsewhere
                self.coupling[j] = 0
                self.basis[total + j] = self._unit(self.draw(), total + j)

    def _times(self, vector: Tensor) -> Tensor:
        self.products += 1
        if self._known is not None:
            image, self._known = self._known, None
            return image
        return self.multiply(vector)

    def _look_for_skew(self, column: Matrix, coupling: Matrix) -> None:
        """Compare pᵀHq with qᵀHp for the vectors q of the block that was just multiplied; no product is needed.

        For p multiplied before, Hp was split into what lay in the space, and the block that follows, q: qᵀHp is
        known, and zero for all p but the last ones. pᵀHq is known from making Hq orthogonal to p.
        """
        m = self.size
        difference = np.abs(column - np.concatenate([self.coupling.T, column[m:].T]))
        lengths = np.sqrt(np.square(column).sum(0) + np.square(coupling).sum(0))
        self.largest = max(self.largest, float(lengths.max()))
        self.skew[2] = max(self.skew[2], difference.max())
        if not self.restarts:
            self.skew[1] = max(self.skew[1], difference[self.drawn : self.block].max(initial=0))
        if m == 0 and self.largest > 0:
            self.skew[0] = (difference / np.maximum(np.maximum(lengths[:, None], lengths), 1e-300)).max()

    def _factors(self, rest: Tensor, total: int) -> tuple[Tensor, Tensor]:
        """Orthonormal rows spanning ``rest`` ``(b, n)``, strongest first, and ``rest`` in them, ``(b, b)``."""
        tiny = torch.finfo(torch.float64).tiny
        if len(rest) == 1:
            norm = torch.linalg.vector_norm(rest)
            return rest.div_(norm.clamp_min(tiny)), norm.reshape(1, 1)
        gram = read(rest @ rest.T)
        if not np.isfinite(gram).all():
            return rest, rest.new_full((len(rest), len(rest)), torch.nan)
        turn = torch.from_numpy(np.linalg.eigh(gram)[1][:, ::-1].T.copy()).to(rest.device)
        rows = turn @ rest
        for i in range(len(rows)):
            for _ in range(2):  # weak directions are rounding noise magnified
                rows[i] /= torch.linalg.vector_norm(rows[i]).clamp_min(tiny)
                row = self._project_out(rows[i : i + 1], total)[0][0]
                row -= (rows[:i] @ row) @ rows[:i]
            rows[i] /= torch.linalg.vector_norm(rows[i]).clamp_min(tiny)
        return rows, rows @ rest.T

    def _reserve(self, rows: int) -> None:
        if rows <= len(self.basis):
            return
        larger = min(max(rows, 2 * len(self.basis)), max(rows, self.limit + self.block))
        for name in ("basis", "images"):
            old = getattr(self, name)
            if old is not None:
                new = like(old, larger)
                new[: len(old)] = old
                setattr(self, name, new)

    def ritz(self) -> tuple[Matrix, Matrix, Matrix]:
        """Ritz values ascending ``(m,)``, their coefficients ``(m, m)``, and residual estimates ``(m,)``."""
        theta, u = np.linalg.eigh(self.projected)
        return theta, u, np.linalg.norm(self.coupling @ u, axis=0)

    def combine(self, coefficients: Matrix, *, images: bool = False) -> Tensor:
        """Rows of ``coefficientsᵀ Q`` ``(k, n)``, or of ``coefficientsᵀ HQ``."""
        source = self.images if images else self.basis
        assert source is not None
        rows: Tensor = torch.from_numpy(np.ascontiguousarray(coefficients.T)).to(source.device) @ source[: self.size]
        return rows

    def turned(self, kept: Sequence[int]) -> Tensor:
        """The Ritz vectors at places ``kept`` ``(k, n)``, made where the basis was: nothing else is left of it."""
        self.restart(kept)
        return self.basis[: len(kept)]

    def restart(self, kept: Sequence[int]) -> None:
        """Keep the Ritz vectors at places ``kept`` and the pending block; forget the rest."""
        if self.first is None:
            self.first = self.projected
        theta, u, _ = self.ritz()
        chosen = torch.from_numpy(np.ascontiguousarray(u[:, kept].T)).to(self.basis.device)
        m, p = self.size, len(kept)
        for matrix in (self.basis, self.images):
            if matrix is None:
                continue
            own = own_part(matrix)  # what is done to all columns alike is done to one's own
            for start in range(0, own.shape[1], _COLUMNS):  # in place: a second basis may not fit
                columns = slice(start, start + _COLUMNS)
                own[:p, columns] = chosen @ own[:m, columns]
        self.basis[p : p + self.pending] = self.basis[m : m + self.pending].clone()
        self.projected = np.diag(theta[list(kept)])
        self.coupling = self.coupling @ u[:, kept]
        self.size = p
        self.restarts += 1

    def known(self) -> Subspace:
        """The space with its products, where they are kept."""
        assert self.images is not None
        return Subspace(self.basis[: self.size], self.images[: self.size])

    def recursion(self) -> Matrix:
        """QᵀHQ of the steps before the first restart: a quadrature of the start vector."""
        return self.projected if self.first is None else self.first
