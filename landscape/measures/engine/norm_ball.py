"""The ball in which the loss is maximised, in coordinates that make it a plain one.

With T one positive scale per weight (1 for the plain ball, |w| for the adaptive ones) the step is e = T ⊙ u and the
ball ‖e / T‖_p ≤ rho becomes ‖u‖_p ≤ rho. Ascent in u gives the same e after a rescaling A of the weights whenever
T_{Aw} = A T_w, so that the measure is invariant where the ball is. All functions take rows ``(k, n_parameters)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...numerics.ascent import EPSILON
from ...problem.problem import Problem


@dataclass(frozen=True)
class NormBall:
    """‖u‖_p ≤ rho around the weights, e = scale ⊙ u.

    Attributes:
        rho: Radius.
        p: ``"2"``, ``"inf"`` or ``"1"``.
        scale: T, shape ``(n_parameters,)``; None for ones.
    """

    rho: float
    p: str = "2"
    scale: Tensor | None = None

    def to_weights(self, u: Tensor) -> Tensor:
        """The step e of coordinates ``u``."""
        return u if self.scale is None else u * self.scale

    def to_coordinates(self, gradient: Tensor) -> Tensor:
        """The gradient with respect to ``u`` of a gradient with respect to the weights."""
        return gradient if self.scale is None else gradient * self.scale

    def steepest(self, gradient: Tensor, length: float | Tensor | None = None) -> Tensor:
        """The u of norm ``length`` (default: rho) that maximises ⟨gradient, u⟩; zero where the gradient is zero.

        It is rho·g/‖g‖₂, rho·sign(g), or all of rho on the entry with the largest |g| (arXiv 2010.01412, Eq. 2).
        """
        length = self.rho if length is None else length
        if self.p == "2":
            norm: Tensor = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
            return gradient * (length / (norm + EPSILON))
        if self.p == "inf":
            return gradient.sign() * length
        place = gradient.abs().argmax(1, keepdim=True)
        sign = gradient.gather(1, place).sign() * length
        return torch.zeros_like(gradient).scatter_(1, place, sign)

    def project(self, u: Tensor) -> Tensor:
        """The nearest point of the ball, row by row."""
        if self.p == "2":
            norm: Tensor = torch.linalg.vector_norm(u, dim=1, keepdim=True)
            return u * (self.rho / norm.clamp_min(EPSILON)).clamp(max=1)
        if self.p == "inf":
            return u.clamp(-self.rho, self.rho)
        return _project_onto_l1(u, self.rho)


def _project_onto_l1(u: Tensor, radius: float) -> Tensor:
    """Soft thresholding by the level that leaves an l1 norm of ``radius`` (Duchi et al. 2008)."""
    size = u.abs()
    ordered = size.sort(dim=1, descending=True).values
    excess = ordered.cumsum(1) - radius
    count = torch.arange(1, u.shape[1] + 1, device=u.device, dtype=u.dtype)
    last = (ordered * count > excess).sum(1, keepdim=True).clamp_min(1)
    level = (excess.gather(1, last - 1) / last).clamp_min(0)
    inside = size.sum(1, keepdim=True) <= radius
    return torch.where(inside, u, u.sign() * (size - level).clamp_min(0))


def elementwise(problem: Problem) -> Tensor:
    """T = |w| for every weight (arXiv 2102.11600 with elementwise T, eta 0); a complex one is two."""
    return problem.weights.abs()


def asam(problem: Problem, eta: float) -> Tensor:
    """T of the authors' ASAM: |w| + eta for parameters named ``weight``, 1 for the others (SamsungLabs/ASAM)."""
    return problem.space.flatten(
        [
            p.abs() + eta if "weight" in name else torch.ones_like(p)
            for name, p in problem.space.named(problem.weights).items()
        ]
    )
