"""Eigenpairs: as they are found, with their products, and as they are reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...base.progress import report
from ...sharding.vectors import entry_of_largest_size
from .krylov import Multiply
from .subspace import Subspace


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


def _none(vectors: Tensor) -> Tensor:
    return vectors.new_empty(0)


@dataclass(frozen=True)
class Found:
    """Unit vectors ``(k, n)`` with their products, Rayleigh quotients and absolute residuals, ascending by value.

    Values and residuals are on the CPU.
    """

    values: Tensor
    vectors: Tensor
    images: Tensor
    residuals: Tensor

    @classmethod
    def of(cls, vectors: Tensor, images: Tensor) -> Found:
        """From vectors and their products."""
        # Row by row here and below: vectors of a large network are most of what there is room for.
        values = (
            torch.stack([v @ i for v, i in zip(vectors, images, strict=True)]) if len(vectors) else _none(vectors)
        )
        residuals = [torch.linalg.vector_norm(i - a * v) for a, v, i in zip(values, vectors, images, strict=True)]
        return cls(values.cpu(), vectors, images, torch.stack(residuals).cpu() if residuals else values.cpu())

    @classmethod
    def multiplied(cls, operator: Multiply, vectors: Tensor) -> Found:
        """From vectors, with one further product each."""
        images = torch.empty_like(vectors)
        for done, (image, vector) in enumerate(zip(images, vectors, strict=True), 1):
            image.copy_(operator(vector))
            report("residuals", done, len(vectors))
        return cls.of(vectors, images)

    def take(self, which: Sequence[int]) -> Found:
        """Those at some places; the same memory if that is all of them."""
        if list(which) == list(range(len(self.values))):
            return self
        index = torch.tensor(list(which), dtype=torch.long)
        there = index.to(self.vectors.device)
        return Found(self.values[index], self.vectors[there], self.images[there], self.residuals[index])

    def with_pair(self, other: Found, keep: int, *, largest: bool) -> Found:
        """The ``keep`` largest or smallest of these and one more."""
        both = Found(*(torch.cat(p) for p in zip(self._parts(), other._parts(), strict=True)))
        order = both.values.argsort().tolist()
        return both.take(order[-keep:] if largest else order[:keep])

    def _parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.values, self.vectors, self.images, self.residuals

    def subspace(self) -> Subspace:
        """What they span; they must be orthogonal."""
        return Subspace(self.vectors, self.images)

    def pairs(self, scale: float, tol: float, *, descending: bool) -> EigenPairs:
        """As they are reported: sorted, signs fixed, residuals relative to ``scale``."""
        order = self.values.argsort(descending=descending)
        vectors = self.vectors[order.to(self.vectors.device)]
        for vector in vectors:
            peak = entry_of_largest_size(vector)
            vector.mul_(torch.where(peak < 0, -1.0, 1.0))
        relative = self.residuals[order] / scale if scale > 0 else torch.zeros_like(self.residuals)
        return EigenPairs(self.values[order], vectors, relative, relative <= tol)
