"""Vectors of random signs, the same on every machine, and their products, each made once."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...runtime.devices import wide
from ..lanczos.krylov import Multiply


def rademacher(n: int, seed: int, index: int) -> Tensor:
    """The ``index``-th vector of random signs ``(n,)`` of a seed, float64, on the CPU so that devices agree."""
    bits = np.random.default_rng([seed, index]).integers(0, 2, n, dtype=np.int8)
    return wide(torch.from_numpy(bits)) * 2 - 1


class Probes:
    """Vectors of random signs and their products, each product made once and only when it is asked for.

    Probe ``i`` of a seed is the same vector in every run and on every device.
    """

    def __init__(self, operator: Multiply, n: int, seed: int, device: torch.device | str = "cpu") -> None:
        self.operator, self.n, self.seed, self.device = operator, n, seed, device
        self.made = 0
        self._products: dict[int, Tensor] = {}

    def vector(self, index: int) -> Tensor:
        """Probe ``index``, ``(n,)``, float64."""
        return rademacher(self.n, self.seed, index).to(self.device)

    def product(self, index: int, *, keep: bool = False) -> Tensor:
        """The product with probe ``index``, ``(n,)``, float64."""
        if index in self._products:
            return self._products[index]
        self.made += 1
        found = self.operator(self.vector(index)).to(self.device, torch.float64)
        if keep:
            self._products[index] = found
        return found
