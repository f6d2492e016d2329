"""Symmetric curvature matrices, known by their products with vectors.

Of the mean loss over the examples of a `Problem`, exact over ragged micro-batches:

========================  ==========================================================================
``hessian``               ∇²L
``ggn``                   generalised Gauss-Newton, (1/N) Σ Jᵀ (∇²ℓ) J, and X·I of a weight decay X, as ∇²L has it
``fisher``                type-2 Fisher, labels in expectation under the prediction
``fisher-mc``             the same with drawn labels
``empirical-fisher``      (1/Σw) Σ wᵢ gᵢ gᵢᵀ, gᵢ the gradient of example (or prediction) i, wᵢ its weight
``gradient-covariance``   (1/Σw) Σ wᵢ (gᵢ − g)(gᵢ − g)ᵀ
========================  ==========================================================================

Whole network or parameter subset: as the problem says. One domain: ``problem.restrict_to_domain(name)``. Several
domains with weights: ``operator_of(problem, domain_weights={...})``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from ..base.errors import UsageError
from ..problem.by_differences.differences import Differences, Measured, OfGradients, Quotient
from ..problem.by_differences.either_product import EitherProducts
from ..problem.problem import Problem
from ..problem.products import Build, hessian_of_batch
from ..runtime.devices import sums_on, wide
from ..specs.analysis import OPERATORS
from .gauss_newton import Factor, fisher, gauss_newton_of_batch, label_slopes, loss_hessian, sampled_fisher
from .output_differences import OfOutputs
from .outputs import require_halves

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator


class Operator(ABC):
    """A symmetric matrix of ``n`` rows: ``operator(v)`` is its product with a vector ``(n,)``.

    Used in a ``with`` block, it lets go of the memory it holds at the end.

    Attributes:
        n: Rows.
        device: Where vectors live.
        dtype: Type of the products.
        count: Products made so far.
    """

    def __init__(self, n: int, device: torch.device, dtype: torch.dtype) -> None:
        self.n, self.device, self.dtype = n, device, dtype
        self.count = 0

    def __call__(self, vector: Tensor) -> Tensor:
        """The product with ``vector`` ``(n,)``. Not waited for: look at the numbers to know that it is finite."""
        self.count += 1
        return self.product(vector)

    @abstractmethod
    def product(self, vector: Tensor) -> Tensor:
        """One product, not counted."""

    def prepare(self, vector: Tensor) -> None:  # noqa: B027 - most need nothing
        """Do what the product with ``vector``, the first one, would do beside it: its own is stored."""

    def measure(self, vector: Tensor) -> Measured | None:
        """The product with ``vector`` and how wrong it is; None where products are exact. Not counted."""
        return None

    @property
    def differences(self) -> Differences | None:
        """What makes the products, where they are differences; None where they are exact, or nothing is known yet."""
        return None

    def close(self) -> None:  # noqa: B027 - nothing to let go of is a fine default
        """Let go of the memory it holds; it can still be used."""

    def facts(self) -> dict[str, Any]:
        """How the products are made, for the record."""
        return {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def dense(self) -> Tensor:
        """The matrix itself, ``(n, n)``, from ``n`` products; for small ones."""
        identity = torch.eye(self.n, dtype=self.dtype, device=self.device)
        return torch.stack([self(row) for row in identity], 1)

    def to_scipy(self) -> LinearOperator:
        """The same as a ``scipy.sparse.linalg.LinearOperator`` in float64."""
        import numpy as np
        from scipy.sparse.linalg import LinearOperator

        def matvec(vector: object) -> Any:
            given = torch.from_numpy(np.array(vector, dtype=np.float64).reshape(-1)).to(sums_on(self.device))
            return wide(self(given)).cpu().numpy()

        return LinearOperator((self.n, self.n), matvec=matvec, rmatvec=matvec, dtype=np.float64)


class CurvatureOperator(Operator):
    """One of the matrices above.

    Args:
        problem: Network, loss and examples.
        kind: A name from the table above.
        memory: Bytes for kept graphs; None takes half of what is free.
        seed: Of the drawn labels (``fisher-mc``).
        samples: Label sets to draw (``fisher-mc``).
        unit: What gᵢ is the gradient of: ``example``, or ``prediction`` (tokens, pixels).

    Raises:
        UsageError: If the kind is unknown, or the loss has no likelihood where one is needed.
    """

    def __init__(
        self,
        problem: Problem,
        kind: str = "hessian",
        *,
        memory: int | None = None,
        seed: int = 0,
        samples: int = 1,
        unit: str = "example",
    ) -> None:
        super().__init__(problem.n_parameters, problem.device, problem.dtype)
        if kind not in OPERATORS:
            raise UsageError(f"unknown operator {kind!r}", "`operator=`", f"there is: {', '.join(OPERATORS)}")
        if kind not in ("hessian", "ggn"):
            problem.require_examples(f"the {kind} matrix", "use `operator='ggn'` or hessian")
            problem.require_no_penalty(f"the {kind} matrix", "use ggn or hessian, which gain X·I, or leave it out")
        if kind != "hessian":
            require_halves(problem)
        self.problem, self.kind = problem, kind
        build, quotient = self._made_by(seed, samples, unit)
        self._products = EitherProducts(problem, build, quotient, kind=kind, memory=memory)
        self._mean = problem.gradient() if kind == "gradient-covariance" else None

    def _made_by(self, seed: int, samples: int, unit: str) -> tuple[Build, Quotient]:
        if self.kind == "hessian":
            return hessian_of_batch, OfGradients()
        factor = self._factor(seed, samples, unit)
        return gauss_newton_of_batch(factor), OfOutputs(factor)

    def _factor(self, seed: int, samples: int, unit: str) -> Factor:
        if self.kind == "ggn":
            return loss_hessian
        if self.kind == "fisher":
            return fisher(self.problem)
        if self.kind == "fisher-mc":
            return sampled_fisher(self.problem, seed, samples)
        return label_slopes(unit)

    def product(self, vector: Tensor) -> Tensor:
        """One product, not counted."""
        return self._completed(self._products(vector), vector)

    def _completed(self, found: Tensor, vector: Tensor) -> Tensor:
        """With what is no sum over examples."""
        if self._mean is not None:
            mean = self._mean.to(found)
            found = found - mean * (mean @ vector.to(mean))
        if self.kind == "ggn" and self.problem.weight_decay:  # the Hessian's products have it from the loss
            found = found + self.problem.weight_decay * vector.to(found)
        return found

    def close(self) -> None:
        """Let go of the kept graphs."""
        self._products.drop()

    def prepare(self, vector: Tensor) -> None:
        """Find out how products are made."""
        self._products.prepare(vector)

    def measure(self, vector: Tensor) -> Measured | None:
        """The product with ``vector`` and how wrong it is; None where products are exact."""
        found = self._products.measure(vector)
        return found and replace(found, image=self._completed(found.image, vector))

    @property
    def differences(self) -> Differences | None:
        """What makes the products, where they are differences."""
        return self._products.differences

    def facts(self) -> dict[str, Any]:
        """How products are made: budget and size of the kept graphs, or step and error of differences."""
        return self._products.facts()


class Mixture(Operator):
    """Σ weightᵢ · operatorᵢ."""

    def __init__(self, parts: Sequence[tuple[float, Operator]]) -> None:
        first = parts[0][1]
        super().__init__(first.n, first.device, first.dtype)
        self.parts = list(parts)

    def product(self, vector: Tensor) -> Tensor:
        """One product with each part, not counted."""
        return torch.stack([weight * part.product(vector) for weight, part in self.parts]).sum(0)

    def close(self) -> None:
        """Let go of what the parts hold."""
        for _, part in self.parts:
            part.close()


def operator_of(
    problem: Problem,
    kind: str = "hessian",
    *,
    domain_weights: Mapping[str, float] | None = None,
    memory: int | None = None,
    seed: int = 0,
    samples: int = 1,
    unit: str = "example",
) -> Operator:
    """A curvature matrix of the problem's mean loss, or of a weighted sum of its domains' mean losses.

    Args:
        problem: Network, loss and examples.
        kind: ``hessian``, ``ggn``, ``fisher``, ``fisher-mc``, ``empirical-fisher`` or ``gradient-covariance``.
        domain_weights: The loss is Σ weight · (mean loss of the domain); with the domains' shares of the examples
            this is the mean over all. For ``gradient-covariance`` it mixes the covariances within the domains.
        memory: Bytes for kept graphs; None takes half of what is free.
        seed: Of drawn labels (``fisher-mc``).
        samples: Label sets to draw (``fisher-mc``).
        unit: What the gradients of ``empirical-fisher`` and ``gradient-covariance`` are of: ``example`` or
            ``prediction``.

    Raises:
        UsageError: If a name is unknown, or no weight is given.
    """
    options: dict[str, Any] = {"memory": memory, "seed": seed, "samples": samples, "unit": unit}
    if domain_weights is None:
        return CurvatureOperator(problem, kind, **options)
    if not domain_weights:
        raise UsageError("no domain has a weight", "domain_weights", "name at least one domain")
    if memory is not None:
        options["memory"] = memory // len(domain_weights)
    return Mixture(
        [
            (w, CurvatureOperator(problem.restrict_to_domain(name), kind, **options))
            for name, w in domain_weights.items()
        ]
    )
