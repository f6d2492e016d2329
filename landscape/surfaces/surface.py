"""``surface``: the loss along one or two stored directions, on a grid, with its self-checks."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import NumericalError
from ..evaluation import evaluation_from_sums
from ..problem import Problem
from ..progress import report
from ..result import Result
from ..specs import SurfaceSpec
from ..weights import weights_hash
from .directions import Direction, draw


def axis_values(points: int, reach: float) -> Any:
    """``points`` values from -reach to reach, exactly symmetric, and exactly 0 in the middle of an odd count.

    ``numpy.linspace`` promises neither: its middle is off by rounding for some counts.
    """
    steps = 2 * np.arange(points) - (points - 1)
    return reach * steps / (points - 1)


def surface(
    problem: Problem,
    spec: SurfaceSpec | None = None,
    *,
    seed: int = 0,
    per_domain: bool = False,
    **options: Any,
) -> Result:
    """Evaluate loss and accuracy at w + x·d1 (+ y·d2).

    Every point is computed from the saved weights, never by walking, and running statistics stay those of the
    checkpoint (``bn_policy`` keep). Losses per domain come from the same forward pass. NaN and infinities stay
    what they are.

    Args:
        problem: Network, loss and examples.
        spec: Grid and directions; or give its fields as keywords (``points=21, direction=("filter",)``).
        seed: Seed of the directions; the same seed gives the same directions for every network of this shape.
        per_domain: Not needed here: losses per domain are always stored.
        **options: Fields of `SurfaceSpec`.

    Returns:
        ``loss``, ``accuracy``, ``domain_loss`` and ``domain_variance`` over ``(y, x)``, or over ``x``, or over
        ``(repeat, x)`` for repeated 1-D slices.

    Raises:
        NumericalError: If the loss at the centre is not finite, or two evaluations of the centre differ.
    """
    spec = spec or SurfaceSpec(**options)
    started = time.perf_counter()
    before = weights_hash(problem.model)
    plain = problem.require_finite()
    directions = [draw(problem, kind, seed, i) for i, kind in enumerate(spec.axes)]
    if spec.dim == 1:
        directions += [draw(problem, spec.axes[0], seed, i) for i in range(1, spec.repeats)]
    values = axis_values(spec.points, spec.range)
    with problem.excursion() as tensors:
        walker = _Walker(problem, tensors)
        walker.at([])  # moves the random state on, so that a forward that draws from it gives itself away
        centre = evaluation_from_sums(walker.at([]), problem.examples.domain_names)
        if spec.dim == 2:
            grid = walker.plane(values, directions[0], directions[1])
        else:
            grid = np.stack([walker.line(values, d) for d in directions])
            grid = grid[0] if spec.repeats == 1 else grid
    if abs(centre.loss - plain.loss) > 1e-6 * max(1.0, abs(plain.loss)):
        raise NumericalError(
            f"two evaluations of the centre differ ({plain.loss:.6g} and {centre.loss:.6g})",
            type(problem.model).__name__,
            "its forward is random even in eval mode",
        )
    data = _dataset(problem, spec, values, grid)
    size = float(torch.linalg.vector_norm(problem.weights.double()))
    record = {
        "target": None,
        **problem.describe(),
        "kind": f"{spec.dim}d",
        "shape": list(data["loss"].shape),
        "axes": [{"direction": d.kind, "norm": d.norm, "seed": d.seed, "axis": d.axis} for d in directions],
        "directions": None,
        "cosine": directions[0].cosine(directions[1]) if spec.dim == 2 else None,
        "relative_norm": directions[0].norm / size if size else None,
        "plain_loss": plain.loss,
        "center_loss": centre.loss,
        "accuracy": plain.accuracy,
        "minimum": float(np.nanmin(data["loss"])) if np.isfinite(data["loss"]).any() else None,
        "nan_cells": int(np.isnan(data["loss"]).sum()),
        "infinite_cells": int(np.isinf(data["loss"]).sum()),
        "fixed_parameters": _fixed(problem),
        "restored": weights_hash(problem.model) == before,
        "bn_policy": "keep",
        "batchnorm_layers": sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in problem.model.modules()),
        "metrics": list(data.data_vars),
        "domains": problem.present_domains() or None,
        "seed": seed,
        "spec": spec.to_dict(),
        "seconds": round(time.perf_counter() - started, 3),
    }
    names = problem.space.names
    vectors = {f"d{i}.{n}": t for i, d in enumerate(directions, 1) for n, t in zip(names, d.tensors, strict=True)}
    return Result("surface", data, record, vectors=vectors)


class _Walker:
    """Puts the weights anywhere and evaluates there; points are computed from the centre each time."""

    def __init__(self, problem: Problem, tensors: list[Tensor]) -> None:
        self.problem, self.tensors = problem, tensors
        self.centre = problem.space.split(problem.weights)

    def at(self, moves: list[tuple[float, list[Tensor]]], base: list[Tensor] | None = None) -> Tensor:
        """The pass's sums ``(3, domains)`` at base + Σ step · direction."""
        torch._foreach_copy_(self.tensors, base or self.centre)
        for step, direction in moves:
            torch._foreach_add_(self.tensors, direction, alpha=step)
        return self.problem.sums()

    def line(self, values: Any, direction: Direction) -> Any:
        """Sums along a line, ``(points, 3, domains)``."""
        rows = []
        for i, x in enumerate(values):
            rows.append(self.at([(float(x), direction.tensors)]))
            report("slice", i + 1, len(values))
        return torch.stack(rows).cpu().numpy()

    def plane(self, values: Any, first: Direction, second: Direction) -> Any:
        """Sums over a plane, ``(points, points, 3, domains)``, rows along the second direction."""
        rows = []
        for j, y in enumerate(values):
            base = torch._foreach_add(self.centre, second.tensors, alpha=float(y))
            rows.append(torch.stack([self.at([(float(x), first.tensors)], list(base)) for x in values]).cpu())
            report("surface", j + 1, len(values))
        return torch.stack(rows).numpy()


def _fixed(problem: Problem) -> int:
    """How many parameters the random directions leave alone (frozen ones, and those of one dimension or less)."""
    moved = sum(t.numel() for t in problem.space.tensors if t.ndim > 1)
    return sum(p.numel() for p in problem.model.parameters()) - moved


def _dataset(problem: Problem, spec: SurfaceSpec, values: Any, grid: Any) -> Any:
    import xarray as xr

    dims = ("y", "x") if spec.dim == 2 else ("x",) if spec.repeats == 1 else ("repeat", "x")
    losses, right, counts = (np.moveaxis(grid, -2, 0)[i] for i in range(3))
    n = counts.sum(-1)
    with np.errstate(invalid="ignore"):
        variables: dict[str, Any] = {"loss": (dims, losses.sum(-1) / n)}
        if not np.isnan(right).all():
            variables["accuracy"] = (dims, right.sum(-1) / n)
        coordinates: dict[str, Any] = {"x": values}
        if spec.dim == 2:
            coordinates["y"] = values
        present = problem.present_domains()
        if present:
            columns = [problem.examples.domain_index(d) for d in present]
            per_domain = np.moveaxis(losses[..., columns] / counts[..., columns], -1, 0)
            coordinates["domain"] = present
            variables["domain_loss"] = (("domain", *dims), per_domain)
            variables["domain_variance"] = (dims, per_domain.var(0))
    return xr.Dataset(variables, coordinates)
