"""A subspace whose products with an operator are known, and with them most of what the operator does.

With orthonormal rows Q, the projection P = QᵀQ and the images HQ, the matrix splits exactly into a known part and
the rest, H = (PH + HP − PHP) + (I−P)H(I−P). The Krylov space of an eigenvalue run holds the large eigenvalues, so
that the rest is small and few random vectors tell enough of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...numerics.draws import Draws


@dataclass(frozen=True)
class Subspace:
    """Orthonormal rows and their products, ``(k, n)`` each, float64."""

    basis: Tensor
    images: Tensor

    def __len__(self) -> int:
        return len(self.basis)

    @property
    def projected(self) -> Tensor:
        """QHQᵀ, ``(k, k)``."""
        h = self.basis @ self.images.T
        return (h + h.T) / 2

    def rest(self, vector: Tensor) -> Tensor:
        """(I−P)v."""
        for _ in range(2):
            vector = vector - (self.basis @ vector) @ self.basis
        return vector

    def rest_image(self, vector: Tensor, image: Tensor) -> Tensor:
        """(I−P)H(I−P)v from v and Hv ``(n,)``."""
        return self.rest(self.image_of_rest(vector, image))

    def image_of_rest(self, vector: Tensor, image: Tensor) -> Tensor:
        """H(I−P)v from v and Hv ``(n,)``."""
        return image - (self.basis @ vector) @ self.images

    def trace(self) -> Tensor:
        """Trace of the known part: that of PHP."""
        return (self.basis * self.images).sum()

    def squared_norm(self) -> Tensor:
        """Squared Frobenius norm of the known part; the rest's adds to it."""
        return 2 * self.images.square().sum() - self.projected.square().sum()

    def diagonal(self) -> Tensor:
        """Diagonal of the known part, ``(n,)``."""
        return (self.basis * (2 * self.images - self.projected @ self.basis)).sum(0)


def nothing(draws: Draws) -> Subspace:
    """The subspace of dimension 0."""
    empty = draws.empty(0)
    return Subspace(empty, empty)
