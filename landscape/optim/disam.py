"""DISAM: domain-inspired SAM (Zhang et al. 2024, arXiv 2405.18861, Algorithm 1, Eq. 6-8), alone and composed."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ..base.errors import UsageError
from .core.engine import ERM
from .core.over_shards import over_shards
from .core.shared_options import require_finite, require_one_of
from .gsam import GSAM
from .sagm import SAGM
from .sam import SAM


def climb_weights(
    losses: Tensor, counts: Tensor | None, lam: float, variance: Literal["domain", "sample"] = "domain"
) -> Tensor:
    """beta_i of DISAM's climb (see `DomainClimb`), shape ``(M,)``; they sum to 1.

    Args:
        losses: Mean loss of each domain, shape ``(M,)``.
        counts: Examples of each, shape ``(M,)``; None: equally many.
        lam: Weight of the variance.
        variance: Over domains or over samples.
    """
    counts = torch.ones_like(losses) if counts is None else counts.to(losses.dtype)
    present, share = (counts > 0).to(losses.dtype), counts / counts.sum()
    if variance == "sample":
        return share * (1 - 2 * lam * (losses - share @ losses))
    domains = present.sum()
    return share - 2 * lam / domains * present * (losses - present @ losses / domains)


class DomainClimb(ERM):
    """The first pass of DISAM, for any method that climbs: d = ∇[L − lam · Var{L_i}] takes the place of g.

    With L_i the mean loss of domain i among the M domains present in the batch, L the mean loss of the batch and
    n_i of its N examples in domain i, d = Σ beta_i ∇L_i, where the beta_i sum to 1:

        ``"domain"`` (the paper): Var = (1/M) Σ (L_i − mean_i L_i)², beta_i = n_i/N − (2·lam/M)·(L_i − mean_i L_i);
        ``"sample"`` (the released code): Var = Σ (n_i/N)(L_i − L)², beta_i = n_i/N · (1 − 2·lam·(L_i − L)).

    Domains that have converged less weigh less in the climb; a negative beta_i climbs down their loss. With
    lam = 0, or a single domain in the batch, d is g, bit for bit.
    """

    needs_domains = True

    def __init__(self, *arguments: Any, lam: float = 0.1, variance: Literal["domain", "sample"] = "domain", **k: Any):
        require_finite(lam=lam)
        require_one_of("variance", variance, ("domain", "sample"))
        super().__init__(*arguments, **k)
        self.lam, self.variance = lam, variance
        self.climb_weights: Tensor | None = None
        """beta_i of the last step, shape ``(M,)``; known where the closure gives counts."""

    def domain_weights(self, losses: Tensor, counts: Tensor | None) -> Tensor | None:
        """beta_i less the share of the domain: the weight of each loss beside the batch mean, ``(M,)``."""
        if self.lam == 0 or len(losses) < 2:
            return None
        if counts is None and self.variance == "sample":
            raise UsageError(
                "the sample variance needs the examples of each domain",
                "closure",
                "return BatchLoss(mean, domains, counts)",
            )
        losses, counts, here = over_shards(self.parameters(), losses, counts)
        beta = climb_weights(losses, counts, self.lam, self.variance)
        self.climb_weights = beta if counts is not None else None
        return (beta - climb_weights(losses, counts, 0.0)) * here


class DISAM(DomainClimb, SAM):
    """SAM whose climb spares domains that have converged less.

        e = rho · d / (‖d‖ + 1e-12),   d = ∇[L − lam · Var{L_i}],   update gradient G = ∇L(w + e), the plain L.

    See `DomainClimb` for d. The closure returns ``BatchLoss(mean, domains, counts)``. Cost: 2 gradients per step,
    none per domain; memory: one copy of the weights.

    Args:
        base: Makes the step with G.
        rho: Radius in weight space (paper: 0.05).
        lam: Weight of the variance (paper: 0.1, stable in 0.1 to 0.7).
        variance: ``"domain"`` (paper) or ``"sample"`` (released code).
        **common: See `landscape.optim.core.engine.SharedOptions`; SAM's options too.

    Example:
        >>> import torch
        >>> from landscape.optim import BatchLoss, DISAM
        >>> model, x = torch.nn.Linear(2, 1), torch.eye(2)  # a domain each
        >>> optimizer = DISAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05, lam=0.1)
        >>> def closure():
        ...     each = model(x).square().squeeze(1)
        ...     return BatchLoss(each.mean(), each, torch.ones(2))
        >>> losses = [float(optimizer.step(closure)) for _ in range(30)]
        >>> losses[-1] < losses[0]
        True
    """

    def __init__(
        self,
        base: torch.optim.Optimizer,
        rho: float = 0.05,
        lam: float = 0.1,
        *,
        variance: Literal["domain", "sample"] = "domain",
        **common: object,
    ) -> None:
        super().__init__(base, rho, lam=lam, variance=variance, **common)


class DISAMGSAM(DomainClimb, GSAM):
    """GSAM with d in place of g, in the climb and in the decomposition.

        e = rho_t · d / (‖d‖ + 1e-12),   G = g' − alpha · (part of d orthogonal to g').

    The released classes store the first gradient, which is d (optimizers in MediaBrain-SJTU/DISAM). Cost: 2
    gradients per step; memory: two copies of the weights.

    Args:
        base: Makes the step with G.
        rho: Radius at the largest learning rate (0.05).
        alpha: Weight of the gap (0.4, as for GSAM).
        lam: Weight of the variance (paper: 0.1).
        variance: ``"domain"`` (paper) or ``"sample"`` (released code).
        **common: GSAM's other options, and `landscape.optim.core.engine.SharedOptions`.

    Example:
        >>> import torch
        >>> from landscape.optim import BatchLoss, DISAMGSAM
        >>> model, x = torch.nn.Linear(2, 1), torch.eye(2)  # a domain each
        >>> optimizer = DISAMGSAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05)
        >>> def closure():
        ...     each = model(x).square().squeeze(1)
        ...     return BatchLoss(each.mean(), each, torch.ones(2))
        >>> losses = [float(optimizer.step(closure)) for _ in range(30)]
        >>> losses[-1] < losses[0]
        True
    """

    def __init__(
        self,
        base: torch.optim.Optimizer,
        rho: float = 0.05,
        alpha: float = 0.4,
        lam: float = 0.1,
        *,
        variance: Literal["domain", "sample"] = "domain",
        **common: object,
    ) -> None:
        super().__init__(base, rho, alpha, lam=lam, variance=variance, **common)


class DISAMSAGM(DomainClimb, SAGM):
    """SAGM with d in place of g, in the climb and in the mean.

        e = (rho / (‖d‖ + 1e-12) − alpha) · d,   G = (d + ∇L(w + e)) / 2.

    Cost: 2 gradients per step; memory: as SAGM.

    Args:
        base: Makes the step with G.
        rho: Radius in weight space (0.05).
        alpha: Weight of the gradient matching (0.001).
        lam: Weight of the variance (paper: 0.1).
        variance: ``"domain"`` (paper) or ``"sample"`` (released code).
        **common: SAGM's other options, and `landscape.optim.core.engine.SharedOptions`.

    Example:
        >>> import torch
        >>> from landscape.optim import BatchLoss, DISAMSAGM
        >>> model, x = torch.nn.Linear(2, 1), torch.eye(2)  # a domain each
        >>> optimizer = DISAMSAGM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05)
        >>> def closure():
        ...     each = model(x).square().squeeze(1)
        ...     return BatchLoss(each.mean(), each, torch.ones(2))
        >>> losses = [float(optimizer.step(closure)) for _ in range(30)]
        >>> losses[-1] < losses[0]
        True
    """

    def __init__(
        self,
        base: torch.optim.Optimizer,
        rho: float = 0.05,
        alpha: float = 1e-3,
        lam: float = 0.1,
        *,
        variance: Literal["domain", "sample"] = "domain",
        **common: object,
    ) -> None:
        super().__init__(base, rho, alpha, lam=lam, variance=variance, **common)
