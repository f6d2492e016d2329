"""What is looked at before any curvature is believed."""

from __future__ import annotations

import torch
from torch import Tensor

from ..distributed import alone
from ..errors import NumericalError
from ..problem import Problem
from .probes import Probes

SYMMETRY_LIMIT = {torch.float32: 1e-3, torch.float64: 1e-6}
_LOSS_LIMIT = {torch.float32: 1e-5, torch.float64: 1e-10}
_DIFFERENCE_LIMIT = 1e-4


def require_equal_passes(first: float, second: float, problem: Problem) -> None:
    """Compare the losses of two passes over the same examples.

    Raises:
        NumericalError: If they differ by more than rounding: dropout, augmentation or another random operation.
    """
    if abs(first - second) > _LOSS_LIMIT[problem.dtype] * max(1.0, abs(first)):
        raise NumericalError(
            f"two passes over the same examples give the losses {first:.7g} and {second:.7g}",
            type(problem.model).__name__,
            "the forward is random: make it deterministic in eval mode",
        )


def symmetry_error(probes: Probes, problem: Problem) -> float:
    """Estimated relative asymmetry ‖H − Hᵀ‖ / ‖H‖ (Frobenius) from the first three probes, which are kept.

    Dividing by ‖Hu‖ and not by ‖Hu‖‖v‖ keeps the estimate independent of the number of parameters; the other
    form lets wrong second derivatives pass in large networks.

    Raises:
        NumericalError: If it exceeds 1e-3 (float32) or 1e-6 (float64): some operation's second derivative is wrong.
    """
    vectors = [probes.vector(i) for i in range(3)]
    images = [probes.product(i, keep=True) for i in range(3)]
    pairs = ((0, 1), (0, 2), (1, 2))
    numbers = [torch.linalg.vector_norm(p) for p in images]
    numbers += [vectors[i] @ images[j] - vectors[j] @ images[i] for i, j in pairs]
    values = torch.stack(numbers).tolist()
    if not all(v - v == 0 for v in values):
        raise NumericalError(
            "a curvature product is not finite",
            f"{problem.loss_name} over {problem.n_examples} examples",
            "check the weights and the data, or use --dtype float64",
        )
    worst = 0.0
    for (i, j), difference in zip(pairs, values[3:], strict=True):
        size = max(values[i], values[j])
        worst = max(worst, abs(difference) / size) if size > 0 else worst
    if worst > SYMMETRY_LIMIT[problem.dtype]:
        raise NumericalError(
            f"the curvature products are not symmetric (relative error {worst:.1e})",
            type(problem.model).__name__,
            "an operation of the model has a wrong second derivative, or its forward is random",
        )
    return worst


@alone()
def check_custom_functions(problem: Problem) -> float | None:
    """Compare one Hessian product with central differences of gradients, in float64, where custom functions occur.

    A custom autograd function that saves a detached tensor loses its part of the Hessian, silently and
    symmetrically; only differences see it. The step is 1e-4 along a unit vector, over the first micro-batch.

    Returns:
        The relative difference, or None where there is no custom function.

    Raises:
        NumericalError: If it exceeds 1e-4.
    """
    names = problem.custom_functions
    if not names:
        return None
    size = min(problem.n_examples, problem.batch_size)
    double = problem.in_double(size)
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(double.n_parameters, generator=generator, dtype=torch.float64).to(double.device)
    v = v / torch.linalg.vector_norm(v)
    step = 1e-4
    ends: list[Tensor] = []
    for sign in (1.0, -1.0):
        with double.excursion() as tensors:
            torch._foreach_add_(tensors, double.space.split(v), alpha=sign * step)
            ends.append(double.gradient())
    expected = (ends[0] - ends[1]) / (2 * step)
    size_of = float(torch.linalg.vector_norm(expected))
    error = float(torch.linalg.vector_norm(double.hvp(v) - expected)) / size_of if size_of > 0 else 0.0
    if error > _DIFFERENCE_LIMIT:
        raise NumericalError(
            f"the second derivative of {', '.join(names)} is wrong by {error:.1e}",
            "compared with differences of gradients in float64",
            "let its backward use tensors from save_for_backward and differentiable operations only",
        )
    return error
