"""A start vector from the stored eigenvectors of a nearby checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ...base.errors import DataError, UsageError
from ...problem.problem import Problem
from ...results.result import Result
from ...runtime.devices import wide


def stored_start(path: str, problem: Problem) -> Tensor:
    """The sum of the eigenvectors of a stored ``hessian`` result, ``(n,)``, float64.

    A Krylov run from it begins in the span of the old eigenvectors, which is where the new ones nearly lie.

    Args:
        path: The stored result, ``hessian-KEY.nc``.
        problem: Whose parameters the vectors must match.

    Raises:
        UsageError: If it is no ``hessian`` result, was stored without vectors, or is of other parameters.
        DataError: If the vectors beside it are missing or damaged.
    """
    result = Result.load(path)
    if result.kind != "hessian":
        raise UsageError(f"this is a {result.kind} result", f"`warm_start={path!r}`", "name a hessian result")
    if not (result.record.get("spec") or {}).get("vectors", True):
        fix = "compute it without `vectors=False`"
        raise UsageError("it was stored without its eigenvectors", f"`warm_start={path!r}`", fix)
    file = Path(path).absolute().with_suffix(".safetensors")
    try:
        stored = load_file(file)
    except (OSError, SafetensorError) as error:
        raise DataError(f"its eigenvectors cannot be read: {error}", str(file), "compute it again") from error
    total = torch.zeros(problem.n_parameters, dtype=torch.float64)
    for prefix in sorted({name.partition(".")[0] for name in stored}):
        if prefix[0] not in "vs" or not prefix[1:].isdigit():
            continue
        parts = [stored.get(f"{prefix}.{name}") for name in problem.space.names]
        if any(p is None or tuple(p.shape) != s for p, s in zip(parts, problem.space.shapes, strict=True)):
            raise UsageError(
                "its eigenvectors belong to other parameters",
                f"`warm_start={path!r}`",
                "name a result of the same network and the same `params=`",
            )
        total += torch.cat([wide(p.reshape(-1)) for p in parts if p is not None])
    if not bool(torch.isfinite(total).all()) or float(torch.linalg.vector_norm(total)) == 0:
        raise DataError("its eigenvectors are not finite, or there is none", str(file), "compute it again")
    return total
