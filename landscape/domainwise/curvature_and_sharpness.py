"""A closer look at each domain: its curvature, its sharpness, and what its ascent does to the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from ..base.progress import report
from ..curvature.hessian import hessian
from ..measures.sharpness import measure
from ..numerics.ascent import ascent_step
from ..problem.problem import Problem
from ..specs import DomainsSpec, HessianSpec, SharpnessSpec

Table = Mapping[str, dict[str, Any]]
PRODUCTS = 200  # Hessian-vector products for each domain's eigenvalue, and for its trace, at most
# Standard error of a trace: a quarter of the products of 10 %. `landscape hessian --per-domain --trace` has a flag.
TRACE_RTOL = 0.2


def curvature(parts: Mapping[str, Problem], table: Table, seed: int) -> list[str]:
    """Add to each domain its largest eigenvalue with residual, and its trace with standard error; return notes."""
    notes = []
    for name, part in parts.items():
        spec = HessianSpec(top=1, trace=True, trace_rtol=TRACE_RTOL, max_products=PRODUCTS, allow_partial=True)
        found = hessian(part, spec, seed=seed)
        table[name] |= {
            "lambda_1": found["eigenvalues"][0],
            "lambda_1_residual": found["residuals"][0],
            "trace": found["trace"]["estimate"],
            "trace_stderr": found["trace"]["stderr"],
        }
        if extreme := found["largest_in_magnitude"]:
            largest = f"largest in magnitude is {extreme['value']:.4g}, which the residual is relative to"
            notes.append(f"{name} is at no minimum: {largest}")
    return notes


def sharpness(
    problem: Problem,
    parts: Mapping[str, Problem],
    gradients: Tensor,
    table: Table,
    spec: DomainsSpec,
    seed: int,
) -> dict[str, Any]:
    """Add to each domain its m-sharpness and gradient variance; measure every domain at every domain's ascent.

    Returns:
        ``cross_sharpness``: the rise of the loss of each domain (columns) at w + rho·g/‖g‖, g the gradient of each
        domain or of all examples of the seen ones (rows); ``perturbed``: the spread of the seen losses at the latter.
    """
    smallest = min(part.n_examples for part in parts.values())
    m = spec.m or (problem.batch_size if problem.loss_over == "batch" else max(1, min(16, smallest // 2)))
    for name, part in parts.items():
        measures = ("m-sharpness",) + (("gradient-variance",) if part.n_examples >= 2 * m else ())
        rows = {
            r["measure"]: r for r in measure(part, SharpnessSpec(measure=measures, m=(m,), rho=(spec.rho,)), seed)
        }
        variance = rows.get("gradient-variance", {})
        table[name] |= {
            "m_sharpness": rows["m-sharpness"]["value"],
            "m_sharpness_stderr": rows["m-sharpness"]["stderr"],
            "gradient_variance": variance.get("value"),
            "gradient_variance_stderr": variance.get("stderr"),
        }
    names = list(parts)
    seen = [i for i, n in enumerate(names) if table[n]["seen"]]
    sources = dict(zip(names, gradients, strict=True))
    if seen:
        weight = np.array([table[names[i]]["weight"] for i in seen], dtype=float)
        sources["seen"] = sum(w * gradients[i] for w, i in zip(weight / weight.sum(), seen, strict=True))
    before = np.array([table[n]["loss"] for n in names])
    losses = []
    for i, gradient in enumerate(sources.values()):
        losses.append(_losses_at(problem, gradient, spec.rho))
        report("cross-domain sharpness", i + 1, len(sources))
    matrix = np.array(losses) - before
    moved = np.array(losses[-1])[seen] if seen else None
    return {
        "m": m,
        "cross_sharpness": {"sources": list(sources), "names": names, "rho": spec.rho, "matrix": matrix.tolist()},
        "perturbed": None
        if moved is None
        else {
            "loss_mean": float(moved.mean()),
            "loss_variance": float(moved.var()),
            "loss_range": float(np.ptp(moved)),
        },
    }


def _losses_at(problem: Problem, gradient: Tensor, rho: float) -> list[float]:
    """Loss of each domain one ascent step along ``gradient`` away."""
    (step,) = ascent_step([gradient], rho)
    with problem.temporary_weights():
        problem.space.write(problem.weights + step.to(problem.weights))
        return [d.loss for d in problem.evaluate().domains.values()]
