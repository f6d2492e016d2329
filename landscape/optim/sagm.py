"""SAGM: sharpness-aware gradient matching (Wang et al. 2023, arXiv 2303.10353; released code sagm.py)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ascent import EPSILON
from .engine import TwoPass


class SAGM(TwoPass):
    """Minimise the loss, the perturbed loss and their gap together.

    The objective L(w) + L_p(w − alpha·∇L(w)) is taken to first order as in the released code, which evaluates
    one perturbed point and averages the two gradients:

        e = (rho / (‖g‖ + 1e-12) − alpha) · g,   update gradient G = (g + ∇L(w + e)) / 2.

    The paper's objective is a sum, the code a mean; a factor 2 in the learning rate of SGD. With
    alpha > rho/‖g‖ the climb becomes a descent. Cost: 2 gradients per step; memory: a copy of the weights and
    the first gradient.

    Args:
        base: Makes the step with G.
        rho: Radius in weight space (released code: 0.05, constant).
        alpha: Weight of the gradient matching, in units of a learning rate (released code: 0.001).
    """

    keeps_gradient = True

    def __init__(self, base: torch.optim.Optimizer, rho: float = 0.05, alpha: float = 1e-3) -> None:
        super().__init__(base, rho=rho, alpha=alpha)

    def scales(self, norm: Tensor) -> list[Tensor]:
        """``rho / ‖g‖ − alpha`` per parameter group."""
        return [group["rho"] / (norm + EPSILON) - group["alpha"] for group in self.param_groups]

    def combine(self, gradient: Tensor, perturbed: Tensor) -> None:
        """The mean of both gradients."""
        perturbed.add_(gradient).mul_(0.5)
