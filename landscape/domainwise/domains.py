"""``domains``: every domain's loss and accuracy, their spread, and how the domains' gradients agree."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from ..problem import Problem
from ..progress import report
from ..result import Result
from ..specs import DomainsSpec


def domains(
    problem: Problem,
    spec: DomainsSpec | None = None,
    *,
    seed: int = 0,
    per_domain: bool = True,
    **options: Any,
) -> Result:
    """Look at every domain at the problem's weights.

    Mean, variance (uniform over domains, ddof 0; DISAM's quantity, arXiv 2405.18861 Eq. 7) and range are over
    the domains that were trained on; ``problem.unseen`` names the others, which are listed with ``seen`` false.

    Args:
        problem: Network, loss and examples of one or several domains (data without domains counts as one).
        spec: Nothing to choose yet.
        seed: Nothing is random here.
        per_domain: Always so.
        **options: Fields of `DomainsSpec`.

    Returns:
        ``loss``, ``accuracy``, ``n``, ``seen`` and ``gradient_norm`` over ``domain``, and
        ``gradient_cosine`` over ``(domain, other)``.

    Raises:
        NumericalError: If the loss is not finite.
    """
    spec = spec or DomainsSpec(**options)
    started = time.perf_counter()
    evaluation = problem.require_finite()
    names = list(evaluation.domains)
    gradients = []
    for i, name in enumerate(names):
        part = problem.of_domain(name) if problem.examples.domains else problem
        gradients.append(part.gradient().double().cpu())
        report("gradient per domain", i + 1, len(names))
    norms, cosine = _cosines(torch.stack(gradients))
    seen = [n not in problem.unseen for n in names]
    table = {
        n: {"n": d.n, "loss": d.loss, "accuracy": d.accuracy, "seen": s, "gradient_norm": float(g)}
        for (n, d), s, g in zip(evaluation.domains.items(), seen, norms, strict=True)
    }
    inside = np.array([t["loss"] for t in table.values() if t["seen"]])
    outside = np.array([t["loss"] for t in table.values() if not t["seen"]])
    record = {
        "target": None,
        "split": None,
        **problem.describe(),
        "loss": evaluation.loss,
        "accuracy": evaluation.accuracy,
        "domains": table,
        "loss_mean": float(inside.mean()) if len(inside) else None,
        "loss_variance": float(inside.var()) if len(inside) else None,
        "loss_range": float(np.ptp(inside)) if len(inside) else None,
        "unseen_loss_mean": float(outside.mean()) if len(outside) else None,
        "gradient_cosine": {"names": names, "matrix": cosine.tolist()},
        "spec": spec.to_dict(),
        "seconds": round(time.perf_counter() - started, 3),
    }
    return Result("domains", _dataset(table, names, norms, cosine), record)


def _cosines(gradients: torch.Tensor) -> tuple[Any, Any]:
    """Norms ``(M,)`` and cosines ``(M, M)`` of gradients ``(M, n)``; NaN where a gradient is zero."""
    gram = (gradients @ gradients.T).numpy()
    norms = np.sqrt(np.diag(gram))
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = gram / np.outer(norms, norms)
    return norms, np.clip(cosine, -1, 1)


def _dataset(table: dict[str, Any], names: list[str], norms: Any, cosine: Any) -> Any:
    import xarray as xr

    def column(field: str, kind: type) -> Any:
        return np.array([np.nan if t[field] is None else t[field] for t in table.values()], dtype=kind)

    return xr.Dataset(
        {
            "loss": ("domain", column("loss", float)),
            "accuracy": ("domain", column("accuracy", float)),
            "n": ("domain", column("n", int)),
            "seen": ("domain", column("seen", bool)),
            "gradient_norm": ("domain", norms),
            "gradient_cosine": (("domain", "other"), cosine),
        },
        {"domain": names, "other": names},
    )
