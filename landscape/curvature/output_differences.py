"""Gauss-Newton and Fisher products where the network has no second derivative: Jᵀ B (differences of the outputs).

`gauss_newton` reads Jv off a graph of Jᵀu, which is differentiated twice. Here Jv is (f(w + hv) − f(w − hv)) / 2h,
from two forward passes, and Jᵀ is one backward pass. Where the loss has no second derivative at the outputs either,
B is the difference quotient of its slope there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..autograd.second_derivatives import NoSecondDerivative, missing_derivative
from ..data.examples import Batch
from ..data.loss_values import batch_weight
from ..numerics.tensors import as_real
from ..problem.by_differences.differences import Bent, at_distance
from ..problem.problem import Problem
from .gauss_newton import Factor, Tangents, loss_hessian, slopes_of
from .outputs import Outputs, outputs_of

_STEP = {torch.float64: 6e-6, torch.float32: 5e-3}  # of the outputs, relative to their size


class OfOutputs:
    """Quotients Jᵀ B (f(w + hv) − f(w − hv)) / 2h of the mean loss (a `differences.Quotient`).

    Args:
        factor: B (see `landscape.curvature.gauss_newton`).
    """

    def __init__(self, factor: Factor) -> None:
        self.factor = factor

    def __call__(self, problem: Problem, unit: Tensor, step: float, *, bend: bool = False) -> Bent:
        """The quotient of one step: three forward passes and one backward pass, two for the bend."""
        with at_distance(problem, unit) as go, torch.enable_grad():

            def ends(batch: Batch) -> list[list[Tensor]]:
                found = []
                for distance in (step, -step):
                    go(distance)
                    found.append([as_real(t).detach().double() for t in outputs_of(problem, batch).tensors])
                go(0.0)
                return found

            def whole() -> list[Tensor]:
                total: list[Tensor] = []
                first = problem.stretch.start
                for batch in problem.micro_batches():
                    ahead, behind = ends(batch)
                    parts = self._of_batch(problem, batch, first, ahead, behind, step, bend)
                    total = [t + p for t, p in zip(total, parts, strict=True)] if total else parts
                    first += len(batch)
                return total

            sums = problem.summed(problem.retry_on_oom(whole))
        found = [part / problem.total_weight for part in sums]
        return Bent(found[0], float(torch.linalg.vector_norm(found[1])) if bend else None)

    def _of_batch(
        self,
        problem: Problem,
        batch: Batch,
        first: int,
        ahead: list[Tensor],
        behind: list[Tensor],
        step: float,
        bend: bool,
    ) -> list[Tensor]:
        """The batch's part of the product, and of what its bend is the length of."""
        outputs = outputs_of(problem, batch)
        real = [as_real(t) for t in outputs.tensors]
        if not real:
            return [torch.zeros_like(problem.weights, dtype=torch.float64)] * (2 if bend else 1)
        b = _nothing if batch.idle else self._b(problem, batch, first, outputs)
        middle = [t.detach().double() for t in real]
        along = [[(x - y) / (2 * step) for x, y in zip(ahead, behind, strict=True)]]
        if bend:
            along += [[(x + y - 2 * z) / (2 * step) for x, y, z in zip(ahead, behind, middle, strict=True)]]
        parts = []
        for i, tangents in enumerate(along):
            given = [t.to(z.dtype) for t, z in zip(tangents, real, strict=True)]
            pulled: Any = torch.autograd.grad(
                real, problem.space.tensors, b(given), retain_graph=i + 1 < len(along), allow_unused=True
            )
            parts.append(problem.space.flatten(pulled).double())
        return parts

    def _b(self, problem: Problem, batch: Batch, first: int, outputs: Outputs) -> Callable[[Tangents], Tangents]:
        """B, and where it is the Hessian of a loss that has none, the difference quotient of that loss's slope."""
        exact = self.factor(problem, batch, first, outputs)
        if self.factor is not loss_hessian:
            return exact

        def apply(tangents: Tangents) -> Tangents:
            try:
                return exact(tangents)
            except RuntimeError as error:
                if not isinstance(missing_derivative(error), NoSecondDerivative):
                    raise
            return _quotient_of_slopes(problem, batch, outputs, tangents)

        return apply


def _nothing(tangents: Tangents) -> Tangents:
    """B of a batch that takes part and does not count."""
    return [t * 0 for t in tangents]


def _quotient_of_slopes(problem: Problem, batch: Batch, outputs: Outputs, tangents: Tangents) -> Tangents:
    """B t as a central difference of the slope of the batch's summed loss, with steps relative to the outputs."""
    at = [as_real(t).detach() for t in outputs.tensors]
    length = _length(tangents)
    if not length:
        return [torch.zeros_like(t) for t in tangents]
    h = _STEP.get(at[0].dtype, _STEP[torch.float32]) * (_length(at) or 1.0) / length
    ahead, behind = (
        slopes_of(outputs, [z + s * h * t for z, t in zip(at, tangents, strict=True)])[1] for s in (1, -1)
    )
    whole = 1.0 if problem.loss_over == "example" else 1 / float(batch_weight(problem.loss_function, batch.targets))
    return [(x - y) * (whole / (2 * h)) for x, y in zip(ahead, behind, strict=True)]


def _length(tensors: Sequence[Tensor]) -> float:
    return float(torch.stack([t.double().square().sum() for t in tensors]).sum().sqrt())
