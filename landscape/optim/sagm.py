"""SAGM: sharpness-aware gradient matching (Wang et al. 2023, arXiv 2303.10353; released code sagm.py)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Unpack

import torch
from torch import Tensor

from ..numerics.ascent import EPSILON
from .core.engine import SharedOptions
from .core.perturbation import ParamWithGrad
from .core.two_pass import TwoPass


class SAGM(TwoPass):
    """Minimise the loss, the perturbed loss and their gap together.

    The objective L(w) + L_p(w − alpha·∇L(w)) is taken to first order as in the released code, which evaluates
    one perturbed point and averages the two gradients:

        e = (rho / (‖g‖ + 1e-12) − alpha) · g,   update gradient G = (g + ∇L(w + e)) / 2.

    The paper's objective is a sum, the code a mean; a factor 2 in the learning rate of SGD. With
    alpha > rho/‖g‖ the climb becomes a descent. Cost: 2 gradients per step; memory: one copy of the weights (two,
    if the closure calls ``backward`` itself or there is a scaler: then g cannot stay in ``.grad``).

    Args:
        base: Makes the step with G.
        rho: Radius in weight space (released code: 0.05, constant).
        alpha: Weight of the gradient matching, in units of a learning rate (released code: 0.001).
        adaptive: e = (rho/(‖|w|⊙g‖ + 1e-12) − alpha)·w²⊙g, as the released code has it.
        **common: See `landscape.optim.core.engine.SharedOptions`.

    Example:
        >>> import torch
        >>> from landscape.optim import SAGM, BatchLoss
        >>> model, x = torch.nn.Linear(2, 1), torch.eye(2)
        >>> optimizer = SAGM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05, alpha=0.001)
        >>> losses = [float(optimizer.step(lambda: BatchLoss(model(x).square().mean()))) for _ in range(30)]
        >>> losses[-1] < losses[0]
        True
    """

    keeps_gradient = True
    sums_gradients = True

    def __init__(
        self,
        base: torch.optim.Optimizer,
        rho: float = 0.05,
        alpha: float = 1e-3,
        *,
        adaptive: bool = False,
        **common: Unpack[SharedOptions],
    ) -> None:
        super().__init__(base, common, rho=rho, alpha=alpha)
        self.adaptive = adaptive

    def perturbation(
        self, moved: list[ParamWithGrad], gradients: list[Tensor], home: list[Tensor]
    ) -> Iterator[Tensor]:
        """``(rho / ‖g‖ − alpha) · g``, both parts times w² if adaptive."""
        norm = self.gradient_norm(
            [g * w.abs() for g, w in zip(gradients, home, strict=True)] if self.adaptive else gradients
        )
        for m, g, w in zip(moved, gradients, home, strict=True):
            e = g * (m.group["rho"] / (norm + EPSILON) - m.group["alpha"]).to(g.device, g.dtype)
            yield e * w * w if self.adaptive else e

    def combine(self, moved: list[ParamWithGrad], gradients: list[Tensor]) -> None:
        """The mean of g and g'; where the loss is differentiated here, ``.grad`` holds their sum: no copy of g."""
        for m, g in zip(moved, gradients, strict=True):
            (m.gradient if self.summed else m.gradient.add_(g)).mul_(0.5)
