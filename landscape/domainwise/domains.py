"""``domains``: every domain's loss and accuracy, their spread, and how the domains' gradients agree."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..base.errors import UsageError
from ..data.examples import Examples
from ..problem.problem import Problem
from ..problem.require import require_problem
from ..results.result import Result
from ..runtime.caller_context import computing
from ..specs import DomainsSpec
from .curves import FIELDS, along, curves, number
from .metrics import look


@computing()
def domains(
    problem: Problem,
    spec: DomainsSpec | None = None,
    *,
    seed: int = 0,
    per_domain: bool = True,
    splits: Mapping[str, Examples] | None = None,
    checkpoints: Mapping[int, Path] | None = None,
    **options: object,
) -> Result:
    """Look at every domain at the problem's weights, or along a training.

    Mean, variance (uniform over domains, ddof 0; DISAM's quantity, arXiv 2405.18861 Eq. 7) and range are over
    the domains that were trained on; ``problem.unseen`` names the others, which are listed with ``seen`` false.

    Args:
        problem: Network, loss and examples of one or several domains (data without domains counts as one).
        spec: How close to look; or give its fields as keywords (``sharpness=True, rho=0.1``).
        seed: Seed of partitions, start vectors and probes.
        per_domain: Always so.
        splits: Further splits, of which losses and accuracies are taken.
        checkpoints: For ``curves``: checkpoint files by training step.
        **options: Fields of `DomainsSpec`.

    Returns:
        Over ``domain``: ``loss`` and ``accuracy`` with intervals, ``n``, ``seen``, ``gradient_norm``,
        ``disam_weight`` and what else was asked for; ``gradient_cosine`` over ``(domain, other)``;
        ``cross_sharpness`` over ``(source, domain)``; ``split_loss`` and ``split_accuracy`` over
        ``(split, domain)``. With ``curves`` a result of kind ``domain-curves``: the same over ``(step, domain)``,
        ``normalized_loss``, and mean, variance and range over ``step``.

    Raises:
        UsageError: If curves are asked for without checkpoints.
        NumericalError: If a loss is not finite.

    Example:
        >>> import torch, landscape
        >>> data = {name: (torch.randn(9, 4), torch.arange(9) % 3) for name in ("art", "photo")}
        >>> problem = landscape.Problem(torch.nn.Linear(4, 3), data, "cross_entropy")
        >>> found = landscape.domains(problem)
        >>> list(found["domains"])
        ['art', 'photo']
    """
    require_problem(problem, "domains")
    spec = spec or DomainsSpec.from_options(**options)
    started = time.perf_counter()
    others = splits or {}
    if spec.curves:
        if not checkpoints or len(checkpoints) < 2:
            raise UsageError(
                "curves need at least two checkpoints of a run", "`curves=`", "train with `save_every=`, name a run"
            )
        walk = [(step, look(here, spec, seed, others)) for step, here in along(problem, checkpoints)]
        steps, points = [step for step, _ in walk], [point for _, point in walk]
        data = curves(steps, points)
        lists = {str(k): {"dims": list(map(str, v.dims)), "values": v.values.tolist()} for k, v in data.items()}
        more = {"curves": {"step": steps, **lists}}
    else:
        points, more = [look(problem, spec, seed, others)], {}
        data = _dataset(points[0])
    record = {
        "target": None,
        "split": None,
        **problem.describe(),
        **points[-1],
        **more,
        "seed": seed,
        "spec": spec.to_dict(),
        "seconds": round(time.perf_counter() - started, 3),
    }
    return Result("domain-curves" if spec.curves else "domains", data, record)


def _dataset(point: Mapping[str, Any]) -> object:
    import xarray as xr

    table = point["domains"]
    names = list(table)

    def column(field: str, rows: Mapping[str, Any]) -> Any:
        return np.array([number(rows.get(n, {}).get(field)) for n in names])

    over: dict[str, Any] = {
        f: ("domain", column(f, table))
        for f in (*FIELDS, "accuracy_low", "accuracy_high", "m_sharpness_stderr", "lambda_1_residual", "trace_stderr")
        if any(f in row for row in table.values())
    }
    over["n"] = ("domain", np.array([row["n"] for row in table.values()], dtype=int))
    over["seen"] = ("domain", np.array([row["seen"] for row in table.values()], dtype=bool))
    over["gradient_cosine"] = (("domain", "other"), np.array(point["gradient_cosine"]["matrix"], dtype=float))
    coordinates: dict[str, Any] = {"domain": names, "other": names}
    if point["cross_sharpness"]:
        over["cross_sharpness"] = (("source", "domain"), np.array(point["cross_sharpness"]["matrix"]))
        coordinates["source"] = point["cross_sharpness"]["sources"]
    if point["splits"]:
        coordinates["split"] = list(point["splits"])
        for field in ("loss", "accuracy"):
            stacked = np.stack([column(field, s["domains"]) for s in point["splits"].values()])
            over[f"split_{field}"] = (("split", "domain"), stacked)
    return xr.Dataset(over, coordinates)
