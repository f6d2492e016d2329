"""Exact products where there are, and differences where there are none: which of the two, and why.

Asked for ``exact``, what has no second derivative is refused by name. Asked for ``auto``, it falls back by name, for
good: all products of a problem are of one kind. Whatever has a gradient has products then.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...autograd.second_derivatives import NoSecondDerivative
from ...base.errors import NumericalError, ResourceError, is_the_machine
from ...runtime.distributed import OtherProcessFailed, is_distributed, no_sharding
from ...runtime.precision import full_precision
from ...sharding.assembly import regathering
from ..checks.derivatives import derivatives
from ..products import Build, Products, hessian_of_batch
from .differences import Differences, Measured, OfGradients, Quotient

if TYPE_CHECKING:
    from ..problem import Problem

_FEW = 2  # examples that are asked whether there are second derivatives


class EitherProducts:
    """Products with a curvature matrix of a problem's mean loss, as its ``product`` says.

    Args:
        problem: Network, loss and examples.
        build: The exact products (see `Products`).
        quotient: The differences.
        kind: Name of the matrix.
        memory: As of `Products`.

    Attributes:
        exact: The exact products.
        differences: The others, once it is known that these are made.
    """

    def __init__(
        self,
        problem: Problem,
        build: Build = hessian_of_batch,
        quotient: Quotient | None = None,
        *,
        kind: str = "hessian",
        memory: int | None = None,
    ) -> None:
        self.problem, self.kind = problem, kind
        self.exact = Products(problem, build, memory=memory)
        self.differences: Differences | None = None
        self._quotient = quotient or OfGradients()
        self._settled = problem.product == "exact"  # nothing is left to be found out
        known = problem.precisions.reasons.get(self._key)
        if problem.product == "difference":
            self._differ("asked for")
        elif problem.product == "auto" and known:
            self._differ(known)

    def __call__(self, vector: Tensor) -> Tensor:
        """The product with ``vector`` ``(n,)``, in the problem's type; not checked for finiteness.

        Raises:
            NoSecondDerivative: If exact products are asked for, and there are none.
            NumericalError: If an operation has no derivative at all.
        """
        if is_distributed():
            self.decide()  # on the same few examples in every process
        if self.differences is not None:
            return self.differences(vector)
        if self._settled:
            return self.exact(vector)
        try:
            found = self.exact(vector)
            self._require_right()
        except (NoSecondDerivative, RuntimeError) as error:
            if is_the_machine(error) or isinstance(error, ResourceError):
                raise
            return self._instead(vector, error)
        self._settled = True
        return found

    def decide(self) -> None:
        """Find out which products are made, on a few examples and without a whole product."""
        if self._settled:
            return
        problem = self.problem
        batch = problem.head(problem.batch_size if problem.fixed_batches else _FEW)
        ones = problem.space.own(torch.ones_like(problem.weights))
        around = regathering() if problem.in_pieces else nullcontext()  # all processes do this together
        try:
            with no_sharding(), torch.enable_grad(), full_precision(problem.device):
                with around:
                    self.exact.build(problem, batch, 0)(ones, False)
                self._require_right()
        except OtherProcessFailed:
            raise
        except (NoSecondDerivative, RuntimeError) as error:
            if not is_the_machine(error):
                self._differ(_said(error))
                self.problem.precisions.reasons[self._key] = _said(error)
        self._settled = True

    def prepare(self, vector: Tensor) -> None:
        """Do what the product with ``vector``, the first, would do beside it."""
        self.decide()
        if self.differences is not None and not self.differences.calibrated:
            self.differences.calibrate(vector)

    def drop(self) -> None:
        """Let go of all kept graphs."""
        self.exact.drop()

    def facts(self) -> dict[str, Any]:
        """How products are made, for the record."""
        if self.differences is not None:
            return self.differences.facts()
        return {"by": "exact", **self.exact.facts()}

    def measure(self, vector: Tensor) -> Measured | None:
        """The product with ``vector`` and how wrong it is; None where products are exact."""
        self.decide()
        return None if self.differences is None else self.differences.measure(vector)

    @property
    def _key(self) -> tuple[str, str | None]:
        return self.kind, self.problem.params

    def _differ(self, reason: str) -> None:
        precision = self.problem.precisions.new(reason)
        self.differences, self._settled = Differences(self.problem, self._quotient, precision), True
        self.exact.drop()

    def _instead(self, vector: Tensor, error: Exception) -> Tensor:
        """The first product by differences; the error itself where there are none either."""
        if not isinstance(error, NoSecondDerivative):
            try:
                self.problem.gradient()
            except (RuntimeError, NumericalError):
                raise error from None
        reason = _said(error)
        self._differ(reason)
        assert self.differences is not None
        found = self.differences(vector)
        self.problem.precisions.reasons[self._key] = reason
        return found

    def _require_right(self) -> None:
        """Compare exact products through custom functions with differences.

        Raises:
            NoSecondDerivative: If they are wrong, or cannot be compared.
        """
        names = self.problem.custom_functions
        if not names or self._settled:
            return
        found = derivatives(self.problem, product=True).product
        if found is None or found.wrong:
            what = "could not be compared with differences" if found is None else f"is wrong by {found.error:.1e}"
            raise NoSecondDerivative(f"the second derivative of {', '.join(names)} {what}", "curvature product", "")


def _said(error: Exception) -> str:
    """Why there are no exact products."""
    if isinstance(error, NumericalError):
        return error.what
    text = str(error).splitlines()
    return f"torch says: {text[0][:120] if text else type(error).__name__}"


def possible(error: float, largest: float) -> float:
    """A tolerance, relative to the largest curvature, that products with this error allow; one digit, rounded up."""
    share = max(error / largest, 1e-16)
    digit = 10.0 ** math.floor(math.log10(share))
    return float(f"{math.ceil(share / digit - 1e-9) * digit:.0e}")
