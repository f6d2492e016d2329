"""What a training can record about itself: the quantities of the papers, at the weights before a step.

A probe looks at the batch of the step with passes of its own, in the mode of training, with the step's random
numbers; weights, gradients, running statistics and random numbers are as before afterwards. So probes are the
same for every optimizer, and a run with probes ends where it ends without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..autograd.substitutes import twice_differentiable
from ..curvature.hessian import hessian
from ..measures.sharpness import sharpness
from ..numerics.ascent import ascent_step, global_norm
from ..numerics.tensors import as_real
from ..optim.core.inner_product import inner
from ..optim.core.passes import RandomState, frozen_running_statistics
from ..optim.disam import climb_weights
from ..problem.problem import Problem
from ..registry import PROBES
from ..runtime.devices import wide
from ..specs import HessianSpec, SharpnessSpec
from .steps import BatchLosses

_INNER_STEPS = 20
_BLOCKS = (1, 16)  # examples that climb together
_BY_DOMAIN = ("domain-losses", "domain-weights")


@dataclass
class AscentPoint:
    """The weights, the batch and the settings that a probe looks at.

    Attributes:
        losses: The closure of the step.
        parameters: What is trained.
        rho: Radius: the method's own, or 0.05.
        lam: Weight of the domain-loss variance: the method's own, or 0.1.
        lr: Learning rate of the step.
        eigenvalues: Gives the top eigenvalues of the training loss at these weights, descending.
        random: The random numbers of the step.
        sharpness: Gives the m-sharpness of the training loss at these weights, by ``m_M``.
    """

    losses: BatchLosses
    parameters: list[nn.Parameter]
    rho: float
    lam: float
    lr: float
    eigenvalues: Callable[[], list[float]]
    random: RandomState
    sharpness: Callable[[], dict[str, float]] = dict

    def gradient(self) -> tuple[Tensor, list[Tensor]]:
        """Mean loss and its gradient at the present weights; of a complex weight that of its real numbers."""
        loss, gradient = self.own_gradient()
        whole = [loss.detach().clone(), *gradient]
        self.losses.add_up(whole)
        return whole[0], whole[1:]

    def own_gradient(self, graph: bool = False) -> tuple[Tensor, list[Tensor]]:
        """The same of this process's share of the batch; with ``graph`` it can be differentiated again."""
        self.random.restore()
        loss = self.losses.mean()
        return loss, self.derivative(loss, graph=graph)

    def derivative(self, value: Tensor, *, graph: bool = False) -> list[Tensor]:
        """The gradient of ``value``, one real tensor per parameter, complex ones as pairs ``(..., 2)``."""
        found = torch.autograd.grad(value, self.parameters, create_graph=graph, materialize_grads=True)
        return [as_real(g) for g in found]

    def domain_losses(self) -> Tensor:
        """Mean loss of each domain in the batch ``(M,)``."""
        self.random.restore()
        with torch.no_grad():
            return self.losses.domain_losses()

    def climb(self, gradient: list[Tensor]) -> list[Tensor]:
        """SAM's step of radius rho."""
        return ascent_step(gradient, self.rho)

    @contextmanager
    def at(self, step: list[Tensor]) -> Iterator[None]:
        """The weights moved by ``step`` in the block, and back bit for bit."""
        home = [p.detach().clone() for p in self.parameters]
        try:
            with torch.no_grad():
                for p, e in zip(self.parameters, step, strict=True):
                    as_real(p).add_(e)
            yield
        finally:
            with torch.no_grad():
                for p, w in zip(self.parameters, home, strict=True):
                    p.copy_(w)


def surrogate_gap(point: AscentPoint) -> dict[str, float]:
    """GSAM's and SAGM's h = L(w + e) − L(w), with 2h/rho² and ‖g‖ (arXiv 2203.08065).

    2(h − rho·‖g‖)/rho² tends to the curvature along the gradient as rho goes to 0.
    """
    loss, g = point.gradient()
    with point.at(point.climb(g)):
        there = point.gradient()[0]
    h = float(there.detach() - loss.detach())
    squared = point.rho**2
    return {"h": h, "h_scaled": 2 * h / squared if squared else 0.0, "gradient_norm": float(global_norm(g))}


def gradient_alignment(point: AscentPoint) -> dict[str, float]:
    """Cosine and angle (degrees) between the gradients at w and at w + e.

    ``conflict`` is the share of parameters in which they differ in sign.
    """
    _, g = point.gradient()
    with point.at(point.climb(g)):
        _, there = point.gradient()
    cosine = _cosine(g, there)
    opposed = sum(int((a * b < 0).sum()) for a, b in zip(g, there, strict=True))
    return {
        "cosine": cosine,
        "angle": float(torch.rad2deg(torch.arccos(torch.tensor(cosine, dtype=torch.float64).clamp(-1, 1)))),
        "conflict": opposed / sum(t.numel() for t in g),
    }


def gradient_conflict(point: AscentPoint) -> dict[str, float]:
    """Whether the gradient of the surrogate gap, ∇h = ∇L(w + e) − ∇L(w), works against those it is made of.

    SAGM (arXiv 2303.10353, section 3) descends L, L_p = L(w + e) and h = L_p − L together. The angle of ∇L and ∇L_p
    is near 0 for a small rho by construction and says nothing of that: ∇h is their difference. Cosines of ∇h with
    ∇L and with ∇L_p; below 0 a step down h goes up the other, and ``opposes_loss`` or ``opposes_perturbed`` is 1, so
    that their means are shares of steps. ``ratio`` is ‖∇h‖/‖∇L‖.
    """
    _, g = point.gradient()
    with point.at(point.climb(g)):
        _, there = point.gradient()
    gap = [b - a for a, b in zip(g, there, strict=True)]
    with_loss, with_perturbed = _cosine(gap, g), _cosine(gap, there)
    return {
        "cosine_loss": with_loss,
        "cosine_perturbed": with_perturbed,
        "opposes_loss": float(with_loss < 0),
        "opposes_perturbed": float(with_perturbed < 0),
        "ratio": float(global_norm(gap) / (global_norm(g) + 1e-30)),
    }


def second_order(point: AscentPoint) -> dict[str, float]:
    """Cosine and ratio of norms between SAM's first-order update gradient and that with the derivative of e."""
    _, g = point.gradient()
    with point.at(point.climb(g)):
        _, there = point.gradient()
    n = global_norm(g) + 1e-12
    towards = [point.rho * t / n for t in there]
    along = inner(g, towards) / n**2
    vector = [t - along * x for t, x in zip(towards, g, strict=True)]
    with twice_differentiable(set()):
        _, differentiable = point.own_gradient(graph=True)
        slope = torch.stack([(a * v).sum() for a, v in zip(differentiable, vector, strict=True)]).sum()
        product = point.derivative(slope)
        point.losses.add_up(product)
    full = [t + hv for t, hv in zip(there, product, strict=True)]
    return {"cosine": _cosine(there, full), "norm_ratio": float(global_norm(full) / (global_norm(there) + 1e-12))}


def inner_maximum(point: AscentPoint) -> dict[str, float]:
    """Loss rise of SAM's single step as a fraction of the inner maximum.

    The maximum is estimated by projected gradient ascent: 20 steps of length rho/5 from SAM's point, projected on
    the ball; the best point counts.
    """
    loss, g = point.gradient()
    start = float(loss.detach())
    step = point.climb(g)
    with point.at(step):
        one = float(point.gradient()[0].detach()) - start
    best = one
    for _ in range(_INNER_STEPS):
        with point.at(step):
            value, there = point.gradient()
        best = max(best, float(value.detach()) - start)
        moved = [e + m for e, m in zip(step, ascent_step(there, point.rho / 5), strict=True)]
        shrink = min(1.0, point.rho / max(float(global_norm(moved)), 1e-30))
        step = [m * shrink for m in moved]
    with point.at(step):
        best = max(best, float(point.gradient()[0].detach()) - start)
    return {"one_step": one, "maximum": best, "fraction": one / best if best > 0 else 1.0}


def domain_weights(point: AscentPoint) -> dict[str, float]:
    """beta_i: the weight of each domain's gradient in DISAM's climb, at the method's lam (arXiv 2405.18861)."""
    losses = point.domain_losses()
    counts = point.losses.domain_counts()
    beta = climb_weights(losses, counts, point.lam)
    return {str(i): float(b) for i, b in zip(point.losses.present, beta.tolist(), strict=True)}


def domain_losses(point: AscentPoint) -> dict[str, float]:
    """Mean loss of each domain at w, by its index."""
    return {str(i): v for i, v in zip(point.losses.present, point.domain_losses().tolist(), strict=True)}


def domain_variance(point: AscentPoint) -> dict[str, float]:
    """Variance of the domain losses (uniform, ddof 0) at w and after SAM's climb."""
    _, g = point.gradient()
    before = wide(point.domain_losses()).var(correction=0)
    with point.at(point.climb(g)):
        after = wide(point.domain_losses()).var(correction=0)
    return {"before": float(before), "after": float(after)}


def eigenvalues(point: AscentPoint) -> dict[str, float]:
    """The five largest eigenvalues of the Hessian of the training loss (eval mode), and lambda_1/lambda_5."""
    found = point.eigenvalues()
    values = {f"lambda_{i + 1}": v for i, v in enumerate(found)}
    return values | ({"ratio": found[0] / found[4]} if len(found) > 4 and found[4] else {})


def top_eigenvalues(problem: Problem) -> list[float]:
    """What the probe ``eigenvalues`` shows of a problem: the five largest, or as many as there are, descending."""
    top = min(5, problem.n_parameters - 1)
    found: list[float] = hessian(problem, HessianSpec(top=top, allow_partial=True)).record["eigenvalues"]
    return found


def m_sharpness(point: AscentPoint) -> dict[str, float]:
    """Mean rise of the loss of blocks of m examples that each climb by rho, in eval mode (arXiv 2010.01412, 4.1)."""
    return point.sharpness()


def sharpness_in_blocks(problem: Problem, rho: float) -> dict[str, float]:
    """What the probe ``m-sharpness`` shows of a problem, by ``m_M``; M is at most the number of examples."""
    m = tuple(sorted({min(m, problem.n_examples) for m in _BLOCKS}))
    rows = sharpness(problem, SharpnessSpec(m=m, rho=(rho,)))["measures"]
    return {f"m_{row['m']}": row["value"] for row in rows}


def with_domain_names(taken: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """What `take` gives, its domains by name in place of their indices."""
    return {
        probe: {names[int(i)]: v for i, v in values.items()} if probe in _BY_DOMAIN else values
        for probe, values in taken.items()
    }


def take(names: list[str], point: AscentPoint) -> dict[str, Any]:
    """The values of the named probes; everything is as before afterwards."""
    gradients = [p.grad for p in point.parameters]
    with frozen_running_statistics(), torch.enable_grad():
        try:
            return {name: PROBES.load(name)(point) for name in names}
        finally:
            point.random.restore()
            for p, g in zip(point.parameters, gradients, strict=True):
                p.grad = g


def _cosine(a: list[Tensor], b: list[Tensor]) -> float:
    return float(inner(a, b) / (global_norm(a) * global_norm(b) + 1e-30))
