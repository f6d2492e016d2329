"""GSAM: surrogate gap guided SAM (Zhuang et al. 2022, arXiv 2203.08065; juntang-zhuang/GSAM)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Unpack

import torch
from torch import Tensor

from ..base.errors import UsageError
from ..numerics.ascent import EPSILON, ascent_steps
from .core.inner_product import inner
from .core.perturbation import ParamWithGrad
from .core.shared_options import SharedOptions, require_finite
from .core.two_pass import TwoPass


class GSAM(TwoPass):
    """SAM that also lowers the surrogate gap h = L(w + e) − L(w), without raising L(w + e).

    With SAM's e at radius rho_t, g' = ∇L(w + e) and g⊥ the part of g orthogonal to g',

        G = g' − alpha · g⊥,   g⊥ = g − ‖g‖·cos(g, g') · g'/(‖g'‖ + 1e-12),
        rho_t = rho_min + (rho − rho_min) · (lr_t − lr_min) / (lr_max − lr_min), never outside [rho_min, rho].

    The radius follows the learning rate of its parameter group as it stands at the step. lr_max is the peak that a
    scheduler has written there (``max_lr`` of OneCycleLR, ``initial_lr`` of the others), or the rate at construction,
    the larger one. A rate beyond either end, as in a warm-up, has the radius of that end. Cost: 2 gradients per step;
    memory: two copies of the weights.

    Args:
        base: Makes the step with G.
        rho: Radius at the largest learning rate (here SAM's 0.05; the paper: 0.04 for ResNets, 0.6 for ViTs).
        alpha: Weight of the gap (released CIFAR example: 0.4; paper: 0.01 for ResNets, up to 1 for ViTs).
        rho_min: Radius at the smallest learning rate; None keeps rho constant.
        adaptive: Elementwise climb, e = rho_t·w²⊙g/‖|w|⊙g‖ (released CIFAR example, with rho = 2).
        lr_min: The smallest learning rate of the schedule.
        lr_max: The largest, for all groups, where it is not as said above (CyclicLR attached before this keeps its
            peak to itself).
        **common: See `landscape.optim.core.engine.SharedOptions`.

    Example:
        >>> import torch
        >>> from landscape.optim import GSAM, BatchLoss
        >>> model, x = torch.nn.Linear(2, 1), torch.eye(2)
        >>> optimizer = GSAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05, alpha=0.4)
        >>> losses = [float(optimizer.step(lambda: BatchLoss(model(x).square().mean()))) for _ in range(30)]
        >>> losses[-1] < losses[0]
        True
    """

    keeps_gradient = True

    def __init__(
        self,
        base: torch.optim.Optimizer,
        rho: float = 0.05,
        alpha: float = 0.4,
        *,
        rho_min: float | None = None,
        adaptive: bool = False,
        lr_min: float = 0.0,
        lr_max: float | None = None,
        **common: Unpack[SharedOptions],
    ) -> None:
        require_finite(rho_min=rho_min or 0.0, lr_min=lr_min, lr_max=lr_max or 0.0)
        super().__init__(base, common, rho=rho, alpha=alpha)
        self.rho_min, self.adaptive, self.lr_min, self.lr_max = rho_min, adaptive, lr_min, lr_max

    def adopt(self, group: dict[str, Any]) -> None:
        """Complete a group, also with the learning rate that it starts with."""
        super().adopt(group)
        group.setdefault("lr_max", float(group["lr"]))

    def radius(self, group: dict[str, Any]) -> float:
        """rho_t of a parameter group at its present learning rate.

        Raises:
            UsageError: If ``lr_min`` is above the largest learning rate of the group.
        """
        rho = float(group["rho"])
        if self.rho_min is None:
            return rho
        started = max(float(group["lr_max"]), float(group.get("initial_lr", 0.0)))
        peak = float(group.get("max_lr", started)) if self.lr_max is None else self.lr_max
        if peak < self.lr_min:
            raise UsageError(
                f"lr_min={self.lr_min} is above the largest learning rate {peak}", "GSAM", "lower lr_min"
            )
        if peak == self.lr_min:
            return rho
        share = (float(group["lr"]) - self.lr_min) / (peak - self.lr_min)
        return self.rho_min + (rho - self.rho_min) * min(max(share, 0.0), 1.0)

    def perturbation(
        self, moved: list[ParamWithGrad], gradients: list[Tensor], home: list[Tensor]
    ) -> Iterator[Tensor]:
        """SAM's step at the scheduled radius."""
        self.gradient_norm(gradients)
        scaling = (lambda i: home[i].abs()) if self.adaptive else None
        return ascent_steps(gradients, [self.radius(m.group) for m in moved], scaling=scaling)

    def combine(self, moved: list[ParamWithGrad], gradients: list[Tensor]) -> None:
        """Take away alpha times the part of g that is orthogonal to g'."""
        there = [m.gradient for m in moved]
        n, n_there = self.gradient_norm(gradients), self.gradient_norm(there)
        cosine = inner(gradients, there) / (n * n_there + EPSILON)
        along = cosine * n / (n_there + EPSILON)
        for m, g in zip(moved, gradients, strict=True):
            here = m.gradient
            here.mul_(1 + m.group["alpha"] * along.to(here.device, here.dtype)).sub_(g, alpha=m.group["alpha"])
