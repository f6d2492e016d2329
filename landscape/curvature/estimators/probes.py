"""Vectors of random signs, the same on every machine, and their products, each made once."""

from __future__ import annotations

import torch
from torch import Tensor

from ...numerics.draws import Draws
from ..lanczos.krylov import Multiply


def rademacher(n: int, seed: int, index: int) -> Tensor:
    """The ``index``-th vector of random signs ``(n,)`` of a seed, float64, on the CPU so that devices agree."""
    return Draws(n).signs(seed, index)


class Probes:
    """Vectors of random signs and their products, each product made once and only when it is asked for.

    Probe ``i`` of a seed is the same vector in every run and on every device.
    """

    def __init__(
        self,
        operator: Multiply,
        n: int,
        seed: int,
        device: torch.device | str = "cpu",
        draws: Draws | None = None,
    ) -> None:
        self.operator, self.n, self.seed, self.device = operator, n, seed, device
        self.draws = (draws or Draws(n)).on(device)
        self.made = 0
        self._products: dict[int, Tensor] = {}

    def vector(self, index: int) -> Tensor:
        """Probe ``index``, ``(n,)``, float64."""
        return self.draws.signs(self.seed, index)

    def product(self, index: int, *, keep: bool = False) -> Tensor:
        """The product with probe ``index``, ``(n,)``, float64."""
        if index in self._products:
            return self._products[index]
        self.made += 1
        found = self.operator(self.vector(index)).to(self.device, torch.float64)
        if keep:
            self._products[index] = found
        return found
