"""SAM: sharpness-aware minimization (Foret et al. 2021, arXiv 2010.01412, Eq. 2-3, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Unpack

import torch
from torch import Tensor

from ..autograd.second_derivatives import missing_derivative
from ..autograd.substitutes import twice_differentiable
from ..base.errors import UsageError
from ..numerics.ascent import EPSILON, ascent_steps, real_view
from ..runtime.distributed import all_reduce_sum_
from .core.closures import ClosurePasses
from .core.inner_product import inner
from .core.passes import frozen_running_statistics
from .core.perturbation import ParamWithGrad
from .core.shared_options import SharedOptions, require_count, require_one_of
from .core.two_pass import TwoPass


class SAM(TwoPass):
    """Minimise the loss at the worst point of a ball of radius rho, to first order.

    With g = ∇L(w) over the batch and one norm over all parameters of all groups,

        e = rho · g / (‖g‖ + 1e-12),   update gradient G = ∇L(w + e).

    The derivative of e with respect to w is dropped, as in the paper, unless ``order=2``. Weight decay belongs to
    the base optimizer and acts at the unperturbed w. Cost: 2 gradients per step (``ascent_steps`` + 1; one more
    double backward with ``order=2``); memory: one copy of the weights.

    Args:
        base: Makes the step with G.
        rho: Radius in weight space; 0.05 is the paper's CIFAR-10 value. 0 gives the base optimizer.
        adaptive: Measure the ball in units of |w|, elementwise on every parameter: e = rho·w²⊙g/‖|w|⊙g‖
            (davda54/sam; its example uses rho = 2.0).
        p: Norm of the ball, ``"1"``, ``"2"`` or ``"inf"`` (the paper's Eq. 2; its section C.5 finds 2 best).
        ascent_steps: n steps of length rho/n along the normalised gradient at each point, without projection
            (the paper's section C.6 does not print its step size; this is the common choice).
        order: 2 keeps the derivative of e: G = g' + rho·H·[g'/‖g‖ − ĝ·⟨g,g'⟩/‖g‖²] with ĝ = g/‖g‖, H the
            Hessian at w (the paper's Eq. before 3, section C.4). Needs a `BatchLoss` closure, p = 2, one step.
        **common: See `landscape.optim.core.engine.SharedOptions`.

    Example:
        >>> import torch
        >>> from landscape.optim import SAM
        >>> x, model = torch.tensor([[1.0, 0.0], [1.0, 2.0], [0.0, 1.0]]), torch.nn.Linear(2, 1)
        >>> optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05)
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = model(x).square().mean()
        ...     loss.backward()
        ...     return loss
        >>> first, *_, last = [float(optimizer.step(closure)) for _ in range(30)]
        >>> last < first
        True
    """

    def __init__(
        self,
        base: torch.optim.Optimizer,
        rho: float = 0.05,
        *,
        adaptive: bool = False,
        p: str = "2",
        ascent_steps: int = 1,
        order: Literal[1, 2] = 1,
        **common: Unpack[SharedOptions],
    ) -> None:
        require_one_of("p", p, ("1", "2", "inf"))
        require_one_of("order", order, (1, 2))
        require_count("ascent_steps", ascent_steps)
        super().__init__(base, common, rho=rho)
        self.adaptive, self.p, self.climbs, self.order = adaptive, p, ascent_steps, order
        if order == 2 and (adaptive or p != "2" or ascent_steps != 1):
            raise UsageError(
                "second-order SAM is defined for one plain step with p = 2", "`order=2`", "drop the other options"
            )
        self.keeps_gradient = order == 2

    def perturbation(
        self, moved: list[ParamWithGrad], gradients: list[Tensor], home: list[Tensor]
    ) -> Iterator[Tensor]:
        """The step of length rho / n in the chosen ball."""
        self.gradient_norm(gradients)
        scaling = (lambda i: home[i].abs()) if self.adaptive else None
        return ascent_steps(gradients, [m.group["rho"] / self.climbs for m in moved], p=self.p, scaling=scaling)

    def combine(self, moved: list[ParamWithGrad], gradients: list[Tensor]) -> None:
        """Nothing to do, but for ``order=2``: add (∂e/∂w)ᵀ g', one curvature product at the unperturbed weights."""
        if self.order == 1:
            return
        there = [m.gradient for m in moved]
        n = self.gradient_norm(gradients)
        towards = [m.group["rho"] * x / (n + EPSILON) for m, x in zip(moved, there, strict=True)]
        along = inner(gradients, towards) / ((n + EPSILON) * n.clamp(min=torch.finfo(n.dtype).tiny))
        vector = [t - along * g for t, g in zip(towards, gradients, strict=True)]
        for m, v, hv in zip(moved, vector, self.curvature_product(self._work, moved, vector), strict=True):
            m.gradient.add_(hv)
            if decay := m.group.get("perturbed_weight_decay"):  # whose gradient e is along, too
                m.gradient.add_(v, alpha=decay)

    def curvature_product(
        self, work: ClosurePasses | None, moved: list[ParamWithGrad], vector: list[Tensor]
    ) -> list[Tensor]:
        """H v of the batch loss at the present weights, by a double backward pass; one tensor per parameter.

        Raises:
            UsageError: If the closure differentiates the loss itself.
        """
        if work is None or work.fills_gradients:
            raise UsageError(
                "second-order SAM must differentiate the loss itself",
                "closure",
                "return BatchLoss(mean) without calling backward",
            )
        parameters = [m.parameter for m in moved]
        total = [torch.zeros_like(m.weights) for m in moved]
        work.replay()
        with torch.enable_grad(), frozen_running_statistics(), twice_differentiable(set()):
            for _, objective in work.next():
                assert objective is not None
                try:
                    first = torch.autograd.grad(objective, parameters, create_graph=True, materialize_grads=True)
                    slope = torch.stack([(real_view(g) * v).sum() for g, v in zip(first, vector, strict=True)]).sum()
                    second = torch.autograd.grad(slope, parameters, materialize_grads=True)
                except RuntimeError as error:
                    raise missing_derivative(error) from error
                for t, s in zip(total, second, strict=True):
                    t.add_(real_view(s))
        if work.shared:
            all_reduce_sum_(total)
        self.gradient_evaluations += 1
        return total
