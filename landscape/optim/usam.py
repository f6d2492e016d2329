"""USAM: unnormalised SAM (Andriushchenko & Flammarion 2022, arXiv 2206.06232)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Unpack

import torch
from torch import Tensor

from .core.engine import SharedOptions
from .core.perturbation import ParamWithGrad
from .core.two_pass import TwoPass


class USAM(TwoPass):
    """SAM whose climb is not divided by the norm of the gradient.

        e = rho · g,   update gradient G = ∇L(w + e).

    The climb fades as the gradient does, so the method is usable near stationary points; its rho is a step
    length (units of a learning rate), not SAM's radius, and has to be tuned anew. Cost: 2 gradients per step;
    memory: one copy of the weights.

    Args:
        base: Makes the step with G.
        rho: Factor of the gradient. No published default; 0.05 is only SAM's number.
        **common: See `landscape.optim.core.engine.SharedOptions`.

    Example:
        >>> import torch
        >>> from landscape.optim import USAM, BatchLoss
        >>> model, x = torch.nn.Linear(2, 1), torch.eye(2)
        >>> optimizer = USAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05)
        >>> losses = [float(optimizer.step(lambda: BatchLoss(model(x).square().mean()))) for _ in range(30)]
        >>> losses[-1] < losses[0]
        True
    """

    def __init__(self, base: torch.optim.Optimizer, rho: float = 0.05, **common: Unpack[SharedOptions]) -> None:
        super().__init__(base, common, rho=rho)

    def perturbation(
        self, moved: list[ParamWithGrad], gradients: list[Tensor], home: list[Tensor]
    ) -> Iterator[Tensor]:
        """``rho · g``."""
        self.gradient_norm(gradients)  # an overflow here may leave the gradient there finite
        for m, g in zip(moved, gradients, strict=True):
            yield g * m.group["rho"]
