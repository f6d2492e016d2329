"""Everything about the domains at one point: losses with intervals, their spread, gradients, DISAM's weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..base.progress import report
from ..data.examples import Examples
from ..data.loss_values import NoTarget
from ..numerics.intervals import mean_and_stderr, mean_interval, share_interval
from ..problem.checks.derivatives import derivatives
from ..problem.evaluation import Evaluation
from ..problem.problem import Problem
from ..runtime.devices import wide
from ..specs import DomainsSpec
from .curvature_and_sharpness import curvature, sharpness

Array = NDArray[np.float64]


def look(problem: Problem, spec: DomainsSpec, seed: int, splits: Mapping[str, Examples]) -> dict[str, Any]:
    """Look at every domain at the problem's weights.

    Args:
        problem: Network, loss and examples; ``problem.unseen`` names the domains that were not trained on.
        spec: How close to look.
        seed: Seed of partitions, start vectors and probes.
        splits: Further splits, of which losses and accuracies are taken.

    Raises:
        NumericalError: If the loss is not finite.
    """
    evaluation = problem.require_finite()
    table = losses(problem, evaluation)
    names = list(table)
    parts = {n: problem.restrict_to_domain(n) if problem.examples.domains else problem for n in names}
    gradients = _gradients(parts)
    norms, cosine = cosines(gradients)
    seen = np.array([table[n]["seen"] for n in names])
    for name, norm in zip(names, norms, strict=True):
        table[name]["gradient_norm"] = float(norm)
    weights, notes = disam_weights(table, spec.lam)
    for name in names:
        table[name]["disam_weight"] = weights.get(name)
    compared = derivatives(problem, product=spec.curvature).record("hessian" if spec.curvature else "gradient")
    found = {
        "loss": evaluation.loss,
        "accuracy": evaluation.accuracy,
        "domains": table,
        **spread(table),
        "gradient_cosine": {"names": names, "matrix": cosine.tolist()},
        "conflict": conflict(cosine[np.ix_(seen, seen)]),
        "conflict_all": conflict(cosine),
        "disam_lambda": spec.lam,
        "splits": {},
        "cross_sharpness": None,
        "perturbed": None,
        "derivatives": compared,
        "notes": [*notes, *filter(None, [compared["note"]])],
    }
    for split, examples in splits.items():
        try:
            found["splits"][split] = _of_split(problem.with_examples(examples, f"split {split!r}"))
        except NoTarget as error:  # a test split often has no labels; the others need not wait for them
            found["notes"].append(f"split {split} is left out: {error.what}")
    if spec.sharpness:
        found |= sharpness(problem, parts, gradients, table, spec, seed)
    if spec.curvature:
        found["notes"] += curvature(parts, table, seed)
    return found


def losses(problem: Problem, evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    """Loss and accuracy of each domain that has examples, with 95 % intervals over its examples.

    The interval of a loss is Student's, of an accuracy Wilson's; a loss that gives only means has none.

    Args:
        problem: Network, loss and examples.
        evaluation: Of the problem at its present weights.
    """
    values, weights = problem.example_losses(), problem.example_weights()
    each = None if values is None else wide(values).cpu().numpy()
    weight = np.ones(problem.n_examples) if weights is None else wide(weights).cpu().numpy()
    table = {}
    for name, d in evaluation.domains.items():
        members = problem.examples.domain == problem.examples.domain_names.index(name)
        share = weight[members] / max(weight[members].sum(), 1e-300)
        stderr = None if each is None else mean_and_stderr(each[members], share)[1]
        low, high = mean_interval(d.loss, stderr, int(np.count_nonzero(share)))
        worst, best = share_interval(d.accuracy, d.trials)
        table[name] = {
            "n": d.n,
            "loss": d.loss,
            "loss_low": low,
            "loss_high": high,
            "accuracy": d.accuracy,
            "accuracy_low": worst,
            "accuracy_high": best,
            "seen": name not in problem.unseen,
            "weight": d.weight,
        }
    return table


def spread(table: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Mean, variance (uniform over domains, ddof 0), range and worst domain of the seen ones; mean of the others.

    The variance is DISAM's quantity (arXiv 2405.18861, Eq. 7).
    """
    seen = {n: t for n, t in table.items() if t["seen"]}
    inside = np.array([t["loss"] for t in seen.values()])
    outside = np.array([t["loss"] for t in table.values() if not t["seen"]])
    scored = {n: t["accuracy"] for n, t in seen.items() if t["accuracy"] is not None}
    return {
        "loss_mean": float(inside.mean()) if len(inside) else None,
        "loss_variance": float(inside.var()) if len(inside) else None,
        "loss_range": float(np.ptp(inside)) if len(inside) else None,
        "worst_domain": {
            "loss": max(seen, key=lambda n: seen[n]["loss"]) if seen else None,
            "accuracy": min(scored, key=lambda n: scored[n]) if scored else None,
        },
        "unseen_loss_mean": float(outside.mean()) if len(outside) else None,
    }


def _of_split(problem: Problem) -> dict[str, object]:
    table = losses(problem, problem.evaluate())
    return {"domains": table, **spread(table)}


def _gradients(parts: Mapping[str, Problem]) -> Tensor:
    """Gradient of each domain's mean loss, ``(domains, n_parameters)``, float64 on the CPU."""
    found = []
    for i, part in enumerate(parts.values()):
        found.append(wide(part.gradient()).cpu())
        report("gradient per domain", i + 1, len(parts))
    return torch.stack(found)


def cosines(gradients: Tensor) -> tuple[Array, Array]:
    """Norms of rows ``(M, n)`` and their cosines ``(M, M)``; NaN where a gradient is zero."""
    norms = torch.linalg.vector_norm(gradients, dim=1)
    cosine = (gradients @ gradients.T) / torch.outer(norms, norms)
    return norms.numpy(), cosine.clamp(-1, 1).numpy()


def conflict(cosine: Array) -> dict[str, Any]:
    """How many pairs of domains have gradients with a negative cosine; a pair with a zero gradient is none."""
    pairs = [cosine[i, j] for i, j in combinations(range(len(cosine)), 2) if np.isfinite(cosine[i, j])]
    against = sum(c < 0 for c in pairs)
    return {"pairs": len(pairs), "conflicting": against, "share": against / len(pairs) if pairs else None}


def disam_weights(table: Mapping[str, Mapping[str, Any]], lam: float) -> tuple[dict[str, float], Sequence[str]]:
    """DISAM's weight of each seen domain in its ascent, beta_i = n_i/N − (2·lambda/M)(L_i − L̄); they sum to 1.

    Source: arXiv 2405.18861, Eq. 6 to 8. A single weight may be negative, which the notes say.
    """
    seen = {n: t for n, t in table.items() if t["seen"]}
    if not seen:
        return {}, []
    total = sum(t["weight"] for t in seen.values())
    middle = float(np.mean([t["loss"] for t in seen.values()]))
    factor = 2 * lam / len(seen)
    weights = {n: t["weight"] / total - factor * (t["loss"] - middle) for n, t in seen.items()}
    negative = [n for n, b in weights.items() if b < 0]
    told = f"DISAM's weight is negative for {', '.join(negative)}: its ascent lowers that loss"
    return weights, [told] if negative else []
