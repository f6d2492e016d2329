"""SAM: sharpness-aware minimization (Foret et al. 2021, arXiv 2010.01412, Eq. 2-3, Algorithm 1)."""

from __future__ import annotations

import torch

from .engine import TwoPass


class SAM(TwoPass):
    """Minimise the loss at the worst point of a ball of radius rho, to first order.

    With g = ∇L(w) over the batch and one L2 norm over all parameters of all groups,

        e = rho · g / (‖g‖ + 1e-12),   update gradient G = ∇L(w + e).

    The derivative of e with respect to w is dropped, as in the paper. Weight decay belongs to the base
    optimizer and acts at the unperturbed w. Cost: 2 gradients per step; memory: one copy of the weights.

    Args:
        base: Makes the step with G.
        rho: Radius in weight space; 0.05 is the paper's CIFAR-10 value. 0 gives the base optimizer.
    """

    def __init__(self, base: torch.optim.Optimizer, rho: float = 0.05) -> None:
        super().__init__(base, rho=rho)
