"""``hessian``: eigenvalues, trace and density of a curvature matrix of the mean loss, and how far to trust them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..base.errors import NumericalError, UsageError, argument
from ..base.progress import report
from ..problem.problem import Problem
from ..problem.require import require_problem
from ..results.result import Result
from ..runtime.caller_context import computing
from ..runtime.distributed import is_distributed
from ..specs import HessianSpec
from .lanczos.journal import Journal
from .lanczos.warm_start import stored_start
from .operators import Operator, operator_of
from .parameter_groups import parameter_groups
from .product_errors import way_out
from .second_opinion import cross_check
from .spectrum import CurvatureReport, analyze_spectrum
from .stored import dataset, named_vectors, notes


class NotConverged(NumericalError):
    """The budget ended before every wanted pair met the tolerance; ``result`` holds what there is."""

    def __init__(self, what: str, where: str, fix: str, result: Result) -> None:
        super().__init__(what, where, fix)
        self.result = result


@computing()
def hessian(
    problem: Problem,
    spec: HessianSpec | None = None,
    *,
    seed: int = 0,
    per_domain: bool = False,
    store: Path | None = None,
    **options: object,
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
        UsageError: If as many pairs are asked for as there are parameters, more subsets than examples, or blocks of a
            network that repeats none.

    Example:
        >>> import torch, landscape
        >>> x, y = torch.randn(20, 4), torch.arange(20) % 3
        >>> problem = landscape.Problem(torch.nn.Linear(4, 3), (x, y), "cross_entropy")
        >>> found = landscape.hessian(problem, top=2, trace=True)
        >>> len(found["eigenvalues"]), all(found["converged"])
        (2, True)
    """
    require_problem(problem, "hessian")
    spec = spec or HessianSpec.from_options(**options)
    _check_wishes(problem, spec)
    groups = parameter_groups(problem.model, problem.space.names, spec.grouping) if spec.grouping else None
    started = time.perf_counter()
    start = stored_start(spec.warm_start, problem) if spec.warm_start else None
    journal = Journal(store, alone=not (is_distributed() or problem.in_pieces))

    def part(name: str, problem: Problem, spec: HessianSpec = spec) -> dict[str, Any]:
        return _part(problem, spec, seed, journal, name).record

    with journal.until_interrupted():
        with journal.of(_operator(problem, spec, seed), "whole") as operator:
            whole = analyze_spectrum(problem, operator, spec, seed, start=start, check=True)
            opinions = {
                name: cross_check(name, problem, operator, top=spec.top, scale=whole.spectrum.scale, seed=seed)
                for name in spec.cross_check
            }
            count = operator.count
        domains = (
            {n: part(f"domain {n}", problem.restrict_to_domain(n)) for n in problem.present_domains()}
            if per_domain
            else None
        )
        layers = (
            {n: part(f"layer {n}", problem.restrict_to_parameters(names)) for n, names in groups.items()}
            if groups
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
        "group_by": spec.grouping,
        "subsamples": subsamples,
        "cross_check": opinions or None,
        "seed": seed,
        "spec": spec.to_dict(),
        "notes": [*notes(problem, whole, spec), *_outside(whole.record, layers or {})],
        "seconds": round(time.perf_counter() - started, 3),
    }
    result = Result("hessian", dataset(record, whole.density), record, vectors=named_vectors(problem, whole, spec))
    _require_converged(result, spec, journal)
    return result


def _check_wishes(problem: Problem, spec: HessianSpec) -> None:
    n = problem.n_parameters
    for wish in ("warm_start", "cross_check"):
        if problem.in_pieces and getattr(spec, wish):
            flag = argument(wish)
            raise UsageError("it holds whole vectors in one process", f"{flag} of a sharded model", f"drop {flag}")
    for name in ("top", "bottom"):
        if getattr(spec, name) >= n:
            raise UsageError(
                f"{name}={getattr(spec, name)}", argument(name), f"expected fewer than the {n} parameters"
            )
    if spec.subsamples and spec.subsamples > problem.n_examples:
        raise UsageError(
            f"{spec.subsamples} disjoint subsets of {problem.n_examples} examples", "`subsamples=`", "ask for fewer"
        )


def _operator(problem: Problem, spec: HessianSpec, seed: int) -> Operator:
    memory = None if spec.memory is None else int(spec.memory * 2**30 / 2)  # the other half is the basis'
    return operator_of(
        problem, spec.operator, memory=memory, seed=seed, samples=spec.label_samples, unit=spec.unit or "example"
    )


def _part(problem: Problem, spec: HessianSpec, seed: int, journal: Journal, name: str) -> CurvatureReport:
    """The same for a domain, a layer or a subset, where fewer parameters may ask for fewer pairs."""
    n = problem.n_parameters
    fitting = spec.with_(top=min(spec.top, n), bottom=min(spec.bottom, n))
    with journal.of(_operator(problem, spec, seed), name) as operator:
        return analyze_spectrum(problem, operator, fitting, seed, start=None, check=False)


_BEYOND = 0.01  # of an eigenvalue: far more than a converged pair is off


def _outside(whole: dict[str, Any], layers: dict[str, dict[str, Any]]) -> list[str]:
    """A sentence where a layer's eigenvalue lies beyond the whole's, which no diagonal block's does (Cauchy).

    A loose tolerance is relative to the largest eigenvalue in magnitude, so that where the other end is larger by far
    a run may stop before it has seen the end that was asked for.
    """
    said = []
    for name, sign, end in (("eigenvalues", 1, "largest"), ("smallest", -1, "smallest")):
        if not whole[name]:
            continue
        bound = sign * whole[name][0]
        beyond = {k: d for k, d in layers.items() if d[name] and sign * d[name][0] > bound + _BEYOND * abs(bound)}
        if beyond:
            k, d = max(beyond.items(), key=lambda item: sign * item[1][name][0])
            said.append(
                f"the {end} eigenvalue of {k} alone, {d[name][0]:.4g}, lies beyond that of the whole, "
                f"{whole[name][0]:.4g}, which cannot be: the whole's run stopped before it saw that end; lower `tol=`"
            )
    return said


def _subsamples(
    problem: Problem, spec: HessianSpec, seed: int, part: Callable[[str, Problem, HessianSpec], dict[str, Any]]
) -> dict[str, object]:
    """Every quantity on disjoint subsets of equal size, stratified: how much the choice of examples matters."""
    count = spec.subsamples or 0
    size = problem.n_examples // count
    order = problem.examples.stratified_order(seed)
    views = []
    for k in range(count):
        report("subsets", k, count)
        members = np.sort(order[k * size : (k + 1) * size])
        views.append(
            part(f"subset {k}", problem.restrict_to_examples(members), spec.with_(density=False, diagonal=False))
        )

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


def _require_converged(result: Result, spec: HessianSpec, journal: Journal) -> None:
    groups = [result.record, *(result.record["domains"] or {}).values(), *(result.record["layers"] or {}).values()]
    flags = [f for g in groups for f in (*g["converged"], *g["smallest_converged"])]
    if not all(flags) and not spec.allow_partial:
        journal.write()  # a larger budget goes on from here
        raise NotConverged(
            f"{flags.count(False)} of {len(flags)} eigenpairs have a residual above {spec.tol:g}",
            f"after {result['krylov_products']} products",
            way_out(groups, spec)
            or "raise `max_products=` or `tol=`, use `dtype='float64'`, or accept them with `allow_partial=True`",
            result,
        )
