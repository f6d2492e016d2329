"""ASAM: adaptive SAM by the official rule (Kwon et al. 2021, arXiv 2102.11600; SamsungLabs/ASAM)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Unpack

import torch
from torch import Tensor

from ..base.errors import UsageError
from ..numerics.ascent import ascent_steps
from .core.engine import SharedOptions
from .core.perturbation import ParamWithGrad
from .core.two_pass import TwoPass


class ASAM(TwoPass):
    """SAM in a ball that scales with the weights, as the released code of ASAM does it.

        e = rho · T²⊙g / (‖T⊙g‖ + 1e-16),   update gradient G = ∇L(w + e),

    with T = |w| + eta for parameters whose name contains ``weight`` (norm layers' scales among them) and T = 1
    for all others. It is not ``SAM(adaptive=True)``, which scales every parameter and has no eta. Cost: 2
    gradients per step; memory: one copy of the weights.

    Args:
        base: Makes the step with G; built from ``model.named_parameters()``, since the rule needs names.
        rho: Radius in units of T (released class and CIFAR-10: 0.5; CIFAR-100: 1.0).
        eta: Added to |w| (released class: 0.01; its example script: 0).
        **common: See `landscape.optim.core.engine.SharedOptions`.

    Raises:
        UsageError: If the base optimizer has no parameter names.

    Example:
        >>> import torch
        >>> from landscape.optim import ASAM, BatchLoss
        >>> model, x = torch.nn.Linear(2, 1), torch.eye(2)
        >>> optimizer = ASAM(torch.optim.SGD(model.named_parameters(), lr=0.1), rho=0.5)
        >>> losses = [float(optimizer.step(lambda: BatchLoss(model(x).square().mean()))) for _ in range(30)]
        >>> losses[-1] < losses[0]
        True
    """

    def __init__(
        self, base: torch.optim.Optimizer, rho: float = 0.5, eta: float = 0.01, **common: Unpack[SharedOptions]
    ) -> None:
        super().__init__(base, common, rho=rho, eta=eta)

    def adopt(self, group: dict[str, Any]) -> None:
        """Complete a group, which must know the names of its parameters."""
        super().adopt(group)
        if len(group.get("param_names", ())) != len(group["params"]):
            raise UsageError(
                "ASAM scales by parameter name and the base optimizer has no names",
                type(self.base).__name__,
                "build it with model.named_parameters()",
            )

    def perturbation(
        self, moved: list[ParamWithGrad], gradients: list[Tensor], home: list[Tensor]
    ) -> Iterator[Tensor]:
        """The ascent step in units of T."""
        self.gradient_norm(gradients)

        def scaling(i: int) -> Tensor | None:
            return home[i].abs() + moved[i].group["eta"] if "weight" in (moved[i].name or "") else None

        return ascent_steps(gradients, [m.group["rho"] for m in moved], scaling=scaling, epsilon=1e-16)
