"""V-REx: variance risk extrapolation (Krueger et al. 2021, arXiv 2003.00688, Eq. 8)."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

from .core.engine import ERM
from .core.over_shards import over_shards
from .core.shared_options import SharedOptions, require_finite
from .disam import climb_weights


class VREx(ERM):
    """Plain training with the variance of the domain losses as a penalty: where DISAM's term stands in the descent.

        G = ∇[L + lam · Var{L_i}] = ∇L + (2·lam/M) · Σ (L_i − mean_i L_i) ∇L_i,   Var = (1/M) Σ (L_i − mean_i L_i)².

    L_i is the mean loss of domain i among the M domains of the batch. L is the mean over the batch, which is the
    paper's mean over domains where the batch holds as many examples of each. The closure returns
    ``BatchLoss(mean, domains)``. With lam = 0, or a single domain in the batch, G is ∇L, bit for bit. Cost: 1
    gradient per step; memory: none.

    Args:
        base: Makes the step with G.
        lam: Weight of the variance (the paper's beta, tuned there between 1 and 10,000 once a plain training has
            settled; 1 here, from the first step on).
        **common: See `landscape.optim.core.engine.SharedOptions`.

    Example:
        >>> import torch
        >>> from landscape.optim import BatchLoss, VREx
        >>> model, x = torch.nn.Linear(2, 1), torch.eye(2)  # a domain each
        >>> optimizer = VREx(torch.optim.SGD(model.parameters(), lr=0.1), lam=1.0)
        >>> def closure():
        ...     each = model(x).square().squeeze(1)
        ...     return BatchLoss(each.mean(), each, torch.ones(2))
        >>> losses = [float(optimizer.step(closure)) for _ in range(30)]
        >>> losses[-1] < losses[0]
        True
    """

    needs_domains = True

    def __init__(self, base: torch.optim.Optimizer, lam: float = 1.0, **common: Unpack[SharedOptions]) -> None:
        require_finite(lam=lam)
        super().__init__(base, common)
        self.lam = lam

    def domain_weights(self, losses: Tensor, counts: Tensor | None) -> Tensor | None:
        """Minus what DISAM adds in its climb: domains that have converged less weigh more, shape ``(M,)``."""
        if self.lam == 0 or len(losses) < 2:
            return None
        losses, counts, here = over_shards(self.parameters(), losses, counts)
        return (climb_weights(losses, counts, -self.lam) - climb_weights(losses, counts, 0.0)) * here
