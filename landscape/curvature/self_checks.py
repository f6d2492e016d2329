"""What is looked at before any curvature is believed."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from ..base.errors import NumericalError
from ..problem.checks.derivatives import derivatives
from ..problem.problem import Problem
from .lanczos.krylov import Krylov

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


class ProductChecks:
    """Looks at the products of an eigenvalue run, block by block, and asks for none itself.

    ``symmetry`` estimates ‖H − Hᵀ‖ / ‖H‖. Of two random unit vectors p and q it is √n·|pᵀHq − qᵀHp| / ‖Hp‖ (Frobenius
    norms; dividing by ‖Hp‖ and not by ‖Hp‖‖q‖ keeps it independent of the number of parameters; the other form lets
    wrong second derivatives pass in large networks). Of a random p and any basis vector q, √n·|pᵀHq − qᵀHp| is about
    ‖(H − Hᵀ)q‖, and of two basis vectors the difference itself is a lower bound of ‖H − Hᵀ‖; both relative to the
    largest ‖Hq‖ met, as rounding is. ``difference`` is what `check_custom_functions` found beside the first block.

    Args:
        problem: Whose products they are.
        reason: Why they may not be symmetric, where that is known.
        rounding: Whether second derivatives are right in float64, so that only rounding is left in float32.
        begin: Called after the first block of products: what it finds is ``difference``.
        accuracy: Relative error of products, as far as it is known; ten times as much is allowed.
    """

    def __init__(
        self,
        problem: Problem,
        reason: str | None = None,
        rounding: bool = False,
        begin: Callable[[], float | None] | None = None,
        accuracy: Callable[[], float] = float,
    ) -> None:
        self.problem, self.reason, self.rounding = problem, reason, rounding
        self.begin, self.accuracy = begin, accuracy
        self.symmetry = 0.0
        self.difference: float | None = None

    def __call__(self, space: Krylov) -> None:
        """Look at what the space knows by now.

        Raises:
            NumericalError: If ``symmetry`` exceeds 1e-3 (float32) or 1e-6 (float64): some second derivative is
                wrong; or if that of a custom function is.
        """
        root = math.sqrt(space.n)
        starts, beside, within = space.skew
        largest = space.largest or 1.0
        self.symmetry = float(max(self.symmetry, root * starts, root * beside / largest, within / largest))
        if self.symmetry > max(SYMMETRY_LIMIT[self.problem.dtype], 10 * self.accuracy()):
            reason = self.reason
            if self.rounding and self.problem.dtype == torch.float32 and reason is None:
                # Probabilities next to 0 and 1 cancel in the derivative of a softmax.
                reason = (
                    "they are rounded: in float64 they agree with differences of the gradient; use `dtype='float64'`"
                )
            raise NumericalError(
                f"the curvature products are not symmetric (relative error {self.symmetry:.1e})",
                type(self.problem.network).__name__,
                reason or "an operation of the model has a wrong second derivative, or its forward is random",
            )
        if self.begin is not None:  # which custom functions there are is known once there is a graph
            begin, self.begin = self.begin, None
            self.difference = begin()


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
