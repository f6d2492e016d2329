"""``sharpness``: how much the loss rises in a small neighbourhood, by the measures of the field."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from ..errors import NumericalError, UsageError
from ..problem import Problem
from ..registry import MEASURES
from ..result import Result
from ..specs import SharpnessSpec
from ..specs.analysis import DEFAULT_M


def sharpness(
    problem: Problem,
    spec: SharpnessSpec | None = None,
    *,
    seed: int = 0,
    per_domain: bool = False,
    **options: Any,
) -> Result:
    """Measure sharpness at the problem's weights.

    Args:
        problem: Network, loss and examples.
        spec: What to measure; or give its fields as keywords (``m=(1, 16), rho=(0.05,)``).
        seed: Seed of the partition into blocks; the same order serves every ``m``.
        per_domain: Also for the loss of each domain alone.
        **options: Fields of `SharpnessSpec`.

    Returns:
        ``value``, ``stderr`` and ``n_blocks`` over ``(m, rho)``, and the record of the command.

    Raises:
        UsageError: If an ``m`` exceeds the number of examples.
        NumericalError: If a loss is not finite.
    """
    spec = spec or SharpnessSpec(**options)
    started = time.perf_counter()
    evaluation = problem.require_finite()
    measures = _measure(problem, spec, seed)
    domains = (
        {n: _measure(problem.of_domain(n), spec, seed) for n in problem.present_domains()} if per_domain else None
    )
    record = {
        "target": None,
        **problem.describe(),
        "loss": evaluation.loss,
        "accuracy": evaluation.accuracy,
        "measures": measures,
        "domains": {n: {"measures": rows} for n, rows in domains.items()} if domains else None,
        "partition": "one seeded order, stratified by class and domain; a last smaller block is weighted by its size",
        "estimator": "one ascent step",
        "seed": seed,
        "spec": spec.to_dict(),
        "seconds": round(time.perf_counter() - started, 3),
    }
    return Result("sharpness", _dataset(measures, domains), record)


def _measure(problem: Problem, spec: SharpnessSpec, seed: int) -> list[dict[str, Any]]:
    sizes = spec.m or tuple(m for m in DEFAULT_M if m <= problem.n_examples)
    rows = []
    for name in spec.measure:
        for m in sizes:
            if m > problem.n_examples:
                raise UsageError(f"m={m} exceeds the {problem.n_examples} examples", "--m", "use a smaller m")
            found = MEASURES.load(name)(problem, m=m, rhos=spec.rho, p=spec.p, adaptive=spec.adaptive, seed=seed)
            for rho, s in zip(spec.rho, found, strict=True):
                if not np.isfinite(s.value):
                    raise NumericalError(
                        f"{name} with m={m}, rho={rho:g} is {s.value}",
                        "the perturbed loss",
                        "use a smaller --rho",
                    )
                rows.append(
                    {
                        "measure": name,
                        "m": m,
                        "rho": rho,
                        "p": spec.p,
                        "adaptive": spec.adaptive,
                        "value": s.value,
                        "stderr": s.stderr,
                        "n_blocks": s.n_blocks,
                    }
                )
    return rows


def _dataset(measures: list[dict[str, Any]], domains: dict[str, list[dict[str, Any]]] | None) -> Any:
    import xarray as xr

    sizes = list(dict.fromkeys(r["m"] for r in measures))
    rhos = list(dict.fromkeys(r["rho"] for r in measures))

    def table(rows: list[dict[str, Any]], field: str) -> Any:
        out = np.full((len(sizes), len(rhos)), np.nan)
        for r in rows:
            if r["m"] in sizes and r[field] is not None:
                out[sizes.index(r["m"]), rhos.index(r["rho"])] = r[field]
        return out

    variables: dict[str, Any] = {f: (("m", "rho"), table(measures, f)) for f in ("value", "stderr", "n_blocks")}
    coordinates: dict[str, Any] = {"m": sizes, "rho": rhos}
    if domains:
        coordinates["domain"] = list(domains)
        variables["domain_value"] = (
            ("domain", "m", "rho"),
            np.stack([table(r, "value") for r in domains.values()]),
        )
    return xr.Dataset(variables, coordinates)
