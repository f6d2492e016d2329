"""What is looked at before any curvature is believed."""

from __future__ import annotations

import torch

from ..base.errors import NumericalError
from ..problem.checks.derivatives import derivatives
from ..problem.problem import Problem
from .estimators.probes import Probes

SYMMETRY_LIMIT = {torch.float32: 1e-3, torch.float64: 1e-6}
_LOSS_LIMIT = {torch.float32: 1e-5, torch.float64: 1e-10}


def require_equal_passes(first: float, second: float, problem: Problem) -> None:
    """Compare the losses of two passes over the same examples.

    Raises:
        NumericalError: If they differ by more than rounding: dropout, augmentation or another random operation.
    """
    if abs(first - second) > _LOSS_LIMIT[problem.dtype] * max(1.0, abs(first)):
        raise NumericalError(
            f"two passes over the same examples give the losses {first:.7g} and {second:.7g}",
            type(problem.network).__name__,
            "the forward is random: make it deterministic in eval mode",
        )


def symmetry_error(
    probes: Probes, problem: Problem, reason: str | None = None, rounding: bool = False, accuracy: float = 0.0
) -> float:
    """Estimated relative asymmetry ‖H − Hᵀ‖ / ‖H‖ (Frobenius) from the first three probes, which are kept.

    Dividing by ‖Hu‖ and not by ‖Hu‖‖v‖ keeps the estimate independent of the number of parameters; the other
    form lets wrong second derivatives pass in large networks.

    Args:
        probes: Of the products.
        problem: Their problem.
        reason: Why they may not be symmetric, where that is known.
        rounding: Whether second derivatives are right in float64, so that only rounding is left in float32.
        accuracy: Relative error of products that is known; ten times as much is allowed.

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
            "check the weights and the data, or use `dtype='float64'`",
        )
    worst = 0.0
    for (i, j), difference in zip(pairs, values[3:], strict=True):
        size = max(values[i], values[j])
        worst = max(worst, abs(difference) / size) if size > 0 else worst
    if worst > max(SYMMETRY_LIMIT[problem.dtype], 10 * accuracy):
        if rounding and problem.dtype == torch.float32 and reason is None:
            # Probabilities next to 0 and 1 cancel in the derivative of a softmax.
            reason = "they are rounded: in float64 they agree with differences of the gradient; use `dtype='float64'`"
        raise NumericalError(
            f"the curvature products are not symmetric (relative error {worst:.1e})",
            type(problem.network).__name__,
            reason or "an operation of the model has a wrong second derivative, or its forward is random",
        )
    return worst


def check_custom_functions(problem: Problem) -> float | None:
    """Compare one Hessian product with central differences of gradients where custom functions occur.

    A custom autograd function that saves a detached tensor loses its part of the Hessian, silently and
    symmetrically; only differences see it.

    Returns:
        The relative difference, or None where there is no custom function.

    Raises:
        NumericalError: If they disagree.
    """
    names = problem.custom_functions
    if not names:
        return None
    found = derivatives(problem, product=True)
    if found.product is None:
        what = f"the second derivative of {', '.join(names)} could not be compared with differences"
        raise NumericalError(what, "curvature product", found.reason)
    if found.product.wrong:
        first = ""
        if found.gradient is not None and found.gradient.wrong:
            first = f", and the gradient through it is not the slope of the loss by {found.gradient.error:.1e}"
        raise NumericalError(
            f"the second derivative of {', '.join(names)} is wrong by {found.product.error:.1e}{first}",
            "compared with differences of gradients in float64",
            "let its backward use tensors from save_for_backward and differentiable operations only",
        )
    return found.product.error
