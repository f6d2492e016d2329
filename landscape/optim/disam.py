"""DISAM: domain-inspired SAM (Zhang et al. 2024, arXiv 2405.18861, Algorithm 1, Eq. 6-8)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from .engine import BatchLoss
from .sam import SAM


class DISAM(SAM):
    """SAM whose climb spares domains that have converged less.

    With L_i the mean loss of domain i among the M domains present in the batch and L the batch mean,

        d = ∇[L − lam · Var{L_i}],   Var = (1/M) Σ (L_i − mean_i L_i)²,
        e = rho · d / (‖d‖ + 1e-12),   update gradient G = ∇L(w + e) with the plain L.

    So d = Σ beta_i ∇L_i with beta_i = n_i/N − (2·lam/M)(L_i − mean_i L_i), which sum to 1. With lam = 0, or a
    single domain in the batch, the step is SAM's bit for bit. Cost: 2 gradients per step, none per domain.

    Args:
        base: Makes the step with G.
        rho: Radius in weight space (paper: 0.05).
        lam: Weight of the variance (paper: 0.1, stable in 0.1 to 0.7).
    """

    def __init__(self, base: torch.optim.Optimizer, rho: float = 0.05, lam: float = 0.1) -> None:
        super().__init__(base, rho)
        self.lam = lam

    def first_objective(self, loss: BatchLoss) -> Tensor:
        """The batch loss less ``lam`` times the variance of its domain losses, shape ``()``."""
        if loss.domains is None:
            raise self._needs_domains()
        if self.lam == 0 or loss.domains.numel() < 2:
            return loss.mean
        return loss.mean - self.lam * loss.domains.var(correction=0)

    def _plain(self, loss: Any) -> Tensor:
        raise self._needs_domains()

    @staticmethod
    def _needs_domains() -> UsageError:
        return UsageError(
            "DISAM needs the loss of each domain",
            "closure",
            "return BatchLoss(mean, domains) without calling backward",
        )
