"""``hessian``: extreme eigenvalues of the Hessian of the mean loss, each with its true residual."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import NumericalError, UsageError
from ..problem import Problem
from ..progress import report
from ..result import Result
from ..specs import HessianSpec
from .lanczos import EigenPairs, Spectrum, lanczos

_SYMMETRY_LIMIT = {torch.float32: 1e-3, torch.float64: 1e-6}


class NotConverged(NumericalError):
    """The budget ended before every wanted pair met the tolerance; ``result`` holds what there is."""

    def __init__(self, what: str, where: str, fix: str, result: Result) -> None:
        super().__init__(what, where, fix)
        self.result = result


def hessian(
    problem: Problem,
    spec: HessianSpec | None = None,
    *,
    seed: int = 0,
    per_domain: bool = False,
    **options: Any,
) -> Result:
    """Largest and smallest eigenvalues of the Hessian of the mean loss over the problem's examples.

    Args:
        problem: Network, loss and examples.
        spec: What to compute; or give its fields as keywords (``top=5, tol=1e-3``).
        seed: Seed of the start vectors and of the symmetry check.
        per_domain: Also for the loss of each domain alone.
        **options: Fields of `HessianSpec`.

    Returns:
        ``eigenvalues``, ``residuals`` and ``converged`` over ``rank`` (descending), ``smallest...`` likewise
        (ascending), and the record of the command.

    Raises:
        NotConverged: If a pair missed the tolerance within the budget, unless ``allow_partial``.
        NumericalError: If the loss is not finite, or the products are not symmetric.
        UsageError: If as many pairs are asked for as there are parameters.
    """
    spec = spec or HessianSpec(**options)
    n = problem.n_parameters
    for name in ("top", "bottom"):
        if getattr(spec, name) >= n:
            raise UsageError(f"{name}={getattr(spec, name)}", f"--{name}", f"expected fewer than the {n} parameters")
    started = time.perf_counter()
    evaluation = problem.require_finite()
    gradient_norm = float(torch.linalg.vector_norm(problem.gradient().double()))
    symmetry, checks = _symmetry_error(problem, seed)
    spectrum = _spectrum(problem, spec, seed)
    domains = (
        {name: _of_domain(problem.of_domain(name), spec, seed) for name in problem.present_domains()}
        if per_domain
        else None
    )
    record = {
        "target": None,
        "operator": "hessian",
        **problem.describe(),
        "loss": evaluation.loss,
        "accuracy": evaluation.accuracy,
        "gradient_norm": gradient_norm,
        "symmetry_error": symmetry,
        **_lists(spectrum),
        "hvp_count": spectrum.krylov_products + spectrum.check_products + checks,
        "krylov_products": spectrum.krylov_products,
        "orthogonality": spectrum.orthogonality,
        "missed_copies": spectrum.missed,
        "unused_parameters": problem.unused_parameters(),
        "trace": None,
        "density": None,
        "domains": domains,
        "layers": None,
        "seed": seed,
        "spec": spec.to_dict(),
        "notes": _notes(spectrum, gradient_norm),
        "seconds": round(time.perf_counter() - started, 3),
    }
    result = Result("hessian", _dataset(record), record, vectors=_named_vectors(problem, spectrum))
    _require_converged(result, spec)
    return result


def _spectrum(problem: Problem, spec: HessianSpec, seed: int) -> Spectrum:
    budget = spec.max_products or max(200, 20 * (spec.top + spec.bottom))
    spectrum = lanczos(
        problem.hvp,
        problem.n_parameters,
        top=spec.top,
        bottom=spec.bottom,
        tol=spec.tol,
        seed=seed,
        max_products=budget,
        device=problem.device,
    )
    report("eigenvalues", spectrum.krylov_products, spectrum.krylov_products)
    return spectrum


def _symmetry_error(problem: Problem, seed: int) -> tuple[float, int]:
    """Estimated relative asymmetry ‖H − Hᵀ‖ / ‖H‖ (Frobenius) from three Rademacher probes, and the products spent.

    Dividing by ‖Hu‖ and not by ‖Hu‖‖v‖ keeps the estimate independent of the number of parameters; the other
    form lets wrong second derivatives pass in large networks.

    Raises:
        NumericalError: If it exceeds 1e-3 (float32) or 1e-6 (float64): some operation's second derivative is wrong.
    """
    generator = torch.Generator().manual_seed(seed + 1)
    probes = [
        (torch.randint(0, 2, (problem.n_parameters,), generator=generator, dtype=torch.float64) * 2 - 1).to(
            problem.device
        )
        for _ in range(3)
    ]
    products = [problem.hvp(u).double() for u in probes]
    norms = [float(torch.linalg.vector_norm(p)) for p in products]
    worst = 0.0
    for i, j in ((0, 1), (0, 2), (1, 2)):
        size = max(norms[i], norms[j])
        if size > 0:
            worst = max(worst, abs(float(probes[i] @ products[j] - probes[j] @ products[i])) / size)
    if worst > _SYMMETRY_LIMIT[problem.dtype]:
        raise NumericalError(
            f"the Hessian-vector products are not symmetric (relative error {worst:.1e})",
            type(problem.model).__name__,
            "an operation of the model has a wrong second derivative (weight_norm?) or its forward is random",
        )
    return worst, len(probes)


def _of_domain(problem: Problem, spec: HessianSpec, seed: int) -> dict[str, Any]:
    evaluation = problem.require_finite()
    spectrum = _spectrum(problem, spec, seed)
    return {
        "n": problem.n_examples,
        "loss": evaluation.loss,
        "accuracy": evaluation.accuracy,
        "gradient_norm": float(torch.linalg.vector_norm(problem.gradient().double())),
        **_lists(spectrum),
        "hvp_count": spectrum.krylov_products + spectrum.check_products,
    }


def _lists(spectrum: Spectrum) -> dict[str, list[Any]]:
    def of(pairs: EigenPairs, prefix: str) -> dict[str, list[Any]]:
        first = "eigenvalues" if not prefix else prefix.rstrip("_")
        return {
            first: pairs.values.tolist(),
            f"{prefix}residuals": pairs.residuals.tolist(),
            f"{prefix}converged": pairs.converged.tolist(),
        }

    return {**of(spectrum.top, ""), **of(spectrum.bottom, "smallest_")}


def _notes(spectrum: Spectrum, gradient_norm: float) -> list[str]:
    notes = []
    top = spectrum.top.values
    if float(top.abs().max()) == 0:
        notes.append("zero operator: the gradient does not change with the weights")
    lowest = float(spectrum.bottom.values[0]) if len(spectrum.bottom.values) else None
    if lowest is not None and lowest < -0.01 * float(top[0].abs()):
        notes.append(f"not a minimum: lambda_min = {lowest:.4g}, gradient norm {gradient_norm:.3g}")
    if spectrum.orthogonality > 1e-6:
        notes.append(f"eigenvectors are orthogonal only to {spectrum.orthogonality:.1e}")
    return notes


def _dataset(record: dict[str, Any]) -> Any:
    import xarray as xr

    def ranked(prefix: str, dimension: str) -> dict[str, Any]:
        first = "eigenvalues" if not prefix else "smallest"
        return {
            first: (dimension, np.array(record[first], dtype=float)),
            f"{prefix}residuals": (dimension, np.array(record[f"{prefix}residuals"], dtype=float)),
            f"{prefix}converged": (dimension, np.array(record[f"{prefix}converged"], dtype=bool)),
        }

    variables = {**ranked("", "rank"), **ranked("smallest_", "rank_from_below")}
    coordinates: dict[str, Any] = {
        "rank": np.arange(1, len(record["eigenvalues"]) + 1),
        "rank_from_below": np.arange(1, len(record["smallest"]) + 1),
    }
    if record["domains"]:
        coordinates["domain"] = list(record["domains"])
        for name in ("eigenvalues", "residuals"):
            table = np.array([d[name] for d in record["domains"].values()], dtype=float)
            variables[f"domain_{name}"] = (("domain", "rank"), table)
    return xr.Dataset(variables, coordinates)


def _named_vectors(problem: Problem, spectrum: Spectrum) -> dict[str, Tensor]:
    named = {}
    for prefix, pairs in (("v", spectrum.top), ("s", spectrum.bottom)):
        for i, vector in enumerate(pairs.vectors, 1):
            named.update({f"{prefix}{i}.{k}": t for k, t in problem.space.named(vector).items()})
    return named


def _require_converged(result: Result, spec: HessianSpec) -> None:
    groups = [result.record, *(result.record["domains"] or {}).values()]
    flags = [f for g in groups for f in (*g["converged"], *g["smallest_converged"])]
    if not all(flags) and not spec.allow_partial:
        raise NotConverged(
            f"{flags.count(False)} of {len(flags)} eigenpairs have a residual above {spec.tol:g}",
            f"after {result['krylov_products']} products",
            "raise --max-products or --tol, use --dtype float64, or accept them with --allow-partial",
            result,
        )
