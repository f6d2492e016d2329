"""What products by differences are worth: measured errors beside every number, tolerances that they allow.

Exact products pass through here unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from ..autograd.second_derivatives import NoSecondDerivative
from ..base.errors import NumericalError
from ..base.progress import report
from ..numerics.steps import SAFETY
from ..problem.by_differences.differences import Differences
from ..problem.by_differences.either_product import possible
from ..problem.checks.derivatives import Derivatives, derivatives
from ..problem.problem import Problem
from ..specs import HessianSpec
from .estimators.probes import Probes
from .lanczos.eigenpairs import Spectrum
from .lanczos.pairs import EigenPairs
from .operators import Operator

_FAR = 4.0  # a calibration may underestimate |lambda_max| by so much
_PROBES = (1, 2)  # the others of the symmetry check; the first was measured when it was made


def compared_derivatives(problem: Problem, operator: Operator, kind: str) -> Derivatives:
    """The gradient beside differences of the loss, and an exact Hessian product beside those of the gradient."""
    if kind != "hessian" or problem.product == "difference" or operator.differences is not None:
        return derivatives(problem)
    try:
        return derivatives(problem, product=True)
    except NoSecondDerivative:
        if problem.product == "exact":
            raise
        return derivatives(problem)


def accuracy_of(operator: Operator) -> float:
    """Error of a product with a random vector relative to its length; 0 where products are exact."""
    return operator.differences.precision.first if operator.differences else 0.0


def require_possible(differences: Differences, spec: HessianSpec, problem: Problem) -> None:
    """Refuse a tolerance that errors of products, as far as they are known, do not allow by far.

    Raises:
        NumericalError: Naming one that is possible.
    """
    largest, error = differences.precision.largest, differences.precision.error
    if not largest or spec.allow_partial or error <= _FAR * spec.tol * largest:
        return
    double = "" if problem.dtype == torch.float64 else ", or `dtype='float64'`"
    raise NumericalError(
        f"products by differences ({differences.precision.reason}) are off by {error / largest:.1e} of the largest "
        f"curvature, far more than the tolerance {spec.tol:g}",
        f"measured on {differences.precision.measured} vectors",
        f"use `tol={possible(error, largest):g}`{double}, or accept what there is with `allow_partial=True`",
    )


def measured_pairs(spectrum: Spectrum, operator: Operator, tol: float) -> tuple[Spectrum, dict[str, Any]]:
    """Eigenpairs with the residuals of products that were measured, and what is stored of the products.

    An eigenvalue becomes the Rayleigh quotient of the better product; a pair has converged if its residual and the
    bar of that product together are within the tolerance.
    """
    if operator.differences is None:
        return spectrum, {"by": "exact"}
    top, errors = _measured(spectrum.top, operator, spectrum.scale, tol, descending=True)
    bottom, below = _measured(spectrum.bottom, operator, spectrum.scale, tol, descending=False)
    facts = {k: v for k, v in operator.facts().items() if k != "quotients"}
    scale = spectrum.scale
    facts |= {
        "relative_error": facts["error"] / scale if scale else None,
        "eigenvalue_errors": errors,
        "smallest_errors": below,
    }
    return replace(spectrum, top=top, bottom=bottom), facts


def _measured(
    pairs: EigenPairs, operator: Operator, scale: float, tol: float, *, descending: bool
) -> tuple[EigenPairs, list[float]]:
    """The pairs, and for each how far the nearest eigenvalue may be: its residual and its product's bar."""
    values, residuals, bars = [], [], []
    for done, vector in enumerate(pairs.vectors, 1):
        found = operator.measure(vector)
        report("measured products", done, len(pairs.vectors))
        assert found is not None
        image = found.image.to(vector)
        value = float(vector @ image)
        values.append(value)
        residuals.append(float(torch.linalg.vector_norm(image - value * vector)))
        bars.append(residuals[-1] + found.error)
    order = sorted(range(len(values)), key=lambda i: values[i], reverse=descending)
    of = scale or 1.0
    return (
        EigenPairs(
            torch.tensor([values[i] for i in order], dtype=torch.float64),
            pairs.vectors[torch.tensor(order, dtype=torch.long, device=pairs.vectors.device)],
            torch.tensor([residuals[i] / of for i in order], dtype=torch.float64),
            torch.tensor([bars[i] / of <= tol for i in order], dtype=torch.bool),
        ),
        [bars[i] for i in order],
    )


def product_error(probes: Probes, operator: Operator) -> dict[str, float]:
    """How far products by differences may move a trace: the largest error of vᵀHv over measured probes."""
    if operator.differences is None:
        return {}
    worst = 0.0
    for i in _PROBES:
        v = probes.vector(i)
        best = operator.measure(v)
        assert best is not None
        away = float(v @ (probes.product(i, keep=True) - best.image.to(v)))
        worst = max(worst, SAFETY * abs(away) + best.error)
    return {"product_error": worst}


def way_out(views: Sequence[Mapping[str, Any]], spec: HessianSpec) -> str | None:
    """What to do about pairs that products by differences do not let converge; None where they are not the reason."""
    wanted = 0.0
    for view in views:
        product = view["product"]
        if product["by"] == "exact" or not view["residual_scale"]:
            continue
        if (product["relative_error"] or 0) > spec.tol / 2:
            bars = [*product["eigenvalue_errors"], *product["smallest_errors"]]
            wanted = max(wanted, max(bars) / view["residual_scale"])
    if not wanted:
        return None
    return (
        f"products by differences are not accurate enough: use `tol={possible(wanted, 1.0):g}`, `dtype='float64'`, "
        "or accept them with `allow_partial=True`"
    )
