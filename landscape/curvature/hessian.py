"""``hessian``: eigenvalues, trace and density of a curvature matrix of the mean loss, and how far to trust them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..distributed import least
from ..errors import NumericalError, UsageError
from ..memory import free_memory
from ..parameters import preserved_random_state, seed_everything
from ..problem import Problem
from ..progress import report
from ..result import Result
from ..specs import HessianSpec
from .density import Density, density, run_of
from .estimates import TRACE_METHODS, Estimate, Known, Probes, Sampled, sample
from .journal import Journal
from .lanczos import EigenPairs, Spectrum, lanczos
from .operators import Operator, operator_of
from .second_opinion import cross_check
from .self_checks import check_custom_functions, require_equal_passes, symmetry_error
from .warm_start import stored_start

DENSITY_PROBES = 4
DENSITY_STEPS = 30
_COMFORTABLE = 64  # basis vectors that hardly any wish for a few pairs exceeds


class NotConverged(NumericalError):
    """The budget ended before every wanted pair met the tolerance; ``result`` holds what there is."""

    def __init__(self, what: str, where: str, fix: str, result: Result) -> None:
        super().__init__(what, where, fix)
        self.result = result


@dataclass
class _View:
    """What was found for one loss: of all examples, a domain or a subset, in all or some parameters."""

    record: dict[str, Any]
    spectrum: Spectrum
    sampled: Sampled | None
    density: Density | None
    facts: dict[str, Any]


def hessian(
    problem: Problem,
    spec: HessianSpec | None = None,
    *,
    seed: int = 0,
    per_domain: bool = False,
    store: Path | None = None,
    **options: Any,
) -> Result:
    """Curvature of the mean loss over the problem's examples: eigenvalues from either end, trace, density.

    Args:
        problem: Network, loss and examples.
        spec: What to compute; or give its fields as keywords (``top=5, trace=True``).
        seed: Seed of start vectors and probes.
        per_domain: Also for the loss of each domain alone.
        store: Folder in which products are kept as they are made, so that a killed computation goes on.
        **options: Fields of `HessianSpec`.

    Returns:
        ``eigenvalues``, ``residuals`` and ``converged`` over ``rank`` (descending), ``smallest...`` likewise
        (ascending), and the record of the command; eigenvectors as ``v1.NAME...`` and ``s1.NAME...`` in `vectors`.

    Raises:
        NotConverged: If a pair missed the tolerance within the budget, unless ``allow_partial``.
        NumericalError: If the loss is not finite or changes from pass to pass, or the products are not symmetric.
        UsageError: If as many pairs are asked for as there are parameters, or more subsets than examples.
    """
    spec = spec or HessianSpec(**options)
    _check_wishes(problem, spec)
    started = time.perf_counter()
    start = stored_start(spec.warm_start, problem) if spec.warm_start else None
    journal = Journal(store)

    def part(name: str, problem: Problem, spec: HessianSpec = spec) -> dict[str, Any]:
        return _part(problem, spec, seed, journal, name).record

    with journal.until_interrupted():
        with journal.of(_operator(problem, spec, seed), "whole") as operator:
            whole = _look(problem, operator, spec, seed, start=start, check=True)
            scale = _scale(whole.spectrum)
            opinions = {
                name: cross_check(name, problem, operator, top=spec.top, scale=scale, seed=seed)
                for name in spec.cross_check
            }
            count = operator.count
        domains = (
            {n: part(f"domain {n}", problem.of_domain(n)) for n in problem.present_domains()} if per_domain else None
        )
        layers = (
            {n: part(f"layer {n}", problem.of_parameters(names)) for n, names in _layers(problem).items()}
            if spec.per_layer
            else None
        )
        subsamples = _subsamples(problem, spec, seed, part) if spec.subsamples else None
    record = {
        "target": None,
        "operator": spec.operator,
        **problem.describe(),
        **whole.record,
        "hvp_count": count,
        "products": whole.facts,
        "unused_parameters": problem.unused_parameters(),
        "domains": domains,
        "layers": layers,
        "subsamples": subsamples,
        "cross_check": opinions or None,
        "seed": seed,
        "spec": spec.to_dict(),
        "notes": _notes(problem, whole, spec),
        "seconds": round(time.perf_counter() - started, 3),
    }
    result = Result("hessian", _dataset(record, whole.density), record, vectors=_named_vectors(problem, whole))
    _require_converged(result, spec, journal)
    return result


def _check_wishes(problem: Problem, spec: HessianSpec) -> None:
    n = problem.n_parameters
    for name in ("top", "bottom"):
        if getattr(spec, name) >= n:
            raise UsageError(f"{name}={getattr(spec, name)}", f"--{name}", f"expected fewer than the {n} parameters")
    if spec.subsamples and spec.subsamples > problem.n_examples:
        raise UsageError(
            f"{spec.subsamples} disjoint subsets of {problem.n_examples} examples", "--subsamples", "ask for fewer"
        )


def _operator(problem: Problem, spec: HessianSpec, seed: int) -> Operator:
    memory = None if spec.memory is None else int(spec.memory * 2**30 / 2)  # the other half is the basis'
    return operator_of(problem, spec.operator, memory=memory, seed=seed, samples=spec.label_samples)


def _basis_plan(problem: Problem, spec: HessianSpec) -> tuple[torch.device, int, bool]:
    """Where the basis lives, how many vectors it may hold, and whether its products are kept beside it."""
    wanted = spec.top + spec.bottom
    comfortable = max(_COMFORTABLE, 4 * wanted)

    def rows(device: torch.device) -> int:
        budget = free_memory(device) / 4 if spec.memory is None else spec.memory * 2**30 / 2
        return least(int(budget // (8 * problem.n_parameters)))  # every process restarts where the others do

    device, host = problem.device, torch.device("cpu")
    if device != host and rows(device) < comfortable and least(free_memory(host)) / 4 > rows(device) * 8:
        device = host  # the basis moves to host memory before it is cut down
    fit = rows(device)
    return (device, fit // 2, True) if fit >= 2 * comfortable else (device, fit, False)


def _look(
    problem: Problem, operator: Operator, spec: HessianSpec, seed: int, *, start: Tensor | None, check: bool
) -> _View:
    """Everything about one loss, from shared probes.

    The first starts the eigenvalue run, the next ones serve the symmetry check, the density and the trace.
    """
    evaluation = problem.require_finite()
    with preserved_random_state():
        seed_everything(seed, "second pass")
        loss, gradient = problem.loss_and_gradient()
    gradient_norm = float(torch.linalg.vector_norm(gradient.double()))
    require_equal_passes(evaluation.loss, float(loss), problem)
    device, limit, images = _basis_plan(problem, spec)
    probes = Probes(operator, problem.n_parameters, seed, device)
    symmetry = difference = None
    if check:
        symmetry = symmetry_error(probes, problem)
        difference = check_custom_functions(problem)
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
        start_image=probes.product(0, keep=True) if check and start is None else None,
        least_steps=DENSITY_STEPS if spec.density else 0,
    )
    report("eigenvalues", spectrum.krylov_products, spectrum.krylov_products)
    curve = _density(probes, spectrum, started_with_probe=start is None) if spec.density else None
    sampled, trace = _trace(operator, probes, spectrum, spec, seed)
    record = {
        "n": problem.n_examples,
        "n_parameters": problem.n_parameters,
        "loss": evaluation.loss,
        "accuracy": evaluation.accuracy,
        "gradient_norm": gradient_norm,
        "symmetry_error": symmetry,
        "difference_error": difference,
        **_lists(spectrum),
        "lambda_ratio": _ratio(spectrum),
        "krylov_products": spectrum.krylov_products,
        "orthogonality": spectrum.orthogonality,
        "missed_copies": spectrum.missed,
        "restarts": spectrum.restarts,
        "trace": trace.record() if trace else None,
        "frobenius_norm": sampled.frobenius.record() if sampled else None,
        "density": _density_record(curve, problem.n_parameters),
        "hvp_count": operator.count,
    }
    facts = {**operator.facts(), "basis_on": str(device), "basis_limit": limit, "basis_products_kept": images}
    return _View(record, spectrum, sampled, curve, facts)


def _part(problem: Problem, spec: HessianSpec, seed: int, journal: Journal, name: str) -> _View:
    """The same for a domain, a layer or a subset, where fewer parameters may ask for fewer pairs."""
    n = problem.n_parameters
    fitting = spec.with_(top=min(spec.top, n), bottom=min(spec.bottom, n))
    with journal.of(_operator(problem, spec, seed), name) as operator:
        return _look(problem, operator, fitting, seed, start=None, check=False)


def _density(probes: Probes, spectrum: Spectrum, *, started_with_probe: bool) -> Density:
    before = probes.made
    runs = [spectrum.recursion] if started_with_probe else []
    for index in range(len(runs), DENSITY_PROBES):
        report("density", index, DENSITY_PROBES)
        runs.append(run_of(probes, index, DENSITY_STEPS))
    return density(runs, products=probes.made - before)


def _trace(
    operator: Operator, probes: Probes, spectrum: Spectrum, spec: HessianSpec, seed: int
) -> tuple[Sampled | None, Estimate | None]:
    """The trace (and what comes with it), from probes that the eigenvectors do not depend on."""
    if not (spec.trace or spec.diagonal):
        return None, None
    sampled = None
    if spec.diagonal or spec.trace_method == "hutchinson":
        values = torch.cat([spectrum.top.values, spectrum.bottom.values])
        vectors = torch.cat([spectrum.top.vectors, spectrum.bottom.vectors])
        apart = 2 * len(values) < probes.n and spectrum.orthogonality < 1e-8  # else the ends share vectors
        known = Known(values, vectors) if apart else None
        sampled = sample(
            probes,
            rtol=spec.trace_rtol,
            first=1,
            known=known,
            diagonal=spec.diagonal,
            max_probes=spec.max_products or 1000,
        )
        report("trace", sampled.trace.samples, sampled.trace.samples)
    if spec.trace_method == "hutchinson":
        return sampled, sampled.trace if sampled else None
    method = TRACE_METHODS[spec.trace_method]
    budget = spec.max_products or 1000
    found = method(operator, probes.n, rtol=spec.trace_rtol, seed=seed + 1, max_products=budget, device=probes.device)
    return sampled, found


def _layers(problem: Problem) -> dict[str, list[str]]:
    """Parameters by the module that holds them."""
    groups: dict[str, list[str]] = {}
    for name in problem.space.names:
        module = name.split(".parametrizations.")[0] if ".parametrizations." in name else name.rpartition(".")[0]
        groups.setdefault(module or name, []).append(name)
    return groups


def _subsamples(
    problem: Problem, spec: HessianSpec, seed: int, part: Callable[[str, Problem, HessianSpec], dict[str, Any]]
) -> dict[str, Any]:
    """Every quantity on disjoint subsets of equal size, stratified: how much the choice of examples matters."""
    count = spec.subsamples or 0
    size = problem.n_examples // count
    order = problem.examples.stratified_order(seed)
    views = []
    for k in range(count):
        report("subsets", k, count)
        members = np.sort(order[k * size : (k + 1) * size])
        views.append(part(f"subset {k}", problem.of_examples(members), spec.with_(density=False, diagonal=False)))

    def spread(values: list[Any]) -> dict[str, Any]:
        table = np.array(values, dtype=float)
        return {"mean": table.mean(0).tolist(), "std": table.std(0, ddof=1).tolist(), "values": table.tolist()}

    found: dict[str, Any] = {"count": count, "size": size}
    for name in ("loss", "gradient_norm", "eigenvalues", "smallest"):
        found[name] = spread([v[name] for v in views])
    if spec.trace:
        found["trace"] = spread([v["trace"]["estimate"] for v in views])
    found["converged"] = all(all(v["converged"]) and all(v["smallest_converged"]) for v in views)
    found["hvp_count"] = sum(v["hvp_count"] for v in views)
    return found


def _scale(spectrum: Spectrum) -> float:
    values = torch.cat([spectrum.top.values, spectrum.bottom.values])
    return float(values.abs().max())


def _ratio(spectrum: Spectrum) -> float | None:
    """lambda_1 / lambda_5, the bulk's measure of the SAM paper (arXiv 2010.01412, figure 3)."""
    values = spectrum.top.values
    return float(values[0] / values[4]) if len(values) >= 5 and float(values[4]) > 0 else None


def _lists(spectrum: Spectrum) -> dict[str, list[Any]]:
    def of(pairs: EigenPairs, prefix: str) -> dict[str, list[Any]]:
        first = "eigenvalues" if not prefix else prefix.rstrip("_")
        return {
            first: pairs.values.tolist(),
            f"{prefix}residuals": pairs.residuals.tolist(),
            f"{prefix}converged": pairs.converged.tolist(),
        }

    return {**of(spectrum.top, ""), **of(spectrum.bottom, "smallest_")}


def _density_record(found: Density | None, n: int) -> dict[str, Any] | None:
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
        "negative_mass": {"estimate": found.negative_mass[0], "stderr": found.negative_mass[1]},
        "hvp_count": found.products,
    }


def _notes(problem: Problem, view: _View, spec: HessianSpec) -> list[str]:
    notes, spectrum = [], view.spectrum
    top = spectrum.top.values
    if _scale(spectrum) == 0:
        notes.append("zero operator: the gradient does not change with the weights")
    lowest = float(spectrum.bottom.values[0]) if len(spectrum.bottom.values) else None
    if lowest is not None and lowest < -0.01 * float(top[0].abs()):
        notes.append(f"not a minimum: lambda_min = {lowest:.4g}, gradient norm {view.record['gradient_norm']:.3g}")
    if spectrum.orthogonality > 1e-6:
        notes.append(f"eigenvectors are orthogonal only to {spectrum.orthogonality:.1e}")
    if problem.dtype == torch.float32 and spec.tol < 1e-5:
        notes.append("residuals below 1e-5 are near the accuracy of float32 products; use --dtype float64")
    if view.record["trace"] and not view.record["trace"]["converged"]:
        notes.append("the trace's standard error did not reach --trace-rtol within the budget")
    if problem.replaced:
        notes.append(
            f"computed in an equal form with a right second derivative: {', '.join(sorted(problem.replaced))}"
        )
    return notes


def _dataset(record: dict[str, Any], curve: Density | None) -> Any:
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
    for part in ("domain", "layer"):
        views = record[f"{part}s"]
        if not views:
            continue
        coordinates[part] = list(views)
        for name in ("eigenvalues", "residuals"):
            table = np.full((len(views), len(record["eigenvalues"])), np.nan)
            for row, view in zip(table, views.values(), strict=True):
                row[: len(view[name])] = view[name]
            variables[f"{part}_{name}"] = ((part, "rank"), table)
    if curve is not None:
        coordinates["curvature"] = curve.grid
        variables["density"] = ("curvature", curve.curve)
        variables["density_stderr"] = ("curvature", curve.stderr)
        variables["density_nodes"] = ("node", np.concatenate(curve.nodes))
        variables["density_weights"] = ("node", np.concatenate(curve.weights) / len(curve.nodes))
        variables["density_probe"] = ("node", np.repeat(np.arange(len(curve.nodes)), [len(t) for t in curve.nodes]))
    return xr.Dataset(variables, coordinates)


def _named_vectors(problem: Problem, view: _View) -> dict[str, Tensor]:
    rows = [
        *((f"v{i}", v) for i, v in enumerate(view.spectrum.top.vectors, 1)),
        *((f"s{i}", v) for i, v in enumerate(view.spectrum.bottom.vectors, 1)),
    ]
    if view.sampled is not None and view.sampled.diagonal is not None and view.sampled.diagonal_stderr is not None:
        rows += [("diagonal", view.sampled.diagonal), ("diagonal_stderr", view.sampled.diagonal_stderr)]
    return {f"{prefix}.{k}": t for prefix, row in rows for k, t in problem.space.named(row).items()}


def _require_converged(result: Result, spec: HessianSpec, journal: Journal) -> None:
    groups = [result.record, *(result.record["domains"] or {}).values(), *(result.record["layers"] or {}).values()]
    flags = [f for g in groups for f in (*g["converged"], *g["smallest_converged"])]
    if not all(flags) and not spec.allow_partial:
        journal.write()  # a larger budget goes on from here
        raise NotConverged(
            f"{flags.count(False)} of {len(flags)} eigenpairs have a residual above {spec.tol:g}",
            f"after {result['krylov_products']} products",
            "raise --max-products or --tol, use --dtype float64, or accept them with --allow-partial",
            result,
        )
