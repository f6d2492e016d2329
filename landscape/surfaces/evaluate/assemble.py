"""From the passes over a grid to what is stored: named arrays, and a record with every self-check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...problem.evaluation import Evaluation
from ...problem.problem import Problem
from ...specs import SurfaceSpec
from .. import topology
from ..checks import axis_checks, value_checks
from ..directions.direction import Direction
from .metrics import Variables, point_metrics


@dataclass(frozen=True)
class PlanePasses:
    """What was evaluated where.

    Attributes:
        dims: Names of the leading dimensions of ``sums``.
        values: Axis values by name.
        sums: As `landscape.problem.evaluation.batch_sums` gives them, ``(*dims, 5, columns)``.
        evaluated: Which points were evaluated and not interpolated, over ``dims``; None: all.
    """

    dims: tuple[str, ...]
    values: dict[str, Any]
    sums: Any
    evaluated: Any | None = None


def picture(
    problem: Problem,
    spec: SurfaceSpec,
    seed: int,
    axes: Sequence[Direction],
    passes: PlanePasses,
    *,
    plain: Evaluation,
    centre: float,
    test: Problem | None,
) -> tuple[Variables, dict[str, Any], dict[str, Any]]:
    """Variables and coordinates for an xarray dataset, and what surfaces and planes record alike.

    Args:
        problem: Network, loss and examples.
        spec: What was asked for.
        seed: Of the directions.
        axes: The directions.
        passes: The sums at every point.
        plain: The plain evaluation of the network.
        centre: The loss at the centre, as the surface sees it.
        test: The problem of the test split, if its sums are there.
    """
    variables, coordinates = point_metrics(problem, passes.sums, passes.dims, spec.metrics, test)
    if passes.evaluated is not None:
        variables["evaluated"] = (passes.dims, passes.evaluated)
    # Checked is the training loss, also where only other metrics are stored.
    loss = point_metrics(problem, passes.sums, passes.dims, ("loss",), test)[0]["loss"][1]
    points = passes.evaluated.sum() if passes.evaluated is not None else np.size(loss)
    record = {
        "target": None,
        **problem.describe(),
        "kind": f"{spec.dim}d",
        "shape": list(loss.shape),
        "axes": [d.record() for d in axes],
        "directions": None,
        **axis_checks(problem, axes),
        "plain_loss": plain.loss,
        "center_loss": centre,
        "accuracy": plain.accuracy,
        **value_checks(loss, passes.values, centre, passes.evaluated),
        "metrics": [v for v in variables if v != "evaluated"],
        "domains": problem.present_domains() or None,
        "evaluated_points": int(points),
        "topology": topology.describe(loss, passes.evaluated) if spec.dim == 2 else None,
        "test_examples": test.n_examples if test else None,
        "test_data_hash": test.data_hash if test else None,
        "seed": seed,
        "spec": spec.to_dict(),
    }
    return variables, coordinates, record
