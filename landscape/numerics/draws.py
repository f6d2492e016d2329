"""Random vectors of one length: where there is one process they are whole, and drawn at once."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class Draws:
    """Random vectors ``(n,)`` and room for others; the same numbers on every machine and device.

    Args:
        n: Their length.
        device: Where they are wanted.
    """

    def __init__(self, n: int, device: torch.device | str = "cpu") -> None:
        self.n, self.device = n, device

    def on(self, device: torch.device | str) -> Draws:
        """The same on another device."""
        return Draws(self.n, device)

    def normal(self, generator: torch.Generator) -> Tensor:
        """Standard normal, float64, ``(n,)``, from a generator of the CPU."""
        return torch.randn(self.n, generator=generator, dtype=torch.float64).to(self.device)

    def uniform(self, generator: torch.Generator) -> Tensor:
        """Uniform on [-1, 1], float64, ``(n,)``, from a generator of the CPU."""
        return (torch.rand(self.n, generator=generator, dtype=torch.float64) * 2 - 1).to(self.device)

    def signs(self, seed: int, index: int) -> Tensor:
        """The ``index``-th vector of random signs of a seed, float64, ``(n,)``."""
        bits = np.random.default_rng([seed, index]).integers(0, 2, self.n, dtype=np.int8)
        return (torch.from_numpy(bits).double() * 2 - 1).to(self.device)

    def empty(self, rows: int) -> Tensor:
        """Room for rows of vectors, float64, ``(rows, n)``."""
        return torch.empty((rows, self.n), dtype=torch.float64, device=self.device)

    def unit(self, index: int) -> Tensor:
        """The ``index``-th unit vector, float64, ``(n,)``."""
        found = torch.zeros(self.n, dtype=torch.float64, device=self.device)
        found[index] = 1
        return found
