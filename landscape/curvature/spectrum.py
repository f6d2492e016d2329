"""One loss looked at from all sides: what its eigenvalues, trace and density share is computed once.

Each start vector of the eigenvalue run is one of the density's, and its products are looked at for symmetry. The
others of the density are probes, orthogonal to what is known by then, and the first samples of the trace, beside the
whole Krylov space of the eigenvalue run.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base.errors import UsageError, argument
from ..base.progress import report
from ..problem.problem import Problem
from ..runtime.devices import sums_on, wide
from ..runtime.distributed import all_reduce_min
from ..runtime.memory import free_memory
from ..runtime.random_state import preserved_random_state, seed_everything
from ..sharding.vectors import own_part
from ..specs import HessianSpec
from .estimators.density import Density, density, run_of
from .estimators.estimates import Estimate
from .estimators.hutchinson import Sampled, sample
from .estimators.probes import Probes
from .estimators.sketches import TRACE_METHODS
from .lanczos.eigenpairs import Spectrum, lanczos
from .lanczos.pairs import EigenPairs
from .operators import Operator
from .product_errors import accuracy_of, compared_derivatives, measured_pairs, product_error, require_possible
from .self_checks import ProductChecks, check_custom_functions, require_equal_passes

DENSITY_PROBES = 4
DENSITY_STEPS = 30
_COMFORTABLE = 64  # basis vectors that hardly any wish for a few pairs exceeds
_ENOUGH = 24  # with fewer, restarts cost more than a basis in host memory, which a device reads ten times slower


@dataclass(frozen=True)
class CurvatureReport:
    """What was found for one loss: of all examples, a domain or a subset, in all or some parameters.

    Attributes:
        record: For the command's object.
        spectrum: Eigenpairs.
        sampled: What random probes told, if they were asked.
        density: The density, if it was asked for.
        facts: How the products were made.
    """

    record: dict[str, Any]
    spectrum: Spectrum
    sampled: Sampled | None
    density: Density | None
    facts: dict[str, Any]


def analyze_spectrum(
    problem: Problem, operator: Operator, spec: HessianSpec, seed: int, *, start: Tensor | None, check: bool
) -> CurvatureReport:
    """Everything about one loss.

    Args:
        problem: Network, loss and examples.
        operator: The problem's curvature matrix.
        spec: What to compute.
        seed: Seed of all random vectors.
        start: Start of the eigenvalue run, ``(n,)``, instead of the first probe.
        check: Check derivatives and symmetry first.

    Raises:
        NumericalError: If the loss is not finite or changes from pass to pass, or the products are not symmetric.
    """
    evaluation = problem.require_finite()
    with preserved_random_state():
        seed_everything(seed, "second pass")
        loss, gradient = problem.loss_and_gradient()
    gradient_norm = float(torch.linalg.vector_norm(wide(gradient)))
    require_equal_passes(evaluation.loss, float(loss), problem)
    device, limit, images = _basis_plan(problem, spec)
    draws = problem.space.draws(device)
    probes = Probes(operator, problem.n_parameters, seed, device, draws)

    def after_first_block() -> float | None:
        if operator.differences is None:
            return check_custom_functions(problem)
        require_possible(operator.differences, spec, problem)
        return None

    checks = compared = None
    if check:
        compared = compared_derivatives(problem, operator, spec.operator)
        right = compared.product is not None and not compared.product.wrong
        note = compared.note(spec.operator)
        checks = ProductChecks(problem, note, right, after_first_block, lambda: accuracy_of(operator))
    spectrum = lanczos(
        operator,
        problem.n_parameters,
        top=spec.top,
        bottom=spec.bottom,
        tol=spec.tol,
        seed=seed,
        max_products=spec.max_products or max(200, 20 * (spec.top + spec.bottom)),
        device=device,
        block=spec.block,
        basis_limit=limit,
        keep_images=images,
        start=start,
        least_steps=DENSITY_STEPS if spec.density else 0,
        draws=draws,
        watch=checks,
    )
    report("eigenvalues", spectrum.krylov_products, spectrum.krylov_products)
    if compared is not None and operator.differences is not None:
        compared = replace(compared, product=None)
    spectrum, product = measured_pairs(spectrum, operator, spec.tol)
    curve = _density(probes, spectrum) if spec.density else None
    sampled, trace = _trace(problem, operator, probes, spectrum, spec, seed)
    record = {
        "n": problem.n_examples,
        "n_parameters": problem.n_parameters,
        "loss": evaluation.loss,
        "accuracy": evaluation.accuracy,
        "gradient_norm": gradient_norm,
        "symmetry_error": checks.symmetry if checks else None,
        "difference_error": checks.difference if checks else None,
        "derivatives": compared.record(spec.operator) if compared else None,
        **_lists(spectrum),
        "product": product,
        "residual_scale": spectrum.scale,
        "largest_in_magnitude": asdict(spectrum.extreme) if spectrum.extreme else None,
        "lambda_ratio": _ratio(spectrum),
        "krylov_products": spectrum.krylov_products,
        "orthogonality": spectrum.orthogonality,
        "missed_copies": spectrum.missed,
        "restarts": spectrum.restarts,
        "trace": {**trace.record(), **product_error(probes, operator)} if trace else None,
        "frobenius_norm": sampled.frobenius.record() if sampled else None,
        "density": _density_record(curve, problem.n_parameters),
        "hvp_count": operator.count,
    }
    facts = {**operator.facts(), "basis_on": str(device), "basis_limit": limit, "basis_products_kept": images}
    return CurvatureReport(record, spectrum, sampled, curve, facts)


def _basis_plan(problem: Problem, spec: HessianSpec) -> tuple[torch.device, int, bool]:
    """Where the basis lives, how many vectors it may hold, and whether its products are kept beside it."""
    wanted = spec.top + spec.bottom
    comfortable, enough = max(_COMFORTABLE, 4 * wanted), max(_ENOUGH, 4 * wanted)

    def rows(device: torch.device) -> int:
        budget = free_memory(device) / 4 if spec.memory is None else spec.memory * 2**30 / 2
        entries = own_part(problem.weights).numel()
        return all_reduce_min(int(budget // (8 * max(1, entries))))  # every process restarts where the others do

    device, host = sums_on(problem.device), torch.device("cpu")
    if device != host and rows(device) < min(enough, rows(host)):
        device = host  # the basis moves to host memory before it is cut down to nothing
    fit = rows(device)
    return (device, fit // 2, True) if fit >= 2 * comfortable else (device, fit, False)


def _density(probes: Probes, spectrum: Spectrum) -> Density:
    before, runs = probes.made, spectrum.runs[:DENSITY_PROBES]
    missing, known = DENSITY_PROBES - len(runs), spectrum.settled.subspace()
    runs += [run_of(probes, i, DENSITY_STEPS, known, done=i, runs=missing) for i in range(missing)]
    return density(runs, probes.n, products=probes.made - before)


def _trace(
    problem: Problem,
    operator: Operator,
    probes: Probes,
    spectrum: Spectrum,
    spec: HessianSpec,
    seed: int,
) -> tuple[Sampled | None, Estimate | None]:
    """The trace (and what comes with it), from probes that the Krylov space does not depend on."""
    if not (spec.trace or spec.diagonal):
        return None, None
    sampled, budget = None, spec.max_products or 1000
    if spec.diagonal or spec.trace_method == "hutchinson":
        sampled = sample(
            probes,
            rtol=spec.trace_rtol,
            known=spectrum.known,
            diagonal=spec.diagonal,
            max_probes=budget,
        )
        report("trace", sampled.trace.samples, sampled.trace.samples)
    if spec.trace_method == "hutchinson":
        return sampled, sampled.trace if sampled else None
    method = TRACE_METHODS[spec.trace_method]
    if problem.in_pieces:
        fix = "use `trace_method='hutchinson'`"
        raise UsageError("it decomposes matrices of whole vectors", argument("trace_method", spec.trace_method), fix)
    found = method(operator, probes.n, rtol=spec.trace_rtol, seed=seed + 1, max_products=budget, device=probes.device)
    report("trace", found.products, found.products)
    return sampled, found


# -- for the record --------------------------------------------------------------------------------------------------


def _ratio(spectrum: Spectrum) -> float | None:
    """lambda_1 / lambda_5, the bulk's measure of the SAM paper (arXiv 2010.01412, figure 3)."""
    values = spectrum.top.values
    return float(values[0] / values[4]) if len(values) >= 5 and float(values[4]) > 0 else None


def _lists(spectrum: Spectrum) -> dict[str, list[object]]:
    def of(pairs: EigenPairs, prefix: str) -> dict[str, list[Any]]:
        first = "eigenvalues" if not prefix else prefix.rstrip("_")
        return {
            first: pairs.values.tolist(),
            f"{prefix}residuals": pairs.residuals.tolist(),
            f"{prefix}converged": pairs.converged.tolist(),
        }

    return {**of(spectrum.top, ""), **of(spectrum.bottom, "smallest_")}


def _density_record(found: Density | None, n: int) -> dict[str, object] | None:
    if found is None:
        return None
    probes = len(found.nodes)
    moments = [found.moment(power) for power in (1, 2)]
    return {
        "nodes": np.concatenate(found.nodes).tolist(),
        "weights": (np.concatenate(found.weights) / probes).tolist(),
        "probes": probes,
        "nodes_per_probe": [len(t) for t in found.nodes],
        "sigma": found.sigma,
        "trace": {"estimate": n * moments[0][0], "stderr": n * moments[0][1]},
        "squared_frobenius_norm": {"estimate": n * moments[1][0], "stderr": n * moments[1][1]},
        "negative_mass": {
            "estimate": found.negative_mass[0],
            "stderr": found.negative_mass[1],
            "below": -found.sigma,
        },
        "hvp_count": found.products,
    }
