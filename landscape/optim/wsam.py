"""WSAM: weighted SAM (Yue et al. 2023, arXiv 2305.15817)."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from ..base.errors import UsageError
from .core.engine import SharedOptions
from .core.perturbation import ParamWithGrad
from .core.two_pass import TwoPass


class WSAM(TwoPass):
    """Weigh the sharpness against the loss: L + gamma/(1 − gamma) · (L(w + e) − L(w)).

    With SAM's e, a = gamma/(1 − gamma) and g' = ∇L(w + e),

        decoupled (default): base step with g, then w ← w − lr·a·(g' − g);
        coupled: G = a·g' + (1 − a)·g.

    ``clip`` bounds the norm of g + a·(g' − g) in both. Cost: 2 gradients per step; memory: two copies.

    Args:
        base: Makes the step.
        rho: Radius in weight space (0.05).
        gamma: Weight of the sharpness in [0, 1) (0.9; the authors recommend 0.8 to 0.95). 0 gives the base.
        decouple: Keep the sharpness out of the base optimizer's momentum and scaling (the authors' default).
        **common: See `landscape.optim.core.engine.SharedOptions`; ``micro_batches`` only when coupled.

    Example:
        >>> import torch
        >>> from landscape.optim import WSAM, BatchLoss
        >>> model, x = torch.nn.Linear(2, 1), torch.eye(2)
        >>> optimizer = WSAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05)
        >>> losses = [float(optimizer.step(lambda: BatchLoss(model(x).square().mean()))) for _ in range(30)]
        >>> losses[-1] < losses[0]
        True
    """

    keeps_gradient = True

    def __init__(
        self,
        base: torch.optim.Optimizer,
        rho: float = 0.05,
        gamma: float = 0.9,
        *,
        decouple: bool = True,
        **common: Unpack[SharedOptions],
    ) -> None:
        super().__init__(base, common, rho=rho, gamma=gamma)
        self.decouple, self._plain = decouple, dict[nn.Parameter, Tensor]()
        if decouple and self.micro_batches:
            raise self.no_micro_batches()

    def adopt(self, group: dict[str, Any]) -> None:
        """Complete a group; its weight must leave something of the loss."""
        super().adopt(group)
        if not 0 <= group["gamma"] < 1:
            raise UsageError(f"gamma is {group['gamma']}", "WSAM", "give a number from 0 on and below 1")

    def passes(self) -> Generator[None, None, None]:
        """Both; what a skipped step has left is forgotten."""
        self._plain = {}
        yield from super().passes()

    def combine(self, moved: list[ParamWithGrad], gradients: list[Tensor]) -> None:
        """The gradient of the weighted objective, g + a·(g' − g)."""
        for m, g in zip(moved, gradients, strict=True):
            a = m.group["gamma"] / (1 - m.group["gamma"])
            m.gradient.mul_(a).add_(g, alpha=1 - a)
        if self.decouple:
            self._plain = {m.parameter: g for m, g in zip(moved, gradients, strict=True)}

    def update_parts(self) -> list[Tensor]:
        """The update gradient, and g beside it when decoupled."""
        return super().update_parts() + list(self._plain.values())

    def base_step(self) -> None:
        """The base step; decoupled, with g alone, and then the sharpness at the plain learning rate."""
        if not self.decouple or not self._plain:
            super().base_step()
            return
        moved = self.moved()
        sharpness = [m.gradient.sub_(self._plain[m.parameter]) for m in moved]
        for m in moved:
            m.gradient = self._plain[m.parameter]
        super().base_step()
        for m, s in zip(moved, sharpness, strict=True):
            m.weights.sub_(s * m.group["lr"])
        self._plain = {}
